"""Which rows become which split, with which labels; pure arithmetic, decided by `SEED`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.damage import Damage
from data_prep.readers import Facts
from data_prep.scan import Images
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


@dataclass(frozen=True)
class Table:
    """A small table that stands beside the shards.

    Attributes:
        entry: where `index.json` describes it, from the outermost key inwards.
        file: its name.
        content: its rows.
    """

    entry: tuple[str, ...]
    file: str
    content: pa.Table


@dataclass(frozen=True)
class Plan:
    """All that will be written, except the images.

    Attributes:
        parts: by the name of the split; `train` is always there.
        counts: for `index.json`; `images`, and what was left out: `left_out` images, and rows of
            tables under names that end in `_left_out`.
        tables: beside the shards.
    """

    parts: Mapping[str, Part]
    counts: Mapping[str, int]
    tables: tuple[Table, ...] = ()


Cut: TypeAlias = Callable[[Images, Facts, Options, Damage], Plan]
"""How a kind of source becomes a set: from the images that can be used to the plan."""


def split(images: Images, facts: Facts, options: Options, damage: Damage) -> Plan:
    """Training: filters and cuts by identity, relabels from 0, shuffles the training rows.

    Returns:
        `train`, and `val`, `confirm` where they were cut.

    Raises:
        DataError: too few identities for what was asked.
    """
    _compare(images, facts, damage)
    sizes = np.bincount(images.codes, minlength=len(images.identities))
    kept = np.flatnonzero(sizes >= options.min_images)
    if not len(kept):
        raise DataError(
            f"--min-images {options.min_images}: no identity has so many images, the largest has "
            f"{sizes.max()}"
        )
    able = kept[sizes[kept] > 1]  # an identity with one image makes no genuine pair
    val, confirm = _cut_sizes(len(kept), len(able), options, damage)
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
    parts = {name: part_of(images, codes) for name, codes in members.items() if len(codes)}
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
    return Plan(parts, counts)


def pair_up(same: NDArray[np.bool_], groups: Sequence[str] | None = None) -> Cut:
    """A verification set: all images in order, label -1; images 2k and 2k + 1 are pair k.

    A pair with an image left out goes as a whole.

    Args:
        same: whether pair k shows one person, (N,).
        groups: the group of people of pair k, (N,), where the source tells groups apart.
    """

    def cut(images: Images, facts: Facts, options: Options, damage: Damage) -> Plan:
        good = np.zeros(2 * len(same), bool)
        good[images.positions] = True
        whole = good.reshape(-1, 2).all(axis=1)
        part = unlabelled(np.flatnonzero(np.repeat(whole, 2)))
        for position in np.setdiff1d(images.positions, part.positions).tolist():
            place = facts.at(position)
            damage.refuse(place.error(f"the other image of pair {position // 2} is left out"))
        if not len(part.positions):
            raise DataError("no pair is left of which both images can be read")
        counts = {"images": images.total, "left_out": images.total - len(part.positions)}
        first = np.arange(0, len(part.positions), 2)
        pairs = pa.table({"first": first, "second": first + 1, "same": same[whole]})
        if groups is not None:
            pairs = pairs.append_column("group", pa.array(np.array(groups)[whole].tolist()))
        return Plan({"train": part}, counts, (Table(("pairs",), "pairs.parquet", pairs),))

    return cut


def unlabelled(positions: NDArray[np.int64]) -> Part:
    """Rows of unknown identities: label -1."""
    return Part(positions, np.full(len(positions), -1, np.int32), 0)


def _compare(images: Images, facts: Facts, damage: Damage) -> None:
    """Warns where the labels are not those that the source promises."""
    found = f"{len(images.identities)}"
    beyond = 0
    if facts.order is int and facts.classes is not None:
        beyond = max(map(int, images.identities)) + 1 - facts.classes
        if beyond > 0:
            found += f", up to label {facts.classes + beyond - 1}"
    if facts.classes is not None and (beyond > 0 or facts.classes != len(images.identities)):
        damage.tell.warn(
            f"the source promises {facts.classes} identities, its labels have {found}: the labels "
            f"count"
        )


def _cut_sizes(identities: int, able: int, options: Options, damage: Damage) -> tuple[int, int]:
    """Identities to cut for val and confirm; where the user said nothing, a tenth each."""
    share = max(10, identities // 10)
    enough = identities >= 40 and able >= 2 * share
    asked = (options.val_identities, options.confirm_identities)
    if not enough and None in asked:
        damage.tell.warn(
            f"{identities} identities, {able} with two images or more, are too few for the default "
            f"cuts (40, {2 * share}): without --val-identities N, --confirm-identities N the set "
            f"has no val, no confirm"
        )
    val, confirm = (share * enough if number is None else number for number in asked)
    return val, confirm


def part_of(images: Images, codes: NDArray[np.int64]) -> Part:
    """The rows of some identities in source order, labels by the identities' order."""
    label_of = np.full(len(images.identities), -1, np.int32)
    label_of[codes] = np.arange(len(codes), dtype=np.int32)
    labels = label_of[images.codes]
    return Part(images.positions[labels >= 0], labels[labels >= 0], len(codes))
