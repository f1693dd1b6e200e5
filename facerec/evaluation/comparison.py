"""Is one model better than another? A paired comparison on the same pairs, by draws of identities.

Both models are measured in each draw, so what makes the set hard for both falls out. The verdict is
that of the interval: where it holds zero, the two are not distinguishable. Two models of one kind
are told apart about once in twenty comparisons, as the 95 % of the interval say; many metrics or
many models looked at together are more such chances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from facerec.evaluation import roc
from facerec.evaluation.metrics import FARS, tar_at_far
from facerec.evaluation.roc import Rule
from facerec.evaluation.uncertain_folds import resample_verification
from facerec.evaluation.uncertain_tars import resample_all_pairs, resample_pair_list
from facerec.evaluation.uncertainty import DRAWS, Interval, Resampled

BETTER, WORSE, NEITHER = "better", "worse", "not distinguishable"


@dataclass(frozen=True)
class Comparison:
    """Model A against model B in one metric of which more is better.

    Attributes:
        metric: Such as `accuracy` or `tar@far=1e-3`.
        a: What A has.
        b: What B has.
        effect: A minus B.
        low: Lower end of the effect's 95 % interval.
        high: Upper end.
        verdict: What A is, beside B: `better`, `worse` or `not distinguishable`.
        identities: How many were drawn, each time.
    """

    metric: str
    a: float
    b: float
    effect: float
    low: float
    high: float
    verdict: str
    identities: int


def compare(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    *,
    folds: int = 10,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compares two models on the same list of pairs, by `accuracy` and by `val@far=1e-3`.

    Args:
        scores_a: (P,), cosines of the pairs by model A.
        scores_b: (P,), by model B, the pairs in the same order.
        same: (P,) bool.
        identities: (P, 2), numbers of the identities at both ends.
        folds: As in `metrics.verification`.
        draws: How many draws of the identities.
        seed: Of the draws.

    Returns:
        One comparison per metric. What cannot be measured is NaN, and not distinguishable.

    Raises:
        ValueError: Shapes that do not fit each other, fewer than one fold or draw.
    """
    if np.shape(scores_a) != np.shape(scores_b):
        raise ValueError(
            f"scores of A {np.shape(scores_a)} and of B {np.shape(scores_b)}: both must be of the "
            "same pairs"
        )
    distances = 2 - 2 * np.stack([np.asarray(s, np.float64) for s in (scores_a, scores_b)])
    found = resample_verification(distances, same, identities, folds=folds, draws=draws, seed=seed)
    return _compared(("accuracy", "val@far=1e-3"), found)


def compare_all_pairs(
    embeddings_a: ArrayLike,
    embeddings_b: ArrayLike,
    labels: ArrayLike,
    *,
    fars: Mapping[str, int] = FARS,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compares two models over all pairs of the same images, by `tar` and each `tar@far=...`.

    Args:
        embeddings_a: (N, D), by model A.
        embeddings_b: (N, E), by model B, the images in the same order.
        labels: (N,) integers.
        fars: The rates, as `metrics.FARS`.
        draws: How many draws of the identities.
        seed: Of the draws.

    Returns:
        One comparison per metric; `tar` alone, with NaN, where nothing can be measured.

    Raises:
        ValueError: Shapes that do not fit each other, or fewer than one draw.
    """
    tables = [embeddings_a, embeddings_b]
    exact = [tar_at_far(table, labels, fars) for table in tables]
    if any(result.reason for result in exact):
        a, b = (result.tar for result in exact)
        return (Comparison("tar", a, b, a - b, math.nan, math.nan, NEITHER, 0),)
    names, found = resample_all_pairs(tables, labels, fars=fars, draws=draws, seed=seed)
    values = [value for r in exact for value in (r.tar, *(r.tars[name] for name in names))]
    return _compared(
        ("tar", *(f"tar@far={name}" for name in names)), replace(found, values=np.array(values))
    )


def compare_pair_list(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    *,
    rule: Rule = "nearest",
    false_accepts: int = 1,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compares two models on the same long list of pairs, such as IJB's, by each `tar@far=...`.

    Args:
        scores_a: (P,), cosines of the pairs by model A.
        scores_b: (P,), by model B, the pairs in the same order.
        same: (P,) bool.
        identities: (P, 2), numbers of the identities at both ends.
        rule: Where a TAR is read off, see `roc.tar_at_far`.
        false_accepts: As there.
        draws: How many draws of the identities.
        seed: Of the draws.

    Returns:
        One comparison per FAR that has an interval.

    Raises:
        ValueError: Shapes that do not fit each other, or fewer than one draw.
    """
    both = [np.asarray(scores_a), np.asarray(scores_b)]
    exact = [roc.tar_at_far(one, same, roc.FARS, rule, false_accepts).tars for one in both]
    names, found = resample_pair_list(
        np.stack(both), same, identities, fars=roc.FARS, draws=draws, seed=seed
    )
    values = [math.nan if n == "tar" else tars[n] for tars in exact for n in ("tar", *names)]
    compared = _compared(
        ("tar", *(f"tar@far={name}" for name in names)), replace(found, values=np.array(values))
    )
    return compared[1:]


def compare_figures(names: Sequence[str], a: Resampled, b: Resampled) -> tuple[Comparison, ...]:
    """Compares two models by figures that were resampled apart, under the same draws.

    Args:
        names: Of the figures.
        a: Model A's, without noise of pairs, as `uncertain_ranks` makes them.
        b: Model B's, with the same seed and identities.
    """
    joined = Resampled(
        values=np.concatenate([a.values, b.values]),
        draws=np.hstack([a.draws, b.draws]),
        parts=np.hstack([a.parts, b.parts]),
        noise=np.zeros((2 * len(names), 2 * len(names))),
        members=np.concatenate([a.members, b.members]),
        surplus=0,
    )
    return _compared(names, joined)


def verdict(difference: Interval) -> str:
    """What an interval of A minus B says of A."""
    if difference.low > 0:
        return BETTER
    return WORSE if difference.high < 0 else NEITHER


def _compared(metrics: Sequence[str], found: Resampled) -> tuple[Comparison, ...]:
    rows = []
    for number, metric in enumerate(metrics):
        other = number + len(metrics)
        gap = found.difference(number, other)
        a, b = float(found.values[number]), float(found.values[other])
        rows.append(
            Comparison(metric, a, b, gap.value, gap.low, gap.high, verdict(gap), gap.identities)
        )
    return tuple(rows)
