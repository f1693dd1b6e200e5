"""How sure ten-fold accuracy and VAL are, by draws of identities. NumPy and SciPy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from facerec.evaluation.metrics import verification_from_distances
from facerec.evaluation.uncertainty import (
    BLOCK,
    DRAWS,
    Resampled,
    checked,
    draw_weights,
    pair_shares,
    pair_weights,
    slope,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FAR = 1e-3  # of VAL
FALSE_ACCEPTS = 2  # that VAL's FAR has to leave, for draws of it to say anything

_THRICE = 3  # how often products of draws count the noise of a pair
_LEARNT = 0.5  # share of the variance from learning thresholds that is a set's own
_TAIL = 30  # VAL looks for its threshold among so many times the false accepts of its FAR
_TAIL_PAIRS = 32  # and among so many pairs at least


def resample_verification(
    distances: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    *,
    folds: int = 10,
    parts: Sequence[Ints] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Resampled:
    """K-fold accuracy and VAL, of one model or several, under draws of the identities.

    The folds stay as they are and weigh as many pairs as they have; same and different pairs keep
    their shares of the set, which the set's makers chose. Thresholds are learnt anew in each draw.

    For accuracy the weights of different pairs are first brought nearer to one, by the root of
    three: with noise counted thrice the best thresholds scatter as no set's do. They still scatter
    more than between sets, and half of the variance that this adds is kept. The half is a fit to
    simulations, no theorem: with none of it intervals were too short and models of one kind told
    apart too often, with all of it too long and too seldom.

    A threshold of VAL is the distance of a pair, not of the grid of 0.001 beside it. VAL hangs on a
    thousandth of the different pairs, three in LFW: with fewer than two its draws are NaN.

    Args:
        distances: (P,) or (models, P), squared distances of unit vectors.
        same: (P,) bool.
        identities: (P, 2), numbers of the identities at both ends.
        folds: As in `verification_from_distances`.
        parts: Rows of pairs, one array per part; each part has its own folds. All pairs when None.
        draws: How many.
        seed: Of the draws.

    Returns:
        Figures in the order models, parts, (accuracy, VAL).

    Raises:
        ValueError: Shapes that do not fit each other, fewer than one fold or draw.
    """
    columns, truth, ends = checked(distances, same, identities)
    chosen = [np.arange(len(truth))] if parts is None else [np.asarray(part) for part in parts]
    figures = [_TenFold(column, truth, rows, folds) for column in columns for rows in chosen]
    weights = draw_weights(int(ends.max()) + 1, draws, seed)
    found = np.full((draws, 2 * len(figures)), math.nan)
    held = np.full((draws, len(figures), 2), math.nan)
    for start in range(0, draws, BLOCK):
        block = slice(start, start + BLOCK)
        paired = pair_weights(weights[:, block], ends)
        for number, figure in enumerate(figures):
            if not figure.reason:
                accuracy, val, *rates = figure.draw(paired[figure.rows])
                found[block, 2 * number], found[block, 2 * number + 1] = accuracy, val
                held[block, number] = np.stack(rates, axis=1)
    influence = np.zeros((len(truth), 2 * len(figures)))
    for number, figure in enumerate(figures):
        if not figure.reason:
            moved = found[:, 2 * number + 1] - held[:, number, 0]
            steepness = slope(moved, held[:, number, 1])
            influence[figure.rows, 2 * number : 2 * number + 2] = figure.influence(steepness)
    shares, noise = pair_shares(influence, ends)
    return Resampled(
        values=np.array([value for figure in figures for value in (figure.accuracy, figure.val)]),
        draws=found,
        parts=shares,
        noise=noise,
        members=np.repeat([len(np.unique(ends[figure.rows])) for figure in figures], 2),
    )


class _TenFold:
    """K-fold accuracy and VAL of one model on some rows of pairs, for weighted pairs."""

    def __init__(self, distances: Floats, same: Bools, rows: Ints, folds: int) -> None:
        values, truth = distances[rows], same[rows]
        result = verification_from_distances(values, truth, folds)
        self.rows, self.reason, self.folds = rows, result.reason, folds
        self.accuracy, self.val = result.accuracy, result.val
        if self.reason:
            return
        parts = np.array_split(np.arange(len(values)), folds)
        fold = np.repeat(np.arange(folds), [len(part) for part in parts])
        self._same, self._share = truth, float(truth.mean())
        self._right = (values < result.thresholds[fold]) == truth
        bins = np.searchsorted(np.arange(0, 4, 0.01), values, side="right")
        known, place = np.unique(bins, return_inverse=True)
        self._bins = len(known) + 1  # the first accepts nothing
        used = np.flatnonzero(bins < 400)  # the others no threshold accepts
        cells = fold[used] * self._bins + place.ravel()[used] + 1
        self._gains = _cells(cells, used, (folds * self._bins, len(values)))
        # VAL: a threshold is the distance of one of the nearest different pairs.
        others = np.flatnonzero(~truth)
        wanted = max(_TAIL_PAIRS, math.ceil(_TAIL * FAR * len(others)))
        tail = others[np.argsort(values[others], kind="stable")][:wanted]
        self._whole = len(tail) == len(others)
        self._tail = len(tail)
        size = (folds * self._tail, len(values))
        self._false = _cells(fold[tail] * self._tail + np.arange(len(tail)), tail, size)
        mine = np.flatnonzero(truth)
        position = np.searchsorted(values[tail], values[mine])
        mine, position = mine[position < len(tail)], position[position < len(tail)]
        self._true = _cells(fold[mine] * self._tail + position, mine, size)
        self._others = _cells(fold[others], others, (folds, len(values)))
        even = np.ones((len(values), 1))
        _, _, self._at = self._val_counts(even)
        limits = np.where(self._at >= 0, values[tail][self._at], -math.inf)[:, 0]
        self._accepted = values <= limits[fold]

    def draw(self, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Accuracy, VAL, and TAR and FAR at the data's own thresholds of VAL: (draws,) each."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mine = weights[self._same].sum(axis=0)
            others = weights[~self._same].sum(axis=0)
            scale = self._share / mine, (self._share - 1) / others
            gains = weights * np.where(self._same[:, None], *scale)
            weighs = np.where(self._same[:, None], weights, 1 + (weights - 1) / math.sqrt(_THRICE))
            mine_kept, others_kept = (weighs[k].sum(axis=0) for k in (self._same, ~self._same))
            scale = self._share / mine_kept, (self._share - 1) / others_kept
            learnt = self._cumulated(self._gains, weighs * np.where(self._same[:, None], *scale))
            best = np.argmax(_rest(learnt).round(10), axis=1)  # of equals the lowest threshold
            signed = np.where(self._same, self._right, ~self._right)
            held = 1 - self._share + signed.astype(np.float64) @ gains
            new = 1 - self._share + _at(self._cumulated(self._gains, gains), best)
            accuracy = held + (new - held) * math.sqrt(_LEARNT)
            true, false, found = self._val_counts(weights)
            kept = np.broadcast_to(self._at, found.shape)
            possible = (mine > 0) & (others > 0)
            measured = possible & (FAR * int((~self._same).sum()) >= FALSE_ACCEPTS)
            return (
                np.where(possible, accuracy, math.nan),
                np.where(measured, _at(true, found) / mine, math.nan),
                _at(true, kept) / mine,
                _at(false, kept) / others,
            )

    def influence(self, steepness: float) -> Floats:
        """(P, 2): what each pair contributes to the error of accuracy and of VAL."""
        found = np.empty((len(self._same), 2))
        for kind, share, cost in (
            (self._same, self._share, 1.0),
            (~self._same, 1 - self._share, -steepness),
        ):
            right, accepted = self._right[kind], self._accepted[kind]
            found[kind, 0] = share * (right - right.mean()) / len(right)
            found[kind, 1] = cost * (accepted - accepted.mean()) / len(right)
        return found

    def _val_counts(self, weights: Floats) -> tuple[Floats, Floats, Ints]:
        """Accepted weights (folds, tail, draws) and each fold's place in the tail, -1 for none."""
        true = self._cumulated(self._true, weights)
        false = self._cumulated(self._false, weights)
        others = _rest(self._others @ weights)
        reached = _rest(false) >= FAR * others[:, None] * (1 - 1e-12)
        found = np.argmax(reached, axis=1)
        beyond = -1 if self._whole else self._tail - 1
        return true, false, np.where(reached.any(axis=1), found, beyond)

    def _cumulated(self, cells: sparse.csr_array, weights: Floats) -> Floats:
        counts: Floats = (cells @ weights).reshape(self.folds, -1, weights.shape[1])
        return np.cumsum(counts, axis=1, out=counts)


def _cells(cell: Ints, pair: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    """Adds up the weights of the pairs in each cell."""
    return sparse.csr_array((np.ones(len(pair)), (cell, pair)), shape)


def _rest(counts: Floats) -> Floats:
    """Sums over all folds but the own; the own where there is no other."""
    return counts.sum(axis=0) - counts if len(counts) > 1 else counts


def _at(cumulated: Floats, place: Ints) -> Floats:
    """Sums over the folds of what is accepted at each fold's place; -1 accepts nothing."""
    taken = np.take_along_axis(cumulated, np.maximum(place, 0)[:, None], axis=1)[:, 0]
    found: Floats = np.where(place >= 0, taken, 0.0).sum(axis=0)
    return found
