"""Embeddings of a set to its figures: ten folds of pairs, or all pairs; with intervals if asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facerec.data.shards import Pairs
from facerec.evaluation import metrics
from facerec.evaluation.scores import Scores
from facerec.evaluation.uncertain_folds import resample_verification
from facerec.evaluation.uncertain_tars import resample_all_pairs
from facerec.evaluation.uncertainty import Interval, Resampled


@dataclass(frozen=True)
class Measure:
    """One number: a row of the table that `facerec evaluate` writes.

    Attributes:
        metric: Such as `accuracy` or `tar@far=1e-3`.
        value: A fraction; NaN where it could not be measured.
        threshold: Where pairs were accepted: a squared distance (`10-fold`) or a cosine
            (`all pairs`) of unit embeddings; None for numbers over several thresholds.
        fold: Number of the fold, from 0; None for all folds.
        low: Lower end of the 95 % interval; None where none was asked for, NaN where none can be.
        high: Upper end.
        group: Whose number it is; None for all pairs. A gap's is `BEST - WORST`.
    """

    metric: str
    value: float
    threshold: float | None = None
    fold: int | None = None
    low: float | None = None
    high: float | None = None
    group: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one set.

    Attributes:
        name: The set's name, the first part of its metrics' names.
        protocol: `10-fold` or `all pairs`.
        measures: The numbers.
        notes: Sentences to show: what was counted, and why a number is missing.
        scores: Of single pairs, where the set has pairs and intervals were asked for.
    """

    name: str
    protocol: str
    measures: tuple[Measure, ...]
    notes: tuple[str, ...]
    scores: Scores | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers over all folds and groups by dotted name, such as `lfw.accuracy`."""
        whole = (m for m in self.measures if m.fold is None and m.group is None)
        return {f"{self.name}.{m.metric}": m.value for m in whole}


def verify(
    name: str,
    vectors: NDArray[np.float32],
    pairs: Pairs,
    groups: NDArray[np.str_] | None,
    people: tuple[NDArray[np.int64], bool] | None,
    draws: int,
    seed: int,
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
        draws: Of the identities.
        seed: Of the draws.
    """
    distances = squared_distances(vectors, pairs)
    result = metrics.verification_from_distances(distances, pairs.same)
    names = [] if groups is None else sorted(set(groups.tolist()))
    parts = [np.arange(len(distances)), *(np.flatnonzero(groups == group) for group in names)]
    found: Resampled | None = None
    if people is not None:
        found = resample_verification(
            distances, pairs.same, people[0], parts=parts, draws=draws, seed=seed
        )
    intervals = [None if found is None else found.interval(k) for k in range(2 * len(parts))]
    folds = zip(result.fold_accuracies, result.thresholds, strict=True)
    measures = [
        _with(Measure("accuracy", result.accuracy), intervals[0]),
        Measure("accuracy_std", result.accuracy_std),
        _with(Measure("val@far=1e-3", result.val), intervals[1]),
        *(Measure("accuracy", float(a), float(t), fold) for fold, (a, t) in enumerate(folds)),
    ]
    accuracies: list[float] = []
    for number, group in enumerate(names, 1):
        own = metrics.verification_from_distances(
            distances[parts[number]], pairs.same[parts[number]]
        )
        accuracies.append(own.accuracy)
        accuracy, val = intervals[2 * number : 2 * number + 2]
        measures += [
            _with(Measure("accuracy", own.accuracy, group=group), accuracy),
            _with(Measure("val@far=1e-3", own.val, group=group), val),
        ]
    if len(names) > 1 and not np.isnan(accuracies).any():
        best, worst = int(np.argmax(accuracies)), int(np.argmin(accuracies))
        gap = Measure(
            "accuracy_gap",
            accuracies[best] - accuracies[worst],
            group=f"{names[best]} - {names[worst]}",
        )
        apart = None
        if found is not None:
            apart = found.difference(2 * best + 2, 2 * worst + 2, chosen_from=len(names))
        measures.append(_with(gap, apart))
    notes = [f"{name}: {len(pairs.same)} pairs, {int(pairs.same.sum())} of them same, 10 folds"]
    if people is None:
        return Evaluation(name, "10-fold", tuple(measures), _notes(name, notes, result.reason))
    ends, named = people
    notes.append(_drawn(name, draws, int(ends.max()) + 1, named))
    return Evaluation(
        name,
        "10-fold",
        tuple(measures),
        _notes(name, notes, result.reason),
        pair_scores(name, distances, pairs, ends, named),
    )


def all_pairs(
    name: str, vectors: NDArray[np.float32], labels: NDArray[np.int32], draws: int, seed: int
) -> Evaluation:
    """TAR at FAR over all pairs of images.

    Args:
        name: The set's name.
        vectors: Embeddings (N, D), not normalised.
        labels: (N,), the identities.
        draws: Of the identities; 0 for no intervals.
        seed: Of the draws.
    """
    result = metrics.tar_at_far(vectors, labels)
    measures = [
        Measure("tar", result.tar),
        *(
            Measure(f"tar@far={far}", tar, result.thresholds[far])
            for far, tar in result.tars.items()
        ),
    ]
    counted = (
        f"{name}: {len(labels)} images of {len(np.unique(labels))} identities, "
        f"{result.genuine_pairs} genuine and {result.impostor_pairs} impostor pairs"
    )
    if not math.isnan(result.tar):
        counted += f"; {name}.tar is the mean TAR at FAR {', '.join(result.tars)}"
    notes = [counted]
    if draws and not result.reason:
        _, found = resample_all_pairs([vectors], labels, draws=draws, seed=seed)
        found = replace(found, values=np.array([one.value for one in measures]))
        measures = [_with(one, found.interval(k)) for k, one in enumerate(measures)]
        notes.append(_drawn(name, draws, len(np.unique(labels)), named=True))
    return Evaluation(name, "all pairs", tuple(measures), _notes(name, notes, result.reason))


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


def _with(one: Measure, interval: Interval | None) -> Measure:
    return one if interval is None else replace(one, low=interval.low, high=interval.high)


def _drawn(name: str, draws: int, identities: int, named: bool) -> str:
    who = (
        f"{identities} identities, known by name"
        if named
        else f"{identities} groups of images: no names are known, so images that same-pairs join, "
        "or that are identical, count as one identity"
    )
    return f"{name}: 95 % intervals from {draws} draws of {who}"


def _notes(name: str, notes: Sequence[str], reason: str) -> tuple[str, ...]:
    return (*notes, f"{name}: no number: {reason}") if reason else tuple(notes)
