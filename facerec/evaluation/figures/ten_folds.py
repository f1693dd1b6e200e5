"""Ten folds of pairs, as LFW has them: accuracy and VAL, of all pairs and of each group."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facerec.data.shards import Pairs
from facerec.evaluation import metrics
from facerec.evaluation.curves import Curves, count_scores
from facerec.evaluation.figures.measure import (
    Evaluation,
    Measure,
    Part,
    Wanted,
    drawn,
    missing,
    on_off,
)
from facerec.evaluation.scores import Scores
from facerec.evaluation.uncertain_folds import FALSE_ACCEPTS, FAR, resample_verification
from facerec.evaluation.uncertainty import Resampled

BY_NAME = "identities, known by name"
BY_PAIRS = (
    "groups of images: no names are known, so images that same-pairs join, or that are identical, "
    "count as one identity"
)


def verify(
    name: str,
    vectors: NDArray[np.float32],
    pairs: Pairs,
    groups: NDArray[np.str_] | None,
    people: tuple[NDArray[np.int64], bool] | None,
    wanted: Wanted,
) -> Evaluation:
    """Ten-fold accuracy and VAL, and both per group with the gap between best and worst group.

    Args:
        name: The set's name.
        vectors: Embeddings (rows, D), not normalised.
        pairs: The set's.
        groups: (P,), whose figures stand beside those of all pairs; each group has folds of its
            own. The gap's interval makes up for choosing the extremes.
        people: Identities at both ends of the pairs (P, 2), and whether they are known by name;
            None for no intervals.
        wanted: Draws, seed, switches, curves.
    """
    distances = squared_distances(vectors, pairs)
    result = metrics.verification_from_distances(distances, pairs.same)
    names = [] if groups is None else sorted(set(groups.tolist()))
    parts = [np.arange(len(distances)), *(np.flatnonzero(groups == group) for group in names)]
    found: Resampled | None = None
    if people is not None:
        found = resample_verification(
            distances, pairs.same, people[0], parts=parts, draws=wanted.draws, seed=wanted.seed
        )
    intervals = [None if found is None else found.interval(k) for k in range(2 * len(parts))]
    folds = zip(result.fold_accuracies, result.thresholds, strict=True)
    measures = [
        Measure("accuracy", result.accuracy).within(intervals[0]),
        Measure("accuracy_std", result.accuracy_std),
        Measure("val@far=1e-3", result.val).within(intervals[1]),
        *(Measure("accuracy", float(a), float(t), fold) for fold, (a, t) in enumerate(folds)),
    ]
    figures: list[tuple[float, float]] = []
    for number, group in enumerate(names, 1):
        own = metrics.verification_from_distances(
            distances[parts[number]], pairs.same[parts[number]]
        )
        figures.append((own.accuracy, own.val))
        accuracy, val = intervals[2 * number : 2 * number + 2]
        measures += [
            Measure("accuracy", own.accuracy, group=group).within(accuracy),
            Measure("val@far=1e-3", own.val, group=group).within(val),
        ]
    measures += _gaps(names, np.array(figures).reshape(-1, 2), found)
    notes = [f"{name}: {len(pairs.same)} pairs, {int(pairs.same.sum())} of them same, 10 folds"]
    kept = None
    if people is not None:
        ends, named = people
        notes.append(drawn(name, wanted.draws, int(ends.max()) + 1, BY_NAME if named else BY_PAIRS))
        kept = pair_scores(name, distances, pairs, ends, named)
    if result.reason:
        notes.append(missing(name, result.reason))
    elif intervals[1] is not None and math.isnan(intervals[1].low):
        notes.append(
            f"{name}: no interval for val@far=1e-3: {int((~pairs.same).sum())} different pairs, "
            f"{round(FALSE_ACCEPTS / FAR)} are needed"
        )
    protocol = (
        f"10-fold v1, flip={on_off(wanted.switches.flip)}, folds=contiguous, "
        "accuracy grid=0.01, val grid=0.001 interpolated"
    )
    counts = count_scores(1 - distances / 2, pairs.same) if wanted.curves else None
    curves = Curves(name, protocol, counts, None, None, {}) if counts else None
    return Evaluation(name, (Part(protocol, tuple(measures), curves),), tuple(notes), kept)


def squared_distances(vectors: NDArray[np.float32], pairs: Pairs) -> NDArray[np.float64]:
    """Squared distances of the pairs' unit embeddings (P,), as `metrics.verification` has them."""
    with np.errstate(all="ignore"):
        wide = vectors.astype(np.float64)
        lengths = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
        lengths = np.where(np.isfinite(lengths), lengths, math.nan)
        unit = wide / np.where(lengths == 0, 1, lengths)
        found: NDArray[np.float64] = np.square(unit[pairs.first] - unit[pairs.second]).sum(axis=1)
    return found


def pair_scores(
    name: str,
    distances: NDArray[np.float64],
    pairs: Pairs,
    identities: NDArray[np.int64],
    named: bool,
) -> Scores:
    """What is kept of each pair, from squared distances (P,) and identities (P, 2)."""
    parts = [len(part) for part in np.array_split(distances, 10)]
    fold = np.repeat(np.arange(10, dtype=np.int32), parts)
    score = 1 - distances / 2
    return Scores(name, pairs.first, pairs.second, pairs.same, fold, score, identities, named)


def _gaps(names: list[str], figures: NDArray[np.float64], found: Resampled | None) -> list[Measure]:
    """Best group less worst, for accuracy and VAL (groups, 2), where both are known."""
    gaps = []
    for column, metric in enumerate(("accuracy_gap", "val_gap@far=1e-3")):
        values = figures[:, column]
        if len(names) < 2 or np.isnan(values).any():
            continue
        best, worst = int(np.argmax(values)), len(names) - 1 - int(np.argmin(values[::-1]))
        gap = Measure(
            metric, float(values[best] - values[worst]), group=f"{names[best]} - {names[worst]}"
        )
        apart = None
        if found is not None:
            one, other = (2 * number + 2 + column for number in (best, worst))
            apart = found.difference(one, other, chosen_from=len(names))
        gaps.append(gap.within(apart))
    return gaps
