"""Evaluation sets, each scored by the protocols that fit it, from one pass over its images.

A set with pairs is verified in ten folds, as LFW is; one with templates by pairs of them and by
search in its galleries, as IJB-B and IJB-C are; one with distractors as MegaFace is. Any other is
scored over all pairs of its images: for `val`, on which settings are chosen, and `confirm`, on
which the verdict is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from facerec.backbones import check_image_size
from facerec.backbones.base import Backbone
from facerec.data.shards import DataError, Pairs, Shards, Split, TemplateSet
from facerec.evaluation.embed import embed
from facerec.evaluation.figures.all_pairs import all_pairs
from facerec.evaluation.figures.distractors import Among, distractor_figures
from facerec.evaluation.figures.measure import Evaluation, Wanted
from facerec.evaluation.figures.template_sets import template_figures
from facerec.evaluation.figures.ten_folds import pair_scores, squared_distances, verify
from facerec.evaluation.scores import Scores
from facerec.evaluation.uncertainty import identities_from_pairs

NUMBERS = Wanted()
DISTRACTORS = "distractors"  # name of the split that holds them
IMAGES_PER_IDENTITY = 8  # of all-pairs sets: the first in the order of their keys


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
        self,
        backbone: Backbone,
        device: torch.device | str = "cpu",
        batch_size: int = 128,
        wanted: Wanted = NUMBERS,
    ) -> Evaluation:
        """Embeds the set once and scores it by each protocol that fits it.

        Embeddings that are not finite, or all alike, give NaN and a note.

        Args:
            backbone: On `device` already; its mode is left as it was.
            device: Where to run.
            batch_size: Images per pass, at most.
            wanted: Intervals, switches and curves; numbers alone when left out, as in training.

        Raises:
            DataError: Images that cannot be read, or that the backbone does not take.
        """
        self.check(backbone)
        flip = wanted.switches.flip
        if self.distractors is not None:
            images = self.among(backbone, device, batch_size, flip=flip)
            return distractor_figures(self.name, images, wanted)
        vectors, labels = self.embed(backbone, device, batch_size, flip=flip)
        if (templates := self.templates()) is not None:
            return template_figures(self.name, vectors, templates, wanted)
        if (pairs := self.pairs()) is not None:
            people = self._people(pairs) if wanted.draws else None
            return verify(self.name, vectors, pairs, self._groups(), people, wanted)
        return all_pairs(self.name, vectors, labels, IMAGES_PER_IDENTITY, wanted)

    def embed(
        self,
        backbone: Backbone,
        device: torch.device | str = "cpu",
        batch_size: int = 128,
        flip: bool = True,
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Embeddings (N, D) and labels (N,) of the images that the protocol scores."""
        split = self.shards.split(self.split)
        rows = _first_images(split) if self.over_all_pairs else None
        found = embed(backbone, split, rows=rows, batch_size=batch_size, device=device, flip=flip)
        return found.vectors, found.labels

    def among(
        self,
        backbone: Backbone,
        device: torch.device | str = "cpu",
        batch_size: int = 128,
        flip: bool = True,
    ) -> Among:
        """Embeddings of probes and distractors.

        Raises:
            DataError: The set has no distractors, or images cannot be read.
        """
        splits = self.shards.split(), self.shards.split(DISTRACTORS)
        probes, others = (
            embed(backbone, split, batch_size=batch_size, device=device, flip=flip)
            for split in splits
        )
        noisy = [split.columns(["noisy"])["noisy"] for split in splits]
        return Among(probes, noisy[0], others, noisy[1])

    def check(self, backbone: Backbone) -> None:
        """Refuses a set whose images `backbone` does not take, before anything is computed.

        Raises:
            DataError: They are too small or not square, or the set has no such split.
        """
        self.shards.split(self.split)
        try:
            check_image_size(backbone, *self.shards.image_size)
        except ValueError as error:
            raise DataError(f"{self.name} ({self.shards.place}): {error}") from None

    def pairs(self) -> Pairs | None:
        """The pairs that are scored; None where all pairs of the images are."""
        return self.shards.pairs() if self.split == "train" else None

    def templates(self) -> TemplateSet | None:
        """Templates and their pairs, gallery and probes; None for any other set."""
        return self.shards.templates() if self.split == "train" else None

    @property
    def distractors(self) -> Split | None:
        """Images of nobody among the probes, which the `train` split then holds; None without."""
        inside = self.split == "train" and DISTRACTORS in self.shards.index["splits"]
        return self.shards.split(DISTRACTORS) if inside else None

    @property
    def over_all_pairs(self) -> bool:
        """Whether every pair of the images counts, there being no list of pairs or distractors."""
        return (self.pairs(), self.templates(), self.distractors) == (None, None, None)

    def scores(self, vectors: NDArray[np.float32], pairs: Pairs) -> Scores:
        """Scores of the pairs, with who is drawn for intervals."""
        return pair_scores(
            self.name, squared_distances(vectors, pairs), pairs, *self._people(pairs)
        )

    def _people(self, pairs: Pairs) -> tuple[NDArray[np.int64], bool]:
        """Identities at both ends of the pairs (P, 2), and whether they are known by name."""
        split = self.shards.split(self.split)
        labels = split.labels()[np.stack([pairs.first, pairs.second], axis=1)]
        if labels.min() >= 0:
            return np.unique(labels, return_inverse=True)[1].reshape(labels.shape), True
        digests = [
            hashlib.blake2b(image, digest_size=16).digest()
            for group in range(len(split.group_rows))
            for image in split.read(group).images
        ]
        images = np.unique(np.array(digests, np.dtype("V16")), return_inverse=True)[1]
        return identities_from_pairs(pairs.first, pairs.second, pairs.same, images), False

    def _groups(self) -> NDArray[np.str_] | None:
        """The group of each pair (P,), where the set's pairs have such a column."""
        path = self.shards.path / self.shards.index["pairs"]["file"]
        try:
            if "group" not in pq.read_schema(path).names:
                return None
            column = pq.read_table(path, columns=["group"], partitioning=None)["group"]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
        return np.array([str(group) for group in column.to_pylist()])


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
                    f"{earlier.shards.place} and {item.shards.place}: both sets are called "
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
