"""What MODEL names on the command line, as one object: a run, an ONNX file, a public checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from facerec import checkpoint
from facerec.backbones.base import Backbone
from facerec.backbones.families import FAMILIES
from facerec.backbones.public import load_public
from facerec.confidence import ConfidenceHead
from facerec.config import TrainConfig
from facerec.data.shards import DataError, Shards
from facerec.onnx_backbone import OnnxBackbone
from facerec.threshold import Threshold, from_metadata
from facerec.tree import in_section
from facerec.values import one_of

IMAGE_SIZE = 112  # pixels: the field's aligned faces, where nothing says another size


@dataclass(frozen=True)
class Model:
    """A model that measures and compares.

    Attributes:
        backbone: In evaluation mode, on the CPU.
        image_size: Side in pixels of the aligned images that it was made for.
        trained_on: Folder of the shards that it learnt from, empty where unknown.
        threshold: None where the model has none; a run folder has none.
        colours: Where the file is another's checkpoint, the order that its authors fed, which is
            worth a check (`facerec.evaluation.colours`); else empty.
        notes: Sentences to show.
    """

    backbone: Backbone
    image_size: int
    trained_on: str = ""
    threshold: Threshold | None = None
    colours: str = ""
    notes: tuple[str, ...] = ()

    def check_aligned(self, place: Path, width: int, height: int) -> None:
        """Refuse images that are not aligned faces of the model's size.

        Args:
            place: The image, or the prepared set, for the sentence.
            width: In pixels.
            height: In pixels.

        Raises:
            DataError: Another size.
        """
        size = self.image_size
        if (width, height) != (size, size):
            raise DataError(
                f"{place}: {width} x {height} pixels, but the model takes aligned faces of "
                f"{size} x {size}: alignment is needed first (eyes, nose and mouth moved to the "
                "template's places and cropped). --align of facerec verify and embed does that, "
                "python -m data_prep align SRC DST for a folder"
            )


def open_model(path: Path, device: torch.device | str = "cpu", family: str | None = None) -> Model:
    """Open a run folder (or one of its checkpoints), an ONNX file or a public checkpoint.

    Args:
        path: What MODEL or RUN names; a file that ends in `.onnx` is an ONNX file, any other file
            another's checkpoint.
        device: Where a backbone goes; an ONNX file runs on the CPU.
        family: Key of `FAMILIES`: whose checkpoint it is, where its tensors do not tell.

    Raises:
        ConfigError: It is none of them.
    """
    if family is not None:
        in_section("", lambda: one_of("--family", family, tuple(FAMILIES)))
    if path.suffix == ".onnx":
        served = OnnxBackbone(path)
        return Model(
            served.eval(),
            served.input_size,
            _trained_on(served.metadata),
            from_metadata(served.metadata),
        )
    if path.is_file():
        backbone, found = in_section("", lambda: load_public(str(path), family))
        facts = found.facts
        about = (
            f"{path}: {facts.authors}'s {found.backbone}, {found.embedding_size} numbers, trained "
            f"on {facts.colours}"
        )
        return Model(
            backbone.to(device),
            max(IMAGE_SIZE, backbone.input_size),
            colours=facts.colours,
            notes=(about, *found.notes),
        )
    config, backbone = checkpoint.load_backbone(path)
    size = image_size(training_shards(config), backbone)
    return Model(backbone.eval().to(device), size, config.data.train)


def open_confidence(path: Path, device: torch.device | str = "cpu") -> ConfidenceHead | None:
    """Open the confidence head of what MODEL names; None where it has none, as files do.

    Args:
        path: As `open_model` takes it.
        device: Where it goes.

    Raises:
        ConfigError: It is no run.
    """
    if path.is_file() or path.suffix == ".onnx":
        return None
    head = checkpoint.load_confidence(path)
    return None if head is None else head.eval().to(device)


def training_shards(config: TrainConfig) -> Shards | None:
    """Open the shards that a run learnt from; None where they are no longer there."""
    if not config.data.train:
        return None
    try:
        return Shards(config.data.train)
    except DataError:
        return None


def image_size(shards: Shards | None, backbone: Backbone) -> int:
    """Side in pixels of the aligned images that a run is made for.

    Args:
        shards: What it learnt from; without them the field's 112 pixels are meant.
        backbone: Its network, which may run at a smaller size.
    """
    return shards.image_size[0] if shards else max(IMAGE_SIZE, backbone.input_size)


def _trained_on(metadata: dict[str, str]) -> str:
    try:
        return str(json.loads(metadata["config"])["data.train"])
    except (KeyError, ValueError, TypeError):
        return ""
