"""Pairs of a set above some scores, by whom they are of: all that draws of identities need.

Filled block by block, so that no table of all scores is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from facerec.evaluation.uncertainty import pair_weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BINS = 1 << 16  # of cosines, for the levels
_PER_OCTAVE, _OCTAVES = 8, 2  # levels, and how far they go beyond the rates
PRODUCTS = 200_000  # counts of two identities, at most; beyond, counts of each identity


@dataclass(frozen=True)
class Block:
    """Some pairs; all those of any two identities are in one block.

    Attributes:
        scores: (models, P).
        ends: Numbers of pairs -> the identities at their ends, the lower one first.
        same: (P,), which pairs are within an identity; None where none is.
    """

    scores: NDArray[np.floating]
    ends: Callable[[Ints], tuple[Ints, Ints]]
    same: Bools | None


@dataclass(frozen=True)
class Sizes:
    """Pairs, whatever their scores.

    Attributes:
        same: (N,), pairs within each identity.
        says: (N,), how much each identity counts in the TAR.
        impostors: (N,), pairs of each identity with others.
        squares: Sum of the squares of how many pairs each two identities have.
        between: Two arrays of identities -> how many pairs they have.
        total: (N, R) draws -> (R,) weights of all impostor pairs; None where it is too costly.
    """

    same: Ints
    says: Floats
    impostors: Ints
    squares: float
    between: Callable[[Ints, Ints], Floats]
    total: Callable[[Floats], Floats] | None


def _bins(scores: NDArray[np.floating]) -> Ints:
    found: Ints = ((scores + 1) * (_BINS / 2)).astype(np.int64)
    return np.clip(found, 0, _BINS - 1, out=found)


class Curve:
    """Counts of one model at its levels, from the strictest to the laxest."""

    def __init__(self, histogram: Ints, rates: Sequence[float], identities: int) -> None:
        above = np.cumsum(histogram[::-1])[::-1]  # impostor pairs in each bin or above
        octaves = math.log2(max(rates) / min(rates)) + 2 * _OCTAVES
        steps = np.arange(math.ceil(octaves * _PER_OCTAVE) + 1) / _PER_OCTAVE
        wanted = np.minimum(above[0] * min(rates) * 2.0 ** (steps - _OCTAVES), above[0])
        self.levels = np.unique(np.searchsorted(-above, -wanted, side="right") - 1)[::-1]
        self.levels = np.maximum(self.levels, 0)
        self.impostors = int(above[0])
        shares = above[self.levels] / above[0]
        self.at = np.array([int(np.argmin(np.abs(shares - rate))) for rate in rates])
        self.fars = shares[self.at]
        self.true = np.zeros((identities, len(self.levels)))
        self.false = np.zeros((identities, len(self.levels)))
        self.products: list[tuple[Ints, Floats]] | None = []
        self._held = 0

    def level(self, bins: Ints) -> Ints:
        """The strictest level that accepts; as many as there are levels where none does."""
        return np.searchsorted(-self.levels, -bins)

    def count(self, into: Floats, identity: Ints, level: Ints) -> None:
        """Adds pairs of identities whose strictest level is known."""
        into += np.bincount(identity * into.shape[1] + level, minlength=into.size).reshape(
            into.shape
        )

    def keep(self, one: Ints, other: Ints, level: Ints) -> None:
        """Counts of two identities and a level, until they are too many."""
        if self.products is None:
            return
        keys = (one * len(self.true) + other) * len(self.levels) + level
        known, counts = np.unique(keys, return_counts=True)
        self._held += len(known)
        self.products.append((known, counts.astype(np.float64)))
        if self._held > PRODUCTS:
            self.products = None

    def drop_products(self) -> None:
        """Leaves the counts of each identity alone."""
        self.products = None

    def ratios(self, weights: Floats, sizes: Sizes) -> tuple[Floats, Floats]:
        """TAR and FAR at the levels in each draw: (levels, draws) each, from (N, draws)."""
        shares = self.true * (sizes.says / np.maximum(sizes.same, 1))[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            true = (shares.T @ weights) / (sizes.says @ weights)
            if self.products is None or sizes.total is None:
                moved = weights - 1
                false = (self.false.T @ moved + self.false.sum(axis=0)[:, None] / 2) / (
                    sizes.impostors @ moved + self.impostors
                )
            else:
                false = self._product_counts(weights) / sizes.total(weights)
        return true, false

    def _product_counts(self, weights: Floats) -> Floats:
        assert self.products is not None
        keys = np.concatenate([np.empty(0, np.int64), *(part[0] for part in self.products)])
        counts = np.concatenate([np.empty(0), *(part[1] for part in self.products)])
        level, pair = keys % len(self.levels), keys // len(self.levels)
        ends = np.stack([pair // len(self.true), pair % len(self.true)], axis=1)
        cells = sparse.csr_array(
            (counts, (level, np.arange(len(keys)))), (len(self.levels), len(keys))
        )
        return np.cumsum(cells @ pair_weights(weights, ends), axis=0)


def histograms(blocks: Callable[[], Iterable[Block]], models: int) -> Ints:
    """Impostor pairs by score: (models, bins)."""
    found = np.zeros((models, _BINS), np.int64)
    for block in blocks():
        for number in range(models):
            scores = block.scores[number]
            impostors = scores if block.same is None else scores[~block.same]
            found[number] += np.bincount(_bins(impostors), minlength=_BINS)
    return found


def count_pairs(
    blocks: Callable[[], Iterable[Block]], curves: Sequence[Curve], sizes: Sizes
) -> Floats:
    """Fills the curves, and sums products of what two identities have beyond their share.

    Returns:
        (K, K) with K figures in the order models, rates.
    """
    identities, width = len(sizes.same), len(curves[0].at)
    fars = np.concatenate([curve.fars for curve in curves])
    gram, squares = np.zeros((len(fars), len(fars))), 0.0
    for block in blocks():
        keys, levels = [], []
        for number, curve in enumerate(curves):
            bins = _bins(block.scores[number])
            near = np.flatnonzero(bins >= curve.levels[-1])
            level, (one, other) = curve.level(bins[near]), block.ends(near)
            if block.same is not None:
                same = block.same[near]
                curve.count(curve.true, one[same], level[same])
                one, other, level = one[~same], other[~same], level[~same]
            curve.count(curve.false, one, level)
            curve.count(curve.false, other, level)
            curve.keep(one, other, level)
            keys.append(one * identities + other)
            levels.append(level)
        known, place = np.unique(np.concatenate(keys), return_inverse=True)
        pairs = sizes.between(known // identities, known % identities)
        beyond = -pairs[:, None] * fars
        places = np.split(place.ravel(), np.cumsum([len(level) for level in levels[:-1]]))
        for number, (curve, level, mine) in enumerate(zip(curves, levels, places, strict=True)):
            for column, at in enumerate(curve.at, number * width):
                beyond[:, column] += np.bincount(mine[level <= at], minlength=len(known))
        gram += beyond.T @ beyond
        squares += float(np.square(pairs).sum())
    for curve in curves:
        np.cumsum(curve.true, axis=1, out=curve.true)
        np.cumsum(curve.false, axis=1, out=curve.false)
    return gram + (sizes.squares - squares) * np.outer(fars, fars)


def tar_at(tars: Floats, fars: Floats, rate: float) -> Floats:
    """TAR where the FAR, which rises with the level, reaches `rate`: (draws,)."""
    reached = fars >= rate
    place = np.where(reached.any(axis=0), np.argmax(reached, axis=0), len(fars) - 1)
    before = np.maximum(place - 1, 0)
    low, high = (np.take_along_axis(fars, row[None], axis=0)[0] for row in (before, place))
    low_tar, high_tar = (np.take_along_axis(tars, r[None], axis=0)[0] for r in (before, place))
    share = np.clip((rate - low) / np.where(high > low, high - low, 1), 0, 1)
    found: Floats = low_tar + share * (high_tar - low_tar)
    return found
