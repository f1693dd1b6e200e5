"""A run's backbone as an ONNX file: compared with PyTorch before the file gets its name.

PyTorch's older exporter (`dynamo=False`) writes opset 11, which insightface's own exporter uses
too and the oldest server still reads; no further package is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from facerec import checkpoint, mfr, model_card
from facerec.backbones.base import Backbone
from facerec.config import ConfigError, TrainConfig, published
from facerec.data.shards import DataError, Shards
from facerec.data.writer import sync
from facerec.evaluation import metrics
from facerec.model import image_size, training_shards
from facerec.onnx_backbone import NORMALISATION, OnnxBackbone
from facerec.threshold import Threshold, learn, open_set, to_metadata
from facerec.tree import in_section
from facerec.values import one_of
from facerec.version import commit, version

TARGETS = ("generic", "mfr")
INPUT, OUTPUT = "data", "embedding"  # as insightface's exporter calls the first
OPSET = 11
BATCHES = (1, 2, 7, 32)
LIMIT = 1e-4  # largest difference from PyTorch, as a share of the largest number it gives

# x, y in pixels of an image of 112 x 112: eyes, nose, corners of the mouth, left before right.
_TEMPLATE = (
    *((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366)),
    *((41.5493, 92.3655), (70.7299, 92.2041)),
)


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        file: The ONNX file.
        zipped: The zip for the server beside it, with `mfr`.
        difference: Largest difference from PyTorch, as a share of the largest number it gives.
        threshold: What the file's metadata name; None where nothing could be measured.
        notes: Sentences to show.
    """

    file: Path
    zipped: Path | None
    difference: float
    threshold: Threshold | None
    notes: tuple[str, ...]


def export(
    run: Path,
    file: Path,
    *,
    target: str = "generic",
    threshold_set: Path | None = None,
    far: str | None = None,
    device: torch.device | str = "cpu",
) -> Exported:
    """Write a run's backbone as an ONNX file, and the run's model card anew.

    The file takes float32 RGB (batch, 3, S, S), normalised by (x - 127.5) / 127.5, and gives
    embeddings (batch, D), not normalised. Its metadata say how images come to this form, which
    threshold goes with it, and where the weights came from. It is written aside, compared with
    PyTorch through onnxruntime at batches of 1, 2, 7 and 32, and only then renamed; a failure
    leaves nothing behind.

    Args:
        run: Run folder, or one of its checkpoints.
        file: Where the model goes; ends in `.onnx`.
        target: `generic`, at the size of the images that the run learnt from; or `mfr`, at 112
            pixels, kept only if the rules of ICCV21-MFR and MFR-Ongoing are met (`facerec.mfr`),
            with the zip that the server wants beside it.
        threshold_set: Prepared set, with known identities, that the threshold is measured on; the
            `val` split of the run's own shards where left out.
        far: Its false accept rate, a name of `metrics.FARS`; where left out, 1e-3 or, if the set
            has too few impostor pairs for that, 1e-2.
        device: Where the threshold is measured.

    Raises:
        ConfigError: No such run, no such target, a file that cannot be written, a difference above
            `LIMIT`, or a rule of the server that is not met.
        DataError: A threshold set that cannot give the threshold.
    """
    in_section("", lambda: one_of("--target", target, TARGETS))
    if far is not None:
        in_section("", lambda: one_of("--far", str(far), tuple(metrics.FARS)))
    if file.suffix != ".onnx":
        raise ConfigError(f"{file}: the name of an exported model ends in .onnx")
    if not file.parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.parent}")
    folder = checkpoint.find(run)
    config, backbone = checkpoint.load_backbone(run)
    shards = training_shards(config)
    size = mfr.IMAGE_SIZE if target == "mfr" else image_size(shards, backbone)
    if size < backbone.input_size:
        raise ConfigError(
            f"--target {target}: the backbone runs at {backbone.input_size} pixels, the server "
            f"gives {size}"
        )
    threshold, notes = None, []
    if threshold_set is not None or (shards is not None and "val" in shards.index["splits"]):
        item = open_set(shards, threshold_set, backbone)
        threshold, note = learn(item, backbone.to(device), far, device)
        if threshold is None and (threshold_set is not None or far is not None):
            raise DataError(note)
        notes += [note] if note else []
    elif far is not None:
        raise ConfigError(f"--far {far}: give --threshold-set SET; the run's own has no val split")
    if threshold is None:
        notes.append("no threshold: facerec verify will not decide; --threshold-set SET gives one")
    metadata = _facts(config, folder, shards, backbone, size)
    metadata |= to_metadata(threshold) if threshold else {}
    backbone.to("cpu").eval()
    content = to_onnx(backbone, size, metadata)
    zipped = file.with_suffix(".zip") if target == "mfr" else None
    difference, found = _publish(content, file, zipped, backbone, size)
    exported = Exported(file, zipped, difference, threshold, (*notes, *found))
    model_card.write(folder.parent.parent, exported=_for_card(exported, content, target, size))
    return exported


def _facts(
    config: TrainConfig,
    checkpoint_folder: Path,
    shards: Shards | None,
    backbone: Backbone,
    size: int,
) -> dict[str, str]:
    """What the file says of itself, but for its threshold."""
    index: Mapping[str, Any] = shards.index if shards else {}
    alignment = str(index.get("alignment", "unknown"))
    points = [[round(v * size / mfr.IMAGE_SIZE, 4) for v in point] for point in _TEMPLATE]
    return {
        "colour_order": "RGB",
        "normalisation": NORMALISATION,
        "image_size": str(size),
        "embedding_size": str(backbone.embedding_size),
        "alignment": alignment,
        "alignment_template": json.dumps(points) if "ArcFace" in alignment else "unknown",
        "backbone": config.backbone.name,
        "loss": config.loss.name,
        "config": json.dumps(published(config)),
        "training_set": str(index["source"].get("name", "")) if "source" in index else "unknown",
        "training_set_sha256": model_card.file_sha256(shards.path / "index.json") if shards else "",
        "step": str(int(checkpoint_folder.name)),
        "weights_sha256": model_card.file_sha256(checkpoint_folder / model_card.WEIGHTS),
        "version": version(),
        "commit": commit() or "unknown",
    }


class _PlainAttention(TorchFunctionMode):
    """Writes attention as products and a softmax: its fused form is no operator of opset 11."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, or for the fused attention the same in plain operators."""
        if func is F.scaled_dot_product_attention:
            query, key, value = args
            scores: Tensor = query @ key.transpose(-2, -1) * int(query.shape[-1]) ** -0.5
            return scores.softmax(-1) @ value
        return func(*args, **(kwargs or {}))


def to_onnx(backbone: Backbone, size: int, metadata: Mapping[str, str]) -> bytes:
    """Write a backbone as ONNX, weights inside.

    Args:
        backbone: On the CPU, in evaluation mode.
        size: Side in pixels of the images that the model takes; it shrinks them by itself.
        metadata: What the model says of itself.
    """
    example = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        backbone(example)  # makes the matrix that shrinks images: traced, it would be 2,400 nodes
    file = io.BytesIO()
    with warnings.catch_warnings(), _PlainAttention():
        warnings.simplefilter("ignore")  # the exporter's own: it is old, and it traces
        torch.onnx.export(
            backbone,
            (example,),
            file,  # type: ignore[arg-type]  # its annotation knows paths only
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    model = onnx.load_from_string(file.getvalue())
    model.producer_name, model.producer_version = "facerec", version()
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _publish(
    content: bytes, file: Path, zipped: Path | None, backbone: Backbone, size: int
) -> tuple[float, tuple[str, ...]]:
    """Write aside, check, make durable, rename; gives the largest difference, and remarks."""
    aside = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in (zipped, file) if path}
    notes: tuple[str, ...] = ()
    try:
        aside[file].write_bytes(content)
        served = OnnxBackbone(aside[file])
        difference = compare(backbone, served, size)
        if zipped is not None:
            notes = mfr.check(aside[file], lambda images: served(torch.from_numpy(images)).numpy())
            mfr.pack(aside[file], aside[zipped], file.name)
        for final, part in aside.items():
            sync(part)
            part.replace(final)
        sync(file.parent)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from None
    finally:
        for part in aside.values():
            part.unlink(missing_ok=True)
    return difference, notes


def compare(backbone: Backbone, served: Backbone, size: int) -> float:
    """Hold two models against each other on drawn images, in every batch size of `BATCHES`.

    Args:
        backbone: What is right, in evaluation mode.
        served: What is compared with it.
        size: Side of the images in pixels.

    Returns:
        The largest difference, as a share of the largest number that `backbone` gives.

    Raises:
        ConfigError: It is above `LIMIT`, or not a finite number.
    """
    worst = 0.0
    for batch in BATCHES:
        drawn = np.random.default_rng(batch).uniform(-1, 1, (batch, 3, size, size))
        images = torch.from_numpy(drawn.astype(np.float32))
        with torch.no_grad():
            wanted, found = backbone(images), served(images)
        if not bool(torch.isfinite(wanted).all()):
            raise ConfigError("the run's own embeddings are not finite: nothing was written")
        if found.shape != wanted.shape:
            raise ConfigError(
                f"the exported model gives {tuple(found.shape)} for a batch of {batch}, PyTorch "
                f"{tuple(wanted.shape)}: nothing was written"
            )
        difference = float((found - wanted).abs().max() / wanted.abs().max())
        if not difference <= LIMIT:
            raise ConfigError(
                f"the exported model differs from PyTorch by {difference:.3g} of the largest "
                f"number at batch {batch}; the limit is {LIMIT:g}: nothing was written"
            )
        worst = max(worst, difference)
    return worst


def _for_card(exported: Exported, content: bytes, target: str, size: int) -> dict[str, str]:
    """The rows of the model card about this file."""
    return {
        "file": exported.file.name,
        "target": target,
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": f"{INPUT}: float32 (batch, 3, {size}, {size}), RGB, {NORMALISATION}",
        "largest difference from PyTorch": f"{exported.difference:.2g} of the largest number",
        "threshold": str(exported.threshold or "none"),
    }
