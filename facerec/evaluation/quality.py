"""Does a scalar tell how good an image is? Curves of error versus reject. Pure NumPy.

Images are rejected from the lowest scalar up, and a genuine pair goes with either of its images: a
pair is as good as its worse image. What is left of the genuine pairs is compared at a threshold
that was fixed once, over all images; the share refused is the false non-match rate (FNMR). A scalar
that tells quality lets it fall. (P. Grother, E. Tabassi, Performance of Biometric Quality Measures,
IEEE Transactions on Pattern Analysis and Machine Intelligence 29, 2007.)

The area under this curve is its mean height, up to 20 % of the images and up to 50 %. Rejecting at
random leaves the FNMR where it is, whatever the share. `ORACLE` is the order of someone who knows
the errors, see `quality_pairs.oracle`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facerec.evaluation.quality_pairs import Compared, oracle
from facerec.evaluation.uncertainty import BLOCK, DRAWS, Interval, Resampled, draw_weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PERCENTS = np.arange(51)  # of the images that are rejected
UP_TO = (20, 50)  # percents: where areas end; the verdict is about the first
RANDOM, ORACLE = "random", "oracle"

_END = len(PERCENTS)
_AT_ONCE = 1 << 22  # pairs, over several draws: some 200 MB


@dataclass(frozen=True)
class Area:
    """Area under the first part of an error-versus-reject curve.

    Attributes:
        up_to: Percent of the images where it ends.
        area: Mean FNMR over 0 to `up_to` percent rejected, by trapezoids.
        difference: The same less that of rejecting at random; below 0 is better.
        gain: What the scalar saves of what the oracle saves: 1 is as good as the oracle, 0 as
            rejecting at random, below 0 worse than that. NaN where there is nothing to save.
        verdict: Whether it lowers errors more than rejecting at random: `yes`, `no` (it raises
            them) or `not distinguishable`; empty without an interval.
    """

    up_to: int
    area: Interval
    difference: Interval
    gain: float
    verdict: str


@dataclass(frozen=True)
class RejectCurve:
    """Error versus reject by one scalar.

    Attributes:
        quality: The scalar's name, `RANDOM` or `ORACLE`.
        errors: (51,), FNMR after 0, 1, ... 50 percent; NaN where no pair is left.
        misses: (51,), refused genuine pairs that each error rests on.
        areas: One per entry of `UP_TO`.
        reason: Why there is no number; empty where there is one.
    """

    quality: str
    errors: Floats
    misses: Floats
    areas: tuple[Area, ...]
    reason: str = ""


def error_versus_reject(
    qualities: Mapping[str, ArrayLike],
    compared: Compared,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[RejectCurve, ...]:
    """Error-versus-reject curves of several scalars under the same draws of identities.

    Of images with equal scalars one at random goes first. In a draw the images of an identity that
    came k times are k images each; ranks and shares are taken anew, the threshold stays.

    Args:
        qualities: Scalars by name, (N,) each, higher is better, of the images in `compared`.
        compared: Who was compared with whom, and which genuine pairs were refused.
        draws: Of identities, for intervals; 0 for none.
        seed: Of the draws, and of the order of equal scalars.

    Returns:
        One per scalar, then `RANDOM` and `ORACLE`, which have no intervals.

    Raises:
        ValueError: Scalars of another length.
    """
    count = len(compared.identities)
    scalars = {name: np.asarray(values, np.float64) for name, values in qualities.items()}
    for name, values in scalars.items():
        if values.shape != (count,):
            raise ValueError(f"{name} {values.shape}: ({count},) is wanted, one of each image")
    reasons = {name: compared.reason or _why_not(name, v) for name, v in scalars.items()}
    if compared.reason:
        return tuple(_nothing(name, compared.reason) for name in (*scalars, RANDOM, ORACLE))
    chance = np.random.default_rng(seed).permutation(count)
    orders = {n: np.lexsort((chance, v)) for n, v in scalars.items() if not reasons[n]}
    orders[ORACLE] = oracle(compared)
    whole = {name: _counts(order, compared, None) for name, order in orders.items()}
    found = _resampled(orders, whole, compared, draws, seed)
    fnmr, best = float(found.values[-1]), found.values[-3:-1]  # of all images; oracle's areas
    curves = []
    for number, (name, (left, misses)) in enumerate(whole.items()):
        areas = []
        for part, up_to in enumerate(UP_TO):
            figure = number * len(UP_TO) + part
            area, apart = found.interval(figure), found.difference(figure, len(found.values) - 1)
            saved = fnmr - best[part]
            gain = float((fnmr - area.value) / saved) if saved > 0 else math.nan
            areas.append(Area(up_to, area, apart, gain, _verdict(apart)))
        curves.append(RejectCurve(name, _ratio(misses, left)[0], misses[0], tuple(areas)))
    level = Interval(fnmr, math.nan, math.nan, int(found.members[-1]))
    none = Interval(0.0, math.nan, math.nan, level.identities)
    zero = math.nan if math.isnan(fnmr) else 0.0
    flat = tuple(Area(up_to, level, none, zero, "") for up_to in UP_TO)
    all_left = np.full(_END, whole[ORACLE][1][0, 0])
    by_name = {curve.quality: curve for curve in curves}
    by_name[RANDOM] = RejectCurve(RANDOM, np.full(_END, fnmr), all_left, flat)
    by_name |= {name: _nothing(name, reason) for name, reason in reasons.items() if reason}
    return tuple(by_name[name] for name in (*scalars, RANDOM, ORACLE))


def _why_not(name: str, values: Floats) -> str:
    lacking = int((~np.isfinite(values)).sum())
    if lacking:
        return f"{lacking} of {len(values)} images have no finite {name}"
    if np.ptp(values) == 0:
        return f"{name} is {values[0]:g} for all {len(values)} images"
    return ""


def _nothing(name: str, reason: str) -> RejectCurve:
    none = Interval(math.nan, math.nan, math.nan, 0)
    areas = tuple(Area(up_to, none, none, math.nan, "") for up_to in UP_TO)
    return RejectCurve(name, np.full(_END, math.nan), np.full(_END, math.nan), areas, reason)


def _verdict(apart: Interval) -> str:
    if math.isnan(apart.low) or math.isnan(apart.high):
        return ""
    return "yes" if apart.high < 0 else "no" if apart.low > 0 else "not distinguishable"


def _gone(order: Ints, compared: Compared, weights: Floats | None) -> Ints:
    """At which percent each genuine pair is gone, `_END` where at none: (P, R)."""
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    worse = ranks[compared.genuine].min(axis=1)
    if weights is None:
        passed = np.arange(1.0, len(order) + 1)[:, None]
    else:
        passed = np.cumsum(weights[compared.identities[order]], axis=0)
    percents = np.ceil(100 * passed[worse] / passed[-1])
    found: Ints = np.minimum(percents, _END).astype(np.int64)
    return found


def _counts(order: Ints, compared: Compared, weights: Floats | None) -> tuple[Floats, Floats]:
    """Genuine pairs that are left after each percent, and those of them that are refused: (R, 51).

    Args:
        order: (N,), the images from the worst to the best.
        compared: The pairs.
        weights: How often each identity came in each draw, (identities, R); once when None.
    """
    gone = _gone(order, compared, weights)
    draws = gone.shape[1]
    mine = compared.identities[compared.genuine[:, 0]]
    counted = np.ones((len(mine), 1)) if weights is None else weights[mine]
    places = gone + (_END + 1) * np.arange(draws)
    both = []
    for kind in (slice(None), compared.missed):
        ends = np.bincount(places[kind].ravel(), counted[kind].ravel(), (_END + 1) * draws)
        left = ends.reshape(draws, _END + 1)[:, ::-1].cumsum(axis=1)[:, ::-1]
        both.append(left[:, 1:])
    return both[0], both[1]


def _ratio(misses: Floats, left: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        found: Floats = misses / np.where(left > 0, left, math.nan)
    return found


def _areas(errors: Floats) -> Floats:
    """Areas (R, areas) of curves (R, 51); what lies beyond an area's end may be NaN."""
    parts = [errors[:, : end + 1] @ _trapezoids(end)[: end + 1] / (2 * end) for end in UP_TO]
    return np.stack(parts, axis=1)


def _trapezoids(end: int) -> Floats:
    """What each of the 51 errors adds to an area, times 2 `end`: whole numbers add up exactly."""
    weights = np.zeros(_END)
    weights[: end + 1] = 2.0
    weights[[0, end]] = 1.0
    return weights


def _resampled(
    orders: Mapping[str, Ints],
    whole: Mapping[str, tuple[Floats, Floats]],
    compared: Compared,
    draws: int,
    seed: int,
) -> Resampled:
    """Areas of each order, in this order, and the FNMR of all images, under draws."""
    identities = int(compared.identities.max()) + 1
    mine = compared.identities[compared.genuine[:, 0]]
    weights = draw_weights(identities, draws, seed) if draws else np.empty((identities, 0))
    values, drawn, parts = [], [], []
    fnmr = np.full((draws, 1), math.nan)
    step = max(1, min(BLOCK, _AT_ONCE // max(len(mine), 1)))
    for name, order in orders.items():
        left, misses = whole[name]
        errors = _ratio(misses, left)
        values.append(_areas(errors)[0])
        found = np.full((draws, len(UP_TO)), math.nan)
        # The oracle is chosen by these very errors: it has no intervals.
        for start in range(0, 0 if name == ORACLE else draws, step):
            block = slice(start, start + step)
            ratio = _ratio(*_counts(order, compared, weights[:, block])[::-1])
            found[block], fnmr[block] = _areas(ratio), ratio[:, :1]
        drawn.append(found)
        means = np.stack([_trapezoids(end) / (2 * end) for end in UP_TO])
        parts.append(_parts(order, compared, left[0], errors[0], means))
    parts.append(_parts(order, compared, left[0], errors[0], np.eye(1, _END)))
    values.append(errors[0, :1])
    figures = len(orders) * len(UP_TO) + 1
    return Resampled(
        values=np.concatenate(values),
        draws=np.concatenate([*drawn, fnmr], axis=1),
        parts=np.concatenate(parts, axis=1),
        noise=np.zeros((figures, figures)),  # both images of a genuine pair are of one identity
        members=np.full(figures, len(np.unique(mine))),
        surplus=0,
    )


def _parts(order: Ints, compared: Compared, left: Floats, errors: Floats, mean: Floats) -> Floats:
    """What each identity adds to means of the errors, ranks held fixed: (identities, means)."""
    gone = _gone(order, compared, None)[:, 0]
    mine = compared.identities[compared.genuine[:, 0]]
    found = np.zeros((int(compared.identities.max()) + 1, len(mean)))
    for number, weights in enumerate(mean):
        with np.errstate(invalid="ignore", divide="ignore"):
            each = np.nan_to_num(weights / left, posinf=0.0)
        shares = np.append(0.0, np.cumsum(each))
        levels = np.append(0.0, np.cumsum(np.nan_to_num(each * errors)))
        found[:, number] = np.bincount(
            mine, compared.missed * shares[gone] - levels[gone], len(found)
        )
    return found
