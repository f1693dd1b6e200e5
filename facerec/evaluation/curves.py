"""What plots are drawn from: counts of scores by cosine, and the curves read off them.

Scores are counted in narrow bins, so memory does not grow with the pairs. Each point of a curve is
exact, because it lies at a bin's edge; only the points between two edges are missing. Pure NumPy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A power of two: edges and the bin of a score are then exact in floating point.
_PER_UNIT = 2**14  # bins of 6e-5
_BINS = 2 * _PER_UNIT
_ROUNDING = 1e-3  # cosines of single precision may lie beyond 1 by less than this
_SHARE = 1e-9  # rates nearer than this, relatively, differ by rounding only
_BLOCK = 2**20  # scores counted at once
_TILE = 2048  # rows and columns of scores held at once: 32 MB


@dataclass(frozen=True)
class Roc:
    """Receiver operating characteristic: a point per threshold, from the highest down.

    Attributes:
        far: (K,), share of the impostor pairs that are accepted, rising; NaN where there are none.
        tar: (K,), share of the genuine pairs that are accepted, rising; NaN where there are none.
        thresholds: (K,), falling; pairs are accepted at or above. The first accepts nothing.
    """

    far: Floats
    tar: Floats
    thresholds: Floats


@dataclass(frozen=True)
class ScoreCounts:
    """How many pairs score how much.

    Attributes:
        edges: (B + 1,), cosines from -1 to 1; bin k takes scores from edge k up to below edge
            k + 1. The last takes 1 too.
        genuine: (B,), pairs of one identity.
        impostors: (B,), pairs of two identities.
        skipped: Pairs whose score is not finite; they are counted nowhere else.
    """

    edges: Floats
    genuine: Ints
    impostors: Ints
    skipped: int = 0

    @cached_property
    def genuine_pairs(self) -> int:
        """Genuine pairs in all bins."""
        return int(self.genuine.sum())

    @cached_property
    def impostor_pairs(self) -> int:
        """Impostor pairs in all bins."""
        return int(self.impostors.sum())

    def roc(self) -> Roc:
        """The curve: K = B + 1 points, the first at (0, 0), the last at (1, 1)."""
        return Roc(
            _accepted(self.impostors) / (self.impostor_pairs or math.nan),
            _accepted(self.genuine) / (self.genuine_pairs or math.nan),
            self.edges[::-1].copy(),
        )

    @cached_property
    def eer(self) -> tuple[float, float]:
        """Equal error rate and its threshold, where FAR and 1 - TAR are the same.

        Both lie on the line between the last point with FAR < 1 - TAR and the next one. Where the
        two rates are equal at several thresholds, theirs is the middle of the highest and lowest.
        NaN without genuine or without impostor pairs.
        """
        if not self.genuine_pairs or not self.impostor_pairs:
            return math.nan, math.nan
        roc = self.roc()
        missed = (self.genuine_pairs - _accepted(self.genuine)) / self.genuine_pairs
        apart = missed - roc.far  # from 1 down to -1
        equal = np.flatnonzero(apart == 0)
        if len(equal):
            ends = roc.thresholds[equal[[0, -1]]]
            return float(roc.far[equal[0]]), float(ends.mean())
        after = int(np.argmax(apart < 0))
        share = apart[after - 1] / (apart[after - 1] - apart[after])
        rate, threshold = (
            float(kind[after - 1] + share * (kind[after] - kind[after - 1]))
            for kind in (roc.far, roc.thresholds)
        )
        return rate, threshold

    def threshold(self, far: float) -> float:
        """The lowest edge at which no greater share of the impostor pairs is accepted."""
        roc = self.roc()
        kept = np.flatnonzero(roc.far <= far * (1 + _SHARE))
        return float(roc.thresholds[kept[-1]]) if len(kept) else math.nan

    def best(self) -> tuple[Floats, Floats]:
        """The highest TAR of each FAR, for an axis that begins at one impostor pair.

        Returns:
            FAR (L,), strictly rising, from one over the impostor pairs to 1, and TAR (L,). The
            first TAR is that of no false accept where no threshold has exactly one. Empty without
            genuine or without impostor pairs.
        """
        if not self.genuine_pairs or not self.impostor_pairs:
            return np.empty(0), np.empty(0)
        roc = self.roc()
        last = np.append(np.diff(roc.far) > 0, True)
        far, tar = roc.far[last], roc.tar[last]
        if far[1] * self.impostor_pairs < 1 + _SHARE:
            return far[1:], tar[1:]
        far[0] = 1 / self.impostor_pairs
        return far, tar

    def densities(self) -> tuple[Floats, Floats, Floats]:
        """Histograms of both kinds with common bars.

        The width is Freedman and Diaconis's, 2 x the interquartile range / cube root of the pairs:
        the geometric mean of both kinds', within 1/240 and 1/8 of the range.

        Returns:
            Edges (H + 1,), genuine and impostor density (H,) each, of area 1; zeros for a kind
            without pairs. Edges of one bar where there are no pairs at all.
        """
        filled = np.flatnonzero(self.genuine + self.impostors)
        first, end = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 1)
        widths = []
        for kind in (self.genuine, self.impostors):
            if kind.any():
                total = np.cumsum(kind)
                low, high = np.searchsorted(total, [0.25 * total[-1], 0.75 * total[-1]])
                widths.append(2 * (int(high) - int(low)) / float(total[-1]) ** (1 / 3))
        width = math.prod(widths) ** (1 / max(len(widths), 1))
        width = min(max(width, (end - first) / 240), (end - first) / 8)
        group = max(math.ceil(width), 1)
        starts = np.arange(first, end, group)
        edges = self.edges[first] + np.arange(len(starts) + 1) * group / _PER_UNIT
        genuine, impostors = (
            np.add.reduceat(kind[:end], starts) / max(int(kind.sum()), 1) * _PER_UNIT / group
            for kind in (self.genuine, self.impostors)
        )
        return edges, genuine, impostors


@dataclass(frozen=True)
class Curves:
    """What one protocol gives to draw on one set; None is left out.

    Attributes:
        name: The set's name, the first part of the files' names.
        protocol: One line: its name and every switch.
        counts: Scores of pairs, for ROC, DET and histograms.
        match_ranks: (Q,), rank of each probe's mate from 1, for the CMC curve.
        tpir: FPIR (K,) and TPIR (K,), for identification with a threshold.
        marks: Points that the table reports: by the name of its FAR the point (FAR, TAR) where
            there are `counts`, otherwise by the name of its FPIR the point (FPIR, TPIR).
        longest: Ranks above this one are not told apart; the CMC curve ends here.
    """

    name: str
    protocol: str
    counts: ScoreCounts | None
    match_ranks: Ints | None
    tpir: tuple[Floats, Floats] | None
    marks: Mapping[str, tuple[float, float]]
    longest: int | None = None


def count_scores(scores: ArrayLike, same: ArrayLike) -> ScoreCounts:
    """Counts the scores of listed pairs.

    Args:
        scores: (N,), cosines. What rounding puts beyond -1 or 1 counts as -1 or 1.
        same: (N,) bool, whether a pair shows one identity.

    Raises:
        ValueError: Shapes that do not fit each other, or scores that are no cosines.
    """
    values, truth = np.asarray(scores), np.asarray(same, dtype=np.bool_)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"scores {values.shape} and same {truth.shape}: both (N,) is wanted")
    counts, skipped = np.zeros(2 * _BINS, np.int64), 0
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK].astype(np.float64)
        finite = np.isfinite(block)
        skipped += int((~finite).sum())
        _add(counts, block[finite], truth[start : start + _BLOCK][finite])
    return _score_counts(counts, skipped)


def count_all_pairs(embeddings: ArrayLike, labels: ArrayLike) -> ScoreCounts:
    """Counts the cosines of all pairs of images, each pair once.

    Pairs of an embedding that is not finite are skipped; one of zeros has cosine 0 with all others.

    Args:
        embeddings: (N, D), need not be normalised.
        labels: (N,) integers, the identity of each row.

    Raises:
        ValueError: Shapes that do not fit each other.
    """
    vectors, identity = np.asarray(embeddings, dtype=np.float64), np.asarray(labels)
    if vectors.ndim != 2 or identity.shape != vectors.shape[:1]:
        raise ValueError(
            f"embeddings {vectors.shape} and labels {identity.shape}: (N, D) and (N,) is wanted"
        )
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    finite = np.isfinite(largest[:, 0])
    scaled, identity = vectors[finite] / _or_one(largest[finite]), identity[finite]
    unit = scaled / _or_one(np.sqrt(np.square(scaled).sum(axis=1, keepdims=True)))
    counts = np.zeros(2 * _BINS, np.int64)
    tiles = [slice(first, first + _TILE) for first in range(0, len(unit), _TILE)]
    for rows, columns in itertools.combinations_with_replacement(tiles, 2):
        scores = unit[rows] @ unit[columns].T
        equal = identity[rows, None] == identity[columns]
        if rows == columns:  # each pair once, none with itself
            above = np.triu_indices(len(scores), 1)
            scores, equal = scores[above], equal[above]
        _add(counts, scores.ravel(), equal.ravel())
    return _score_counts(counts, math.comb(len(vectors), 2) - math.comb(len(unit), 2))


def _or_one(lengths: Floats) -> Floats:
    """What rows are divided by, so that zero rows stay zero."""
    return np.where(lengths == 0, 1, lengths)


def _add(counts: Ints, scores: Floats, same: NDArray[np.bool_]) -> None:
    """Adds finite scores to the counts (2 B,): impostor pairs first, then genuine ones."""
    far_off = np.abs(scores) > 1 + _ROUNDING
    if far_off.any():
        raise ValueError(f"score {scores[far_off][0]:g}: takes cosines, from -1 to 1")
    places = np.floor(scores * _PER_UNIT).astype(np.int64) + _PER_UNIT
    np.clip(places, 0, _BINS - 1, out=places)
    counts += np.bincount(places + _BINS * same, minlength=2 * _BINS)


def _score_counts(counts: Ints, skipped: int) -> ScoreCounts:
    edges = np.arange(-_PER_UNIT, _PER_UNIT + 1) / _PER_UNIT
    return ScoreCounts(edges, counts[_BINS:], counts[:_BINS], skipped)


def _accepted(counts: Ints) -> Ints:
    """Pairs at or above each edge, from the highest edge down: (B + 1,)."""
    accepted: Ints = np.concatenate([[0], np.cumsum(counts[::-1])])
    return accepted
