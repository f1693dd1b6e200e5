"""Near-identical images found without comparing each with each.

A hash of 64 bits is cut into 9 bands. Two hashes that differ in at most 6 bits differ in at most 6
bands, so they agree in 3 whole bands at least. For each of the 84 choices of 3 bands the known
hashes are sorted by those 21 bits or so, and a hash is compared only with those that have the same:
the work grows like n log n until chance alone fills the lists, at some millions of images. Images
of one content go in once. What is held at a time is a block of candidates, whatever is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_prep.looks import CORRELATION, DISTANCE, Looks

Ints = NDArray[np.int64]

_AGREEING = 3  # bands
_BANDS = DISTANCE + _AGREEING
_BLOCK = 1 << 21  # candidates looked at together
_NONE = np.iinfo(np.int64).max


def groups(keys: NDArray[np.uint64]) -> Ints:
    """Numbers equal keys alike, (n,), by where they first occur; -1 for those that occur once."""
    _, first, inverse, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.full(len(first), -1)
    repeated = np.flatnonzero(counts > 1)
    order[repeated[np.argsort(first[repeated])]] = np.arange(len(repeated))
    return np.asarray(order[inverse], np.int64)


def near_groups(looks: Looks) -> Ints:
    """Numbers images that are near-identical alike, (n,); -1 for those that stand alone.

    Images are in one group when a chain of near-identical ones joins them.
    """
    _, first, inverse = np.unique(looks.pixels, return_index=True, return_inverse=True)
    hashes, shapes = looks.hashes[first], looks.shapes[first]
    part = np.arange(len(first))  # the group of each so far
    for known, asked in _candidates(hashes, hashes):
        open_ = (known < asked) & (part[known] != part[asked])
        one, other = known[open_], asked[open_]
        same = _alike(shapes[one], shapes[other])
        if same.any():
            part = _join(part, one[same], other[same])
    return groups(part[inverse].astype(np.uint64))


def _join(part: Ints, one: Ints, other: Ints) -> Ints:
    """The groups (n,) after images `one` and `other`, (m,) each, were found to be alike."""
    size = int(part.max()) + 1
    links = coo_array((np.ones(len(one), bool), (part[one], part[other])), shape=(size, size))
    return np.asarray(connected_components(links, directed=False)[1][part], np.int64)


def nearest(known: Looks, asked: Looks) -> tuple[Ints, Ints]:
    """For each asked image the known one that is most like it.

    Args:
        known: Such as the training images.
        asked: Such as the images of a test set.

    Returns:
        Rows of `known`, (n,), -1 where none is near, and distances, (n,): bits of the hashes that
        differ, -1 where the pixels are identical. Of equals the first row.
    """
    rows, first = _same_pixels(known.pixels, asked.pixels)
    best = np.where(rows >= 0, rows, _NONE)  # (distance + 1) and row in one number to be least
    todo = np.flatnonzero(rows < 0)
    hashes, shapes = asked.hashes[todo], asked.shapes[todo]
    own = known.hashes[first], known.shapes[first]
    for there, here in _candidates(own[0], hashes):
        same = _alike(own[1][there], shapes[here])
        there, here = there[same], here[same]
        bits = np.bitwise_count(own[0][there] ^ hashes[here]).astype(np.int64)
        np.minimum.at(best, todo[here], (bits + 1 << 40) + first[there])
    found = best != _NONE
    return np.where(found, best & (1 << 40) - 1, -1), np.where(found, (best >> 40) - 1, -1)


def _same_pixels(known: NDArray[np.uint64], asked: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """The first known row with the pixels of each asked one, or -1; and all such rows."""
    values, first = np.unique(known, return_index=True)
    at = np.minimum(np.searchsorted(values, asked), len(values) - 1)
    return np.where(values[at] == asked, first[at], -1), np.sort(first)


def _candidates(
    known: NDArray[np.uint64], asked: NDArray[np.uint64]
) -> Iterator[tuple[Ints, Ints]]:
    """Blocks of pairs (known, asked) within `DISTANCE`; a pair may come several times."""
    for mask in _masks():
        keys = known & mask
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        wanted = asked & mask
        start = np.searchsorted(keys, wanted, "left")
        count = np.searchsorted(keys, wanted, "right") - start
        ends = np.cumsum(count)
        at = 0
        while at < len(asked):
            before = ends[at - 1] if at else 0
            stop = max(at + 1, int(np.searchsorted(ends, before + _BLOCK, "right")))
            sizes = count[at:stop]
            here = np.repeat(np.arange(at, stop), sizes)
            inner = np.arange(len(here)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            there = order[np.repeat(start[at:stop], sizes) + inner]
            close = np.bitwise_count(known[there] ^ asked[here]) <= DISTANCE
            if close.any():
                yield there[close], here[close]
            at = stop


def _masks() -> Iterator[np.uint64]:
    """The bits of each choice of bands. Band b has bits b, b + 9, ...: of all frequencies some."""
    bands = [sum(1 << bit for bit in range(band, 64, _BANDS)) for band in range(_BANDS)]
    for chosen in combinations(bands, _AGREEING):
        yield np.uint64(sum(chosen))


def _alike(one: NDArray[np.int8], other: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Whether shapes correlate, row by row; two flat ones do, a flat one and another do not."""
    found = np.empty(len(one), bool)
    for first in range(0, len(one), 1 << 15):
        rows = slice(first, first + (1 << 15))
        a, b = one[rows].astype(np.int64), other[rows].astype(np.int64)
        product, lengths = (a * b).sum(1), (a * a).sum(1) * (b * b).sum(1)
        flat = lengths == 0
        found[rows] = np.where(
            flat, (a == b).all(1), product >= CORRELATION * np.sqrt(np.maximum(lengths, 1))
        )
    return found
