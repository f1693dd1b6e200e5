"""How sure a figure is: 95 % intervals from draws of identities. NumPy and SciPy alone.

People are drawn, not pairs: a pair's errors belong to its people, and two pairs of one person are
not two observations. In a draw an identity that came k times weighs k, a pair within an identity as
much as the identity, a pair of two identities the product of both. The figure is computed anew in
each draw; so are the thresholds that it leans on.

Products of draws have one flaw: they count the noise that is a pair's own, and no identity's, three
times (A. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007). Where each identity
is in a few pairs, as in LFW, intervals read off the draws are too long: 99 % hold the truth.
So the surplus, twice the summed squares of what each pair of identities contributes, is taken off
the draws' variance again: to first order this leaves the dyadic-robust variance (P. Aronow,
C. Samii, V. Assenova, Cluster-robust variance estimation for dyadic data, Political Analysis 23,
2015). The interval then is Student's t, on the logit scale for a fraction, whose errors are rare
and skewed; on the plain scale for a difference. Where fewer than five identities decide, there is
no t to speak of: then it is the exact binomial interval of as many observations as would have this
variance (E. Korn, B. Graubard, Survey Methodology 24, 1998); without any error, of all identities.

A `Resampled` holds several figures under the same draws, so that differences of two models, or of
two groups of people, keep what both have in common.

Over 300 lines: a figure, its draws and its interval are one subject.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special, stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CONFIDENCE = 0.95
DRAWS = 1000

BLOCK = 128  # draws at once
_OUTSIDE = (1 - CONFIDENCE) / 2  # on either side of an interval
_FEW = 5  # identities that decide


@dataclass(frozen=True)
class Interval:
    """A figure and where it would lie with other people: 95 times in 100 between the ends.

    Attributes:
        value: The figure; NaN where there is none.
        low: Lower end.
        high: Upper end.
        identities: How many were drawn for it, each time.
    """

    value: float
    low: float
    high: float
    identities: int


@dataclass(frozen=True)
class Resampled:
    """Figures of one set under draws of its identities.

    Attributes:
        values: (K,), from the data as they are.
        draws: (R, K), in each draw; NaN where a draw admits no figure.
        parts: (N, K), what each identity contributes to the figure's error, to first order.
        noise: (K, K), sums of products of what each pair of two identities contributes.
        members: (K,), identities behind each figure.
        surplus: How many times too often the draws count `noise`.
    """

    values: Floats
    draws: Floats
    parts: Floats
    noise: Floats
    members: Ints
    surplus: int = 2

    def interval(self, figure: int) -> Interval:
        """Interval of a figure that is a fraction."""
        mix = np.eye(len(self.values))[figure]
        value, members = float(self.values[figure]), int(self.members[figure])
        error = self._standard_error(mix, members)
        if math.isnan(value) or math.isnan(error) or members < 2:
            return Interval(value, math.nan, math.nan, members)
        if value in (0.0, 1.0):
            bound = _OUTSIDE ** (1 / members)
            low, high = (bound, 1.0) if value else (0.0, 1 - bound)
            return Interval(value, low, high, members)
        freedom = self._freedom(mix, members)
        if freedom + 1 < _FEW:
            like = min(value * (1 - value) / max(error**2, 1e-300), members)  # so many observations
            right, wrong = value * like, (1 - value) * like
            low = float(stats.beta.ppf(_OUTSIDE, right, wrong + 1))
            high = float(stats.beta.isf(_OUTSIDE, right + 1, wrong))
            return Interval(value, low, high, members)
        half = float(stats.t.isf(_OUTSIDE, freedom)) * error / (value * (1 - value))
        low, high = special.expit(special.logit(value) + np.array([-half, half]))
        return Interval(value, float(low), float(high), members)

    def difference(self, one: int, other: int, *, chosen_from: int = 2) -> Interval:
        """Interval of figure `one` minus figure `other`.

        Args:
            one: Number of a figure.
            other: Number of another.
            chosen_from: How many figures these two are the extremes of: Tukey's studentised range
                makes up for the choice.
        """
        mix = np.zeros(len(self.values))
        mix[one], mix[other] = mix[one] + 1, mix[other] - 1
        members = int(min(self.members[one], self.members[other]))
        value, error, freedom = self.contrast(mix)
        if math.isnan(value) or math.isnan(error):
            return Interval(value, math.nan, math.nan, members)
        if chosen_from == 2:
            quantile = float(stats.t.isf(_OUTSIDE, freedom))
        else:
            ranges = stats.studentized_range
            quantile = float(ranges.ppf(CONFIDENCE, chosen_from, freedom)) / math.sqrt(2)
        return Interval(value, value - quantile * error, value + quantile * error, members)

    def contrast(self, mix: ArrayLike) -> tuple[float, float, float]:
        """Weighted sum of figures: its value, standard error, and degrees of freedom.

        Args:
            mix: (K,), what each figure counts; not all of them 0.
        """
        weights = np.asarray(mix, np.float64)
        used = weights != 0  # figures that are not there do not matter
        members = int(self.members[used].min())
        value = float(self.values[used] @ weights[used])
        error = self._standard_error(weights, members) if members > 1 else math.nan
        return value, error, self._freedom(weights, members)

    def _freedom(self, mix: Floats, members: int) -> float:
        """Degrees of freedom: the identities that decide, less one.

        Where two models differ on four people, or four make most of the errors, there are four
        observations, however many pairs there are.
        """
        squares = np.square(self.parts @ mix)
        deciding = float(squares.sum() ** 2 / max(float(np.square(squares).sum()), 1e-300))
        return max(min(deciding, members) - 1, 1.0)

    def _standard_error(self, mix: Floats, members: int) -> float:
        used = mix != 0
        drawn = self.draws[:, used] @ mix[used]
        drawn = drawn[np.isfinite(drawn)]
        if len(drawn) < 2:
            return math.nan
        total = float(drawn.var(ddof=1))
        noise = float(mix[used] @ self.noise[np.ix_(used, used)] @ mix[used])
        kept = max(total - self.surplus * noise, total / (1 + self.surplus))
        return math.sqrt(kept * members / max(members - 1, 1))


def draw_weights(identities: int, draws: int, seed: int) -> Floats:
    """How often each identity comes in each draw: (identities, draws), each column sums to N.

    Args:
        identities: How many there are, N; as many are drawn each time.
        draws: How many draws.
        seed: The same gives the same draws.

    Raises:
        ValueError: Fewer than one draw or identity.
    """
    if identities < 1 or draws < 1:
        raise ValueError(f"{identities} identities, {draws} draws: takes 1 or more of each")
    chosen = np.random.default_rng(seed).integers(identities, size=(draws, identities))
    chosen += np.arange(draws)[:, None] * identities
    counts = np.bincount(chosen.ravel(), minlength=draws * identities)
    return np.ascontiguousarray(counts.reshape(draws, identities).T, dtype=np.float64)


def identities_from_pairs(
    first: ArrayLike, second: ArrayLike, same: ArrayLike, images: ArrayLike | None = None
) -> Ints:
    """Who is who where no names are known: images that same-pairs join are one identity.

    Identical images are one identity too. A person in two pairs that share no image counts twice,
    which makes intervals a little too short: say it beside them.

    Args:
        first: (P,), row of an image.
        second: (P,), row of the other.
        same: (P,) bool.
        images: What is in each row, equal for identical images, such as digests; (rows,).

    Returns:
        (P, 2), the identities of both ends, numbered from 0.
    """
    ends = np.stack([np.asarray(first, np.int64), np.asarray(second, np.int64)], axis=1)
    if images is not None:
        ends = np.unique(np.asarray(images), return_inverse=True)[1].ravel()[ends]
    nodes, numbered = np.unique(ends, return_inverse=True)
    numbered = numbered.reshape(ends.shape)
    joined = numbered[np.asarray(same, np.bool_)]
    edges = sparse.coo_array(
        (np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(len(nodes), len(nodes))
    )
    _, component = sparse.csgraph.connected_components(edges, directed=False)
    found: Ints = np.unique(component[numbered], return_inverse=True)[1].reshape(ends.shape)
    return found.astype(np.int64)


def resample_accuracy(
    distances: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    thresholds: ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Resampled:
    """Accuracy at fixed thresholds, of one model or several, under draws of the identities. Exact.

    Args:
        distances: (P,) or (models, P), squared distances; a pair is accepted strictly below.
        same: (P,) bool.
        identities: (P, 2), numbers of the identities at both ends.
        thresholds: One, or one per model.
        draws: How many.
        seed: Of the draws.

    Returns:
        One figure per model.

    Raises:
        ValueError: Shapes that do not fit each other, or fewer than one draw.
    """
    columns, truth, ends = checked(distances, same, identities)
    limits = np.broadcast_to(np.asarray(thresholds, np.float64), len(columns))[:, None]
    right = ((columns < limits) == truth).astype(np.float64)
    right[~np.isfinite(columns).all(axis=1)] = math.nan
    kinds = [kind for kind in (truth, ~truth) if kind.any()]
    weights = draw_weights(int(ends.max()) + 1, draws, seed)
    found = np.zeros((draws, len(columns)))
    for start in range(0, draws, BLOCK):
        paired = pair_weights(weights[:, start : start + BLOCK], ends)
        for kind in kinds:
            with np.errstate(invalid="ignore"):
                share = (right[:, kind] @ paired[kind]) / paired[kind].sum(axis=0)
            found[start : start + BLOCK] += kind.mean() * share.T
    influence = np.zeros((len(truth), len(columns)))
    for kind in kinds:
        mine = right[:, kind].T
        influence[kind] = (mine - mine.mean(axis=0)) / len(truth)
    shares, noise = pair_shares(influence, ends)
    members = np.full(len(columns), len(np.unique(ends)))
    return Resampled(right.mean(axis=1), found, shares, noise, members)


def pair_weights(weights: Floats, identities: Ints) -> Floats:
    """What pairs weigh: (identities, draws) and (P, 2) give (P, draws)."""
    found: Floats = weights[identities[:, 0]]
    two = identities[:, 0] != identities[:, 1]
    found[two] *= weights[identities[two, 1]]
    return found


def slope(moved: Floats, false_accepts: Floats) -> float:
    """How much of a TAR one false accept rate costs: from draws, by least squares.

    Args:
        moved: (R,), a TAR at the draw's own threshold less the one at the data's threshold.
        false_accepts: (R,), FAR in the draw at the data's threshold.
    """
    known = np.isfinite(moved) & np.isfinite(false_accepts)
    if not known.any():
        return 0.0
    away = false_accepts[known] - false_accepts[known].mean()
    return float(-(moved[known] @ away) / max(float(away @ away), 1e-300))


def checked(
    distances: ArrayLike, same: ArrayLike, identities: ArrayLike
) -> tuple[Floats, Bools, Ints]:
    """Distances (models, P), same (P,) and identities (P, 2) as arrays.

    Raises:
        ValueError: Shapes that do not fit each other.
    """
    columns = np.atleast_2d(np.asarray(distances, np.float64))
    truth, ends = np.asarray(same, np.bool_), np.asarray(identities, np.int64)
    if columns.ndim != 2 or truth.shape != columns.shape[1:] or ends.shape != (len(truth), 2):
        raise ValueError(
            f"distances {np.shape(distances)}, same {truth.shape}, identities {ends.shape}: "
            "(P,) or (models, P), (P,) and (P, 2) is wanted"
        )
    if not len(truth) or ends.min() < 0:
        raise ValueError("identities: takes one pair or more, and numbers from 0")
    return columns, truth, ends


def pair_shares(influence: Floats, ends: Ints) -> tuple[Floats, Floats]:
    """From (P, K) per pair: (N, K) per identity, and (K, K) of pairs of two identities."""
    count = int(ends.max()) + 1
    two = ends[:, 0] != ends[:, 1]
    rows = np.concatenate([ends[:, 0], ends[two, 1]])
    pairs = np.concatenate([np.arange(len(ends)), np.flatnonzero(two)])
    membership = sparse.csr_array((np.ones(len(rows)), (rows, pairs)), (count, len(ends)))
    keys = ends[two].min(axis=1) * count + ends[two].max(axis=1)
    known, place = np.unique(keys, return_inverse=True)
    joined = sparse.csr_array(
        (np.ones(len(keys)), (place.ravel(), np.arange(len(keys)))), (len(known), len(keys))
    )
    dyads = joined @ influence[two]
    return membership @ influence, dyads.T @ dyads
