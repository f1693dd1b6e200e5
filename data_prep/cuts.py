"""Which rows become which split, with which labels; pure arithmetic, decided by `SEED`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.readers import Facts
from data_prep.scan import Images, Tell
from facerec.data.shards import DataError

SEED = 1  # of the cuts and of the shuffle; written into the index


@dataclass(frozen=True)
class Options:
    """What the user chose; None for a cut means the default share."""

    val_identities: int | None = None
    confirm_identities: int | None = None
    min_images: int = 1
    skip_errors: bool = False


@dataclass(frozen=True)
class Part:
    """A split before it is written: rows by their position in the source, with their labels."""

    positions: NDArray[np.int64]
    labels: NDArray[np.int32]
    classes: int


def split(
    images: Images, facts: Facts, options: Options, tell: Tell
) -> tuple[dict[str, Part], dict[str, int]]:
    """Filters and cuts by identity, relabels each part from 0, shuffles the training rows.

    Returns:
        The parts (`train`, and `val`, `confirm` where they were cut), and counts for `index.json`.

    Raises:
        DataError: too few identities for what was asked.
    """
    if facts.classes is not None and facts.classes != len(images.identities):
        tell.warn(
            f"the source promises {facts.classes} identities, its labels have "
            f"{len(images.identities)}: the labels count"
        )
    sizes = np.bincount(images.codes, minlength=len(images.identities))
    kept = np.flatnonzero(sizes >= options.min_images)
    if not len(kept):
        raise DataError(
            f"--min-images {options.min_images}: no identity has so many images, the largest has "
            f"{sizes.max()}"
        )
    able = kept[sizes[kept] > 1]  # an identity with one image makes no genuine pair
    val, confirm = _cut_sizes(len(kept), len(able), options, tell)
    if val + confirm > len(able) or (val + confirm and len(kept) - val - confirm < 2):
        raise DataError(
            f"cutting {val} identities for val and {confirm} for confirm off {len(kept)}, of which "
            f"{len(able)} have two images or more, is too many: ask for fewer with "
            f"--val-identities and --confirm-identities, 0 turns a cut off"
        )
    chosen = np.random.default_rng(SEED).permutation(able)[: val + confirm]
    members = {
        "train": np.setdiff1d(kept, chosen),
        "val": np.sort(chosen[:val]),
        "confirm": np.sort(chosen[val:]),
    }
    parts = {name: _part(images, codes) for name, codes in members.items() if len(codes)}
    order = np.random.default_rng(SEED).permutation(len(parts["train"].positions))
    parts["train"] = Part(
        parts["train"].positions[order], parts["train"].labels[order], parts["train"].classes
    )
    few = len(images.identities) - len(kept)
    counts = {
        "images": images.total,
        "left_out": images.total - len(images.positions),
        "identities": len(images.identities),
        "identities_below_min_images": few,
        "images_below_min_images": int(sizes.sum() - sizes[kept].sum()),
    }
    return parts, counts


def pair_up(
    images: Images, same: NDArray[np.bool_]
) -> tuple[dict[str, Part], dict[str, int], NDArray[np.bool_]]:
    """All images in order with label -1; a pair with an image left out goes as a whole."""
    good = np.zeros(2 * len(same), bool)
    good[images.positions] = True
    whole = good.reshape(-1, 2).all(axis=1)
    positions = np.flatnonzero(np.repeat(whole, 2))
    if not len(positions):
        raise DataError("no pair is left of which both images can be read")
    part = Part(positions, np.full(len(positions), -1, np.int32), 0)
    counts = {"images": images.total, "left_out": images.total - len(positions)}
    return {"train": part}, counts, same[whole]


def _cut_sizes(identities: int, able: int, options: Options, tell: Tell) -> tuple[int, int]:
    """Identities to cut for val and confirm; where the user said nothing, a tenth each."""
    share = max(10, identities // 10)
    enough = identities >= 40 and able >= 2 * share
    asked = (options.val_identities, options.confirm_identities)
    if not enough and None in asked:
        tell.warn(
            f"{identities} identities, {able} with two images or more, are too few for the default "
            f"cuts (40, {2 * share}): without --val-identities N, --confirm-identities N the set "
            f"has no val, no confirm"
        )
    val, confirm = (share * enough if number is None else number for number in asked)
    return val, confirm


def _part(images: Images, codes: NDArray[np.int64]) -> Part:
    """The rows of some identities in source order, labels by the identities' order."""
    label_of = np.full(len(images.identities), -1, np.int32)
    label_of[codes] = np.arange(len(codes), dtype=np.int32)
    labels = label_of[images.codes]
    return Part(images.positions[labels >= 0], labels[labels >= 0], len(codes))
