"""True accept rates of scored pairs at given false accept rates, by two rules. Pure NumPy.

Input that admits no number gives NaN and a sentence, never a traceback.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Rule = Literal["nearest", "not exceeding"]

# False accept rates by name, as one over the rate: whole numbers keep the counts exact.
FARS: Mapping[str, int] = {f"1e-{digits}": 10**digits for digits in range(6, 0, -1)}

_ALIKE = 1e-7  # cosines nearer than this differ by rounding only
_FURTHER = 1000  # impostor pairs beyond the highest rate that are sorted at first


@dataclass(frozen=True)
class PairTars:
    """Result of `tar_at_far`, each number by the name of its FAR.

    Attributes:
        tars: True accept rates; NaN where there is no number.
        fars: False accept rates where they were read off.
        thresholds: Pairs are accepted at or above.
        reasons: Why there is no number, for those without.
        genuine_pairs: Pairs of one identity.
        impostor_pairs: Pairs of two identities.
        rule: By which rule.
    """

    tars: Mapping[str, float]
    fars: Mapping[str, float]
    thresholds: Mapping[str, float]
    reasons: Mapping[str, str]
    genuine_pairs: int
    impostor_pairs: int
    rule: Rule


def tar_at_far(
    scores: ArrayLike,
    same: ArrayLike,
    fars: Mapping[str, int] = FARS,
    rule: Rule = "nearest",
    false_accepts: int = 1,
) -> PairTars:
    """True accept rates at given false accept rates, by one of two rules.

    `nearest`, insightface's: of the points of the ROC curve, the one whose FAR is nearest to the
    wanted one, which it may exceed; of two equally near the higher FAR, of several with that FAR
    the highest TAR. The points are scikit-learn's: one per different score, and (0, 0); a point
    whose step is like the next one's in both counts is left out, the first and last are not.

    `not exceeding`: at most floor(FAR x impostor pairs) impostor pairs are accepted, and pairs that
    tie with the next one are refused, genuine ones too.

    Args:
        scores: (N,), higher is more alike.
        same: (N,) bool.
        fars: The rates, as `FARS`.
        rule: Which rule.
        false_accepts: A FAR counts where impostor pairs x FAR is at least this. 100 makes a
            dependable rate; 1 lets IJB-C report 1e-6, as the field does, from 15 false accepts.

    Raises:
        ValueError: Shapes that do not fit each other, or an unknown rule.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=np.bool_)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"scores {values.shape} and same {truth.shape}: both (N,) is wanted")
    if rule not in get_args(Rule):
        raise ValueError(f"rule = {rule!r}: takes {' or '.join(map(repr, get_args(Rule)))}")
    genuine, impostors = values[truth], values[~truth]
    reasons = dict.fromkeys(fars, _why_no_tar(genuine, impostors))
    for name, per in fars.items():
        if not reasons[name] and len(impostors) < false_accepts * per:
            reasons[name] = (
                f"{len(impostors)} impostor pairs; FAR {name} needs {false_accepts * per}, which "
                f"leave {false_accepts} false accept{'s' if false_accepts > 1 else ''}"
            )
    measured = [name for name in fars if not reasons[name]]
    nothing = dict.fromkeys(fars, math.nan)
    tars, rates, thresholds = dict(nothing), dict(nothing), dict(nothing)
    if measured:
        found = _read_off(rule, -genuine, -impostors, [fars[name] for name in measured])
        for name, (accepted, wrong, threshold) in zip(measured, found, strict=True):
            tars[name], rates[name] = accepted / len(genuine), wrong / len(impostors)
            thresholds[name] = threshold
    reasons = {name: reason for name, reason in reasons.items() if reason}
    return PairTars(tars, rates, thresholds, reasons, len(genuine), len(impostors), rule)


def _why_no_tar(genuine: Floats, impostors: Floats) -> str:
    if not len(genuine) or not len(impostors):
        kind = "different" if len(impostors) else "same"
        return f"all {len(genuine) + len(impostors)} pairs are {kind}: both kinds are needed"
    ends = [end for kind in (genuine, impostors) for end in (kind.min(), kind.max())]
    if not np.isfinite(ends).all():
        return "embeddings or scores are not finite"
    if max(ends) - min(ends) < _ALIKE:
        return "all pairs have the same score: the embeddings have collapsed"
    return ""


def _read_off(
    rule: Rule, genuine: Floats, impostors: Floats, pers: list[int]
) -> list[tuple[int, int, float]]:
    """Accepted genuine pairs, accepted impostor pairs and threshold, for each FAR.

    Args:
        rule: Which rule.
        genuine: Negated scores, so that the most alike come first when they are sorted.
        impostors: Likewise.
        pers: One over each FAR.
    """
    genuine, count = np.sort(genuine), len(impostors)
    # The curve is needed up to the highest rate and, for the nearest point, a little further.
    wanted = count // min(pers) + 1
    cut = int(1.1 * wanted) + _FURTHER
    if cut < count:
        limit = np.partition(impostors, cut)[cut]
        head = np.sort(impostors[impostors <= limit])
        if rule == "not exceeding":
            return _not_exceeding(genuine, head, count, pers)
        found = _nearest(genuine, head, count, pers)
        if found:
            return found
    impostors = np.sort(impostors)
    rules = {"nearest": _nearest, "not exceeding": _not_exceeding}
    return rules[rule](genuine, impostors, count, pers)


def _nearest(
    genuine: Floats, impostors: Floats, count: int, pers: list[int]
) -> list[tuple[int, int, float]]:
    """By the point of the ROC curve that is nearest.

    Each different score of impostors starts a level of the curve, a number of false accepts; level
    0 lies before the first. Of a level's points only the highest TAR can be chosen, so one is kept.

    Args:
        genuine: Negated scores, ascending.
        impostors: Likewise, all of them or the lowest with all their ties.
        count: How many impostors there are in all.
        pers: One over each FAR.

    Returns:
        As `_read_off`; nothing where the given impostors do not reach far enough.
    """
    first = np.flatnonzero(np.concatenate([[True], impostors[1:] != impostors[:-1]]))
    levels = impostors[first]
    wrong = np.append(first, len(impostors))  # false accepts of level 0 and of each one
    ties = np.diff(wrong)
    before = np.searchsorted(genuine, levels)  # genuine pairs that are accepted before the step
    equal = np.searchsorted(genuine, levels, side="right") - before  # and with the step
    accepted = np.append(before, len(genuine))
    kept = np.ones(len(wrong), np.bool_)  # the ends are; so is a level that rises afterwards
    kept[1:-1] = accepted[1:-1] > before[:-1] + equal[:-1]
    kept[1:-1] |= (ties[1:] != ties[:-1]) | (equal[1:] != equal[:-1])
    kept[1] |= before[0] == 0  # the curve's first point; (0, 0) is put before it
    kept[-1] = len(impostors) == count  # otherwise what comes after it is not known
    accepted, wrong = accepted[kept], wrong[kept]
    rates = wrong / count
    found = []
    for per in pers:
        place = int(np.searchsorted(rates, 1 / per))
        if place == len(rates):
            return []
        if place and abs(rates[place - 1] - 1 / per) < abs(rates[place] - 1 / per):
            place -= 1
        pairs, errors = int(accepted[place]), int(wrong[place])
        last = [kind[n - 1] for kind, n in ((genuine, pairs), (impostors, errors)) if n]
        found.append((pairs, errors, -float(max(last, default=-math.inf))))
    return found


def _not_exceeding(
    genuine: Floats, impostors: Floats, count: int, pers: list[int]
) -> list[tuple[int, int, float]]:
    """By the highest number of false accepts that is allowed; as `_nearest`."""
    found = []
    for per in pers:
        allowed = count // per
        refused = impostors[allowed] if allowed < count else math.inf
        pairs, errors = (int(np.searchsorted(kind, refused)) for kind in (genuine, impostors))
        found.append((pairs, errors, float(np.nextafter(-refused, math.inf))))
    return found
