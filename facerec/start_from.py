"""A training that starts from another run: its backbone, and the centers of whom both know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facerec import checkpoint
from facerec import checkpoint_files as files
from facerec.backbones.base import Backbone
from facerec.checkpoint_files import Saved
from facerec.checkpoint_state import fill
from facerec.config import ConfigError
from facerec.data.identities import Identities
from facerec.head import Head

_ROWS = 65_536  # centers that are read at once


def start_from(path: Path, backbone: Backbone, head: Head, identities: Identities | None) -> str:
    """Take the backbone and the centers of another run, whatever its loss and its classes.

    Centers go by the names of their identities; where one of the two sets has no names, by their
    labels, and the numbers of classes must be equal.

    Args:
        path: A run folder, or one of its checkpoints.
        backbone: Takes the weights.
        head: Takes the centers of its classes; those of others stay as they are.
        identities: Names of the classes now.

    Returns:
        A sentence: how many centers were taken, and how many start fresh.

    Raises:
        ConfigError: Where it is no run, or one of another backbone, embedding size or, without
            names, number of classes; where a head whose centers are not trained lacks some.
    """
    folder = checkpoint.find_whole(path, head)
    saved, shard = files.read_state(folder), head.shard
    fill(backbone, files.read_tensors(folder, files.BACKBONE), folder)
    known = files.read_identities(saved)
    if known is not None and identities is not None:
        places = identities.places(known)
    elif saved.classes == shard.num_classes:
        places = np.arange(saved.classes)
    else:
        raise ConfigError(
            f"init_from = {path}: has {saved.classes} classes, the data has {shard.num_classes}, "
            "and not both sets name their identities; give a run on the same identities"
        )
    taken = int((places >= 0).sum())
    said = f"{taken} of {shard.num_classes} identities have a center in {path}"
    if taken < shard.num_classes and not head.trains_backbone:
        raise ConfigError(
            f"init_from: {said}; this loss trains no centers, give a run on the same identities"
        )
    _take_centers(saved, head, torch.from_numpy(places[shard.start : shard.stop]))
    return f"init_from: {said}, {shard.num_classes - taken} start fresh"


def _take_centers(saved: Saved, head: Head, places: Tensor) -> None:
    """Copy the centers that stand at `places` (C of this worker,) there; -1: none."""
    for low in range(0, saved.classes, _ROWS):
        high = min(low + _ROWS, saved.classes)
        (own,) = torch.nonzero((places >= low) & (places < high), as_tuple=True)
        if not len(own):
            continue
        centers = files.class_rows(saved, files.HEAD_PART, "centers", low, high)
        if centers.shape[1] != head.centers.shape[1]:
            raise ConfigError(
                f"{saved.folder}: centers of {centers.shape[1]} numbers, expected "
                f"{head.centers.shape[1]}; it belongs to another config"
            )
        with torch.no_grad():
            head.centers[own] = centers[places[own] - low].to(head.centers)
