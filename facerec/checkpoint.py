"""How what is saved of a run comes back.

A run folder holds `config.json`, `metrics.parquet` and `checkpoints/<step>/`; the files of a
checkpoint stand in `checkpoint_files`, how it is written in `checkpoint_writer`. The head is saved
by class ranges and cut again for the workers that load it, whatever their number. Random numbers
have no state: each is made from the seed and the step, the position says it all.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from facerec import backbones, config
from facerec import checkpoint_files as files
from facerec.backbones.base import Backbone
from facerec.checkpoint_files import Damaged as Damaged
from facerec.checkpoint_files import Progress as Progress
from facerec.checkpoint_files import Saved
from facerec.checkpoint_state import fill, fill_optimizer, named_parameters
from facerec.checkpoint_writer import Part as Part
from facerec.checkpoint_writer import Saver as Saver
from facerec.checkpoint_writer import add_up as add_up
from facerec.checkpoint_writer import folders
from facerec.confidence import ConfidenceHead
from facerec.config import ConfigError, TrainConfig
from facerec.head import Head, build_head
from facerec.losses import LOSSES
from facerec.losses.scf import ConfidenceLikelihood
from facerec.parallel import ClassShard


def latest(run: Path) -> Path | None:
    """Give the newest checkpoint of a run folder, whole or not; None where there is none."""
    return next(iter(_newest_first(run)), None)


def _newest_first(run: Path) -> list[Path]:
    return sorted(folders(run / "checkpoints"), key=lambda folder: -int(folder.name))


def find(path: Path) -> Path:
    """Give the checkpoint that RUN names: a run folder, or one of its checkpoints.

    Raises:
        ConfigError: Where it is neither.
    """
    if (path / files.STATE).is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run folder")
    folder = latest(path)
    if folder is None:
        inside = [c.parent for c in sorted(path.glob("*/config.json"))]
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise ConfigError(f"{path}: not a run folder (it has no checkpoints/<step>){hint}")
    return folder


def find_whole(path: Path, head: Head) -> Path:
    """Give the newest whole checkpoint of a run folder, or the one that is named itself.

    The first worker reads it from end to end, and names a damaged one on stderr.

    Args:
        path: A run folder, or one of its checkpoints.
        head: Says which worker this is; every worker calls this.

    Raises:
        Damaged: None is whole.
        ConfigError: It is no run folder, or of another version.
    """
    itself = find(path) == path
    told, error = 0, None
    if head.shard.rank == 0:
        try:
            chosen = _first_whole(path, [path] if itself else _newest_first(path))
            told = 1 if itself else 1 + int(chosen.name)
        except ConfigError as caught:
            error = caught
    told = add_up(head, told)
    if error is not None:
        raise error
    if not told:
        raise Damaged(f"{path}: no checkpoint to go on from; the first worker says why")
    return path if itself else path / "checkpoints" / f"{told - 1:08d}"


def _first_whole(path: Path, candidates: list[Path]) -> Path:
    for folder in candidates:
        try:
            files.check(folder)
        except Damaged as error:
            if folder == candidates[-1]:
                raise Damaged(
                    f"{error}; no whole checkpoint is left in {path}: delete it to begin anew"
                ) from None
            print(f"warning: {error}; the checkpoint before it is used", file=sys.stderr)
        else:
            return folder
    raise AssertionError("find gives one checkpoint at least")


def load(
    folder: Path,
    backbone: Backbone,
    head: Head,
    optimizer: torch.optim.Optimizer,
    parts: Mapping[str, Part] | None = None,
) -> Progress:
    """Restore a run from a checkpoint's folder, on any number of workers.

    Each worker reads the classes that it holds, and no others.

    Args:
        folder: From `find_whole`.
        backbone: Takes its weights.
        head: Takes this worker's classes.
        optimizer: Takes its state.
        parts: Name -> further parts that were saved, as `Saver` was given them.

    Raises:
        ConfigError: Where a file is missing or damaged, or a tensor is missing or of another
            shape (another backbone, loss or number of classes): never a silent new start.
    """
    saved, shard = files.read_state(folder), head.shard
    if saved.classes != shard.num_classes:
        raise ConfigError(
            f"{folder}: holds {saved.classes} classes, the data has {shard.num_classes}; resume "
            "with the shards that it was trained on, or begin another run with init_from"
        )
    fill(backbone, files.read_tensors(folder, files.BACKBONE), folder)
    fill(head, _head_tensors(saved, shard), folder)
    state = files.read_tensors(folder, files.OPTIMIZER)
    for name in files.class_names(saved, files.OPTIMIZER_PART):
        state[name] = files.class_rows(saved, files.OPTIMIZER_PART, name, shard.start, shard.stop)
    fill_optimizer(optimizer, dict(named_parameters(backbone, head)), state)
    for name, part in (parts or {}).items():
        if name not in saved.parts:
            raise ConfigError(f"{folder}: lacks the state of {name}; it belongs to another config")
        part.load_state_dict(dict(saved.parts[name]))
    return saved.progress


def _head_tensors(saved: Saved, shard: ClassShard) -> dict[str, Tensor]:
    """A head's state, with one worker's classes."""
    tensors = files.read_tensors(saved.folder, files.HEAD)
    for name in files.class_names(saved, files.HEAD_PART):
        tensors[name] = files.class_rows(saved, files.HEAD_PART, name, shard.start, shard.stop)
    return tensors


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
    files.check_backbone(folder)
    fill(backbone, files.read_tensors(folder, files.BACKBONE), folder)
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
    before = config.load(folder.parent.parent / "config.json")
    if LOSSES[before.loss.name].objective is not ConfidenceLikelihood:
        return None
    saved = files.check(folder)
    shard = ClassShard(saved.classes, 0, 1)
    head = build_head(before.loss, shard, before.head.embedding_size)
    fill(head, _head_tensors(saved, shard), folder)
    assert isinstance(head, ConfidenceHead)
    return head
