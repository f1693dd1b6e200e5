"""Evaluation sets, each scored by the protocol that fits it.

A set with pairs is verified in ten folds, as LFW is. Any other is scored over all pairs of its
images: for `val`, on which settings are chosen, and `confirm`, on which the verdict is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facerec.backbones import check_image_size
from facerec.backbones.base import Backbone
from facerec.data.shards import DataError, Pairs, Shards, Split
from facerec.evaluation import metrics
from facerec.evaluation.embed import embed

IMAGES_PER_IDENTITY = 8  # of all-pairs sets: the first in the order of their keys


@dataclass(frozen=True)
class Measure:
    """One number: a row of the table that `facerec evaluate` writes.

    Attributes:
        metric: Such as `accuracy` or `tar@far=1e-3`.
        value: A fraction; NaN where it could not be measured.
        threshold: Where pairs were accepted: a squared distance (`10-fold`) or a cosine
            (`all pairs`) of unit embeddings; None for numbers over several thresholds.
        fold: Number of the fold, from 0; None for all folds.
    """

    metric: str
    value: float
    threshold: float | None = None
    fold: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one set.

    Attributes:
        name: The set's name, the first part of its metrics' names.
        protocol: `10-fold` or `all pairs`.
        measures: The numbers.
        notes: Sentences to show: what was counted, and why a number is missing.
    """

    name: str
    protocol: str
    measures: tuple[Measure, ...]
    notes: tuple[str, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers over all folds by dotted name, such as `val.tar` or `lfw.accuracy`."""
        return {f"{self.name}.{m.metric}": m.value for m in self.measures if m.fold is None}


@dataclass(frozen=True)
class EvaluationSet:
    """Images to measure on, under a name.

    Attributes:
        name: The first part of the metrics' names.
        shards: The prepared set.
        split: Which of its splits.
    """

    name: str
    shards: Shards
    split: str = "train"

    def measure(
        self, backbone: Backbone, device: torch.device | str = "cpu", batch_size: int = 128
    ) -> Evaluation:
        """Embeds the set and scores it by the protocol that fits it.

        Embeddings that are not finite, or all alike, give NaN and a note.

        Args:
            backbone: On `device` already; its mode is left as it was.
            device: Where to run.
            batch_size: Images per pass, at most.

        Raises:
            DataError: Images that cannot be read, or that the backbone does not take.
        """
        self.check(backbone)
        split, pairs = self.shards.split(self.split), self._pairs()
        rows = None if pairs is not None else _first_images(split)
        found = embed(backbone, split, rows=rows, batch_size=batch_size, device=device)
        if pairs is not None:
            return _verify(self.name, found.vectors, pairs)
        return _all_pairs(self.name, found.vectors, found.labels)

    def check(self, backbone: Backbone) -> None:
        """Refuses a set whose images `backbone` does not take, before anything is computed.

        Raises:
            DataError: They are too small or not square, or the set has no such split.
        """
        self.shards.split(self.split)
        try:
            check_image_size(backbone, *self.shards.image_size)
        except ValueError as error:
            raise DataError(f"{self.name} ({self.shards.path}): {error}") from None

    def _pairs(self) -> Pairs | None:
        return self.shards.pairs() if self.split == "train" else None


def open_sets(
    training: Shards | None, others: Sequence[Path], backbone: Backbone
) -> list[EvaluationSet]:
    """The sets that a run is measured on: `val` of its training shards, and the others by folder.

    A set without pairs and with a `val` split of its own is measured on that, as `<folder>.val`.

    Args:
        training: The training shards; left out where they have no `val` split.
        others: Folders of prepared sets; each is called by its folder's name.
        backbone: The backbone to be measured.

    Raises:
        DataError: A folder that is no prepared set, images that the backbone does not take, or two
            sets of one name.
    """
    sets: list[EvaluationSet] = []
    if training is not None and "val" in training.index["splits"]:
        sets.append(EvaluationSet("val", training, "val"))
    for folder in others:
        shards, name = Shards(folder), folder.resolve().name
        if "val" in shards.index["splits"]:
            sets.append(EvaluationSet(f"{name}.val", shards, "val"))
        else:
            sets.append(EvaluationSet(name, shards))
    for number, item in enumerate(sets):
        item.check(backbone)
        for earlier in sets[:number]:
            if earlier.name == item.name:
                raise DataError(
                    f"{earlier.shards.path} and {item.shards.path}: both sets are called "
                    f"{item.name}, and so would be their metrics; rename one folder"
                )
    return sets


def impostor_pairs(split: Split) -> int:
    """Pairs of images of two identities that an all-pairs set has, eight images of each at most."""
    labels = split.labels()
    counts = np.minimum(np.bincount(labels[labels >= 0]), IMAGES_PER_IDENTITY).astype(np.int64)
    return int(counts.sum() ** 2 - (counts**2).sum()) // 2


def _first_images(split: Split) -> NDArray[np.int64]:
    """Rows of the first images of each known identity, in the order of their keys; ascending."""
    keys = np.array(
        [key for group in range(len(split.group_rows)) for key in split.read(group).keys]
    )
    labels = split.labels()
    order = np.lexsort((keys, labels)) if len(keys) else np.empty(0, np.int64)
    ordered = labels[order]
    place = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return np.sort(order[(place < IMAGES_PER_IDENTITY) & (ordered >= 0)])


def _verify(name: str, vectors: NDArray[np.float32], pairs: Pairs) -> Evaluation:
    ends = np.stack([pairs.first, pairs.second], axis=1).ravel()
    result = metrics.verification(vectors[ends], pairs.same)
    folds = zip(result.fold_accuracies, result.thresholds, strict=True)
    measures = (
        Measure("accuracy", result.accuracy),
        Measure("accuracy_std", result.accuracy_std),
        Measure("val@far=1e-3", result.val),
        *(Measure("accuracy", float(a), float(t), fold) for fold, (a, t) in enumerate(folds)),
    )
    counted = f"{name}: {len(pairs.same)} pairs, {int(pairs.same.sum())} of them same, 10 folds"
    return Evaluation(name, "10-fold", measures, _notes(name, counted, result.reason))


def _all_pairs(name: str, vectors: NDArray[np.float32], labels: NDArray[np.int32]) -> Evaluation:
    result = metrics.tar_at_far(vectors, labels)
    measures = (
        Measure("tar", result.tar),
        *(
            Measure(f"tar@far={far}", tar, result.thresholds[far])
            for far, tar in result.tars.items()
        ),
    )
    counted = (
        f"{name}: {len(labels)} images of {len(np.unique(labels))} identities, "
        f"{result.genuine_pairs} genuine and {result.impostor_pairs} impostor pairs"
    )
    if not math.isnan(result.tar):
        counted += f"; {name}.tar is the mean TAR at FAR {', '.join(result.tars)}"
    return Evaluation(name, "all pairs", measures, _notes(name, counted, result.reason))


def _notes(name: str, counted: str, reason: str) -> tuple[str, ...]:
    return (counted, f"{name}: no number: {reason}") if reason else (counted,)
