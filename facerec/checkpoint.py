"""What is saved of a run, and how it comes back.

A run folder holds `config.json`, `metrics.parquet` and `checkpoints/<step>/` with the backbone, the
head and the optimizer's state as safetensors, and `state.json`. Tensors with a class axis are
saved whole, whatever the number of workers, and cut again for the workers that load them. A
checkpoint is written aside, fsynced and renamed, so a folder of that name is always complete; the
last one stays, older ones go.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from facerec import backbones, config
from facerec.backbones.base import Backbone
from facerec.confidence import ConfidenceHead
from facerec.config import ConfigError, TrainConfig
from facerec.data.writer import sync, write_json
from facerec.head import Head, build_head
from facerec.losses import LOSSES
from facerec.losses.scf import ConfidenceLikelihood
from facerec.parallel import ClassShard

VERSION = 1


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: Epochs that are over.
        images_seen: Images of the present epoch that were used, over all workers.
        step: Steps that are over, in all.
        seconds: Wall-clock seconds of training and evaluation, over all interruptions.
        train_seconds: The part of `seconds` spent in training steps during the present epoch.
        sums: Sums over the present epoch's images: loss, its terms, correct answers.
    """

    epoch: int = 0
    images_seen: int = 0
    step: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)


def save(
    run: Path,
    progress: Progress,
    backbone: Backbone,
    head: Head,
    optimizer: torch.optim.Optimizer,
) -> Path:
    """Write `run/checkpoints/<step>`; every worker calls it, rank 0 writes.

    Returns:
        The checkpoint's folder.
    """
    final = run / "checkpoints" / f"{progress.step:08d}"
    head_state = {
        name: head.shard.collect(tensor) if name in head.class_axis else tensor
        for name, tensor in head.state_dict().items()
    }
    momentum = {
        f"{name}|{key}": head.shard.collect(tensor) if whole else tensor
        for name, key, tensor, whole in _optimizer_tensors(backbone, head, optimizer)
    }
    if head.shard.rank == 0 and not final.exists():
        aside = final.with_name(f".{final.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _write(aside / "backbone.safetensors", backbone.state_dict())
        _write(aside / "head.safetensors", head_state)
        _write(aside / "optimizer.safetensors", momentum)
        write_json(aside / "state.json", {"version": VERSION, **asdict(progress)})
        sync(aside)
        os.rename(aside, final)
        sync(final.parent)
        for other in final.parent.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)
    return final


def load(
    folder: Path,
    backbone: Backbone,
    head: Head,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Restore a run from a checkpoint's folder, on any number of workers.

    Raises:
        ConfigError: Where a file is missing or damaged, or a tensor is missing or of another
            shape (another backbone, loss or number of classes): never a silent new start.
    """
    state = _state(folder)
    _fill(backbone, _read(folder / "backbone.safetensors"), folder)
    saved_head = _read(folder / "head.safetensors")
    for name in head.class_axis:
        if name in saved_head and len(saved_head[name]) != head.shard.num_classes:
            raise ConfigError(
                f"{folder}: holds {len(saved_head[name])} classes, the data has "
                f"{head.shard.num_classes}; resume with the shards that it was trained on"
            )
    cut = {
        name: head.shard.cut(tensor) if name in head.class_axis else tensor
        for name, tensor in saved_head.items()
    }
    _fill(head, cut, folder)
    momentum = _read(folder / "optimizer.safetensors")
    for name, parameter in _named_parameters(backbone, head):
        for key in [key for key in momentum if key.split("|")[0] == name]:
            tensor = momentum[key]
            if _has_class_axis(name, head) and tensor.dim():
                tensor = head.shard.cut(tensor)
            target = parameter.device if tensor.dim() else "cpu"
            optimizer.state[parameter][key.split("|")[1]] = tensor.to(target)
    return Progress(**state)


def start_from(path: Path, backbone: Backbone, head: Head) -> None:
    """Take the backbone and the centers of another run, whatever its loss.

    Raises:
        ConfigError: Where it is no run, or one of another backbone, embedding size or number of
            classes.
    """
    folder = find(path)
    _fill(backbone, _read(folder / "backbone.safetensors"), folder)
    centers = _read(folder / "head.safetensors")["centers"]
    if len(centers) != head.shard.num_classes:
        raise ConfigError(
            f"init_from = {path}: has {len(centers)} classes, the data has "
            f"{head.shard.num_classes}; give a run on the same identities"
        )
    with torch.no_grad():
        head.centers.copy_(head.shard.cut(centers))


def latest(run: Path) -> Path | None:
    """Give the newest checkpoint of a run folder, None where there is none."""
    folders = [folder for folder in (run / "checkpoints").glob("[0-9]*") if folder.is_dir()]
    return max(folders, key=lambda folder: int(folder.name), default=None)


def find(path: Path) -> Path:
    """Give the checkpoint that RUN names: a run folder, or one of its checkpoints.

    Raises:
        ConfigError: Where it is neither.
    """
    if (path / "state.json").is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run folder")
    folder = latest(path)
    if folder is None:
        inside = [c.parent for c in sorted(path.glob("*/config.json"))]
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise ConfigError(f"{path}: not a run folder (it has no checkpoints/<step>){hint}")
    return folder


def load_backbone(path: Path) -> tuple[TrainConfig, Backbone]:
    """Build the backbone of a run with its trained weights, on the CPU.

    Args:
        path: A run folder, or one of its checkpoints.

    Raises:
        ConfigError: Where it is not one.
    """
    folder = find(path)
    saved = config.load(folder.parent.parent / "config.json")
    backbone = backbones.build(
        saved.backbone.name, saved.backbone.args, embedding_size=saved.head.embedding_size
    )
    _fill(backbone, _read(folder / "backbone.safetensors"), folder)
    return saved, backbone


def load_confidence(path: Path) -> ConfidenceHead | None:
    """Build the confidence head of a run with its trained weights, on the CPU.

    Args:
        path: A run folder, or one of its checkpoints.

    Returns:
        None where the run's loss trains no confidence.

    Raises:
        ConfigError: Where it is no run.
    """
    folder = find(path)
    saved = config.load(folder.parent.parent / "config.json")
    if LOSSES[saved.loss.name].objective is not ConfidenceLikelihood:
        return None
    tensors = _read(folder / "head.safetensors")
    shard = ClassShard(len(tensors["centers"]), 0, 1)
    head = build_head(saved.loss, shard, saved.head.embedding_size)
    _fill(head, tensors, folder)
    assert isinstance(head, ConfidenceHead)
    return head


def _named_parameters(backbone: Backbone, head: Head) -> Iterator[tuple[str, nn.Parameter]]:
    for prefix, module in (("backbone", backbone), ("head", head)):
        for name, parameter in module.named_parameters():
            yield f"{prefix}.{name}", parameter


def _has_class_axis(name: str, head: Head) -> bool:
    return name.startswith("head.") and name.removeprefix("head.") in head.class_axis


def _optimizer_tensors(
    backbone: Backbone, head: Head, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, str, Tensor, bool]]:
    """Yield (parameter's name, key, tensor, whether it is cut along the classes)."""
    for name, parameter in _named_parameters(backbone, head):
        for key, value in sorted(optimizer.state.get(parameter, {}).items()):
            if isinstance(value, Tensor):
                yield name, key, value, _has_class_axis(name, head) and value.dim() > 0


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path)
    sync(path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: not a whole checkpoint file ({error})") from None


def _state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text("utf-8"))
        version = state.pop("version")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: not a checkpoint ({error})") from None
    if version != VERSION:
        raise ConfigError(
            f"{folder}: checkpoint of version {version}, this program reads {VERSION}"
        )
    return state


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    own = module.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        where = "lacks" if name in own else "has an extra"
        raise ConfigError(f"{folder}: {where} tensor {name}; it belongs to another config")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise ConfigError(
                f"{folder}: {name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}; "
                "it belongs to another config"
            )
    module.load_state_dict(dict(tensors))
