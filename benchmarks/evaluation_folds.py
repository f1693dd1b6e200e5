"""10-fold accuracy and VAL from squared distances, against loops over folds and thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from evaluation_turns import in_turns

from facerec.evaluation.metrics import Verification, verification_from_distances

FOLDS = 10


def folds(pairs: int) -> dict[str, Any]:
    draws = np.random.default_rng(1)
    same = draws.random(pairs) < 0.5
    noise = 0.25 * draws.standard_normal(pairs)
    distances = np.clip(np.where(same, 1.0, 1.9) + noise, 0, 4)
    result, ours, reference = in_turns(
        lambda _: verification_from_distances(distances, same),
        lambda _: _folds(distances, same),
    )
    return result | {"equal": _equal(ours, reference)}


def _equal(ours: Verification, reference: tuple[Any, ...]) -> bool:
    accuracies, val, far = reference
    return bool(np.array_equal(ours.fold_accuracies, accuracies)) and (
        (ours.accuracy, ours.accuracy_std) == (accuracies.mean(), accuracies.std())
        and (ours.val, ours.far) == (val, far)
    )


def _folds(distances: Any, same: Any) -> tuple[Any, float, float]:
    """Accuracies, VAL and FAR by loops over folds and thresholds."""
    accuracies, vals, fars = np.zeros(FOLDS), np.zeros(FOLDS), np.zeros(FOLDS)
    thresholds = np.arange(0, 4, 0.01)
    for fold, (rest, test) in enumerate(_split(len(same))):
        on_rest = [_rates(t, distances[rest], same[rest])[2] for t in thresholds]
        for threshold in thresholds:  # the curve, which the procedure returns as well
            _rates(threshold, distances[test], same[test])
        best = thresholds[np.argmax(on_rest)]
        accuracies[fold] = _rates(best, distances[test], same[test])[2]
    thresholds = np.arange(0, 4, 0.001)
    for fold, (rest, test) in enumerate(_split(len(same))):
        rates = [_val_and_far(t, distances[rest], same[rest])[1] for t in thresholds]
        threshold = np.interp(1e-3, rates, thresholds) if max(rates) >= 1e-3 else 0.0
        vals[fold], fars[fold] = _val_and_far(threshold, distances[test], same[test])
    return accuracies, vals.mean(), fars.mean()


def _split(count: int) -> Iterator[tuple[Any, Any]]:
    for test in np.array_split(np.arange(count), FOLDS):
        yield np.setdiff1d(np.arange(count), test), test


def _rates(threshold: float, distances: Any, same: Any) -> tuple[float, float, float]:
    """True accept rate, false accept rate and accuracy."""
    accepted = np.less(distances, threshold)
    right = np.sum(np.logical_and(accepted, same))
    wrong = np.sum(np.logical_and(accepted, np.logical_not(same)))
    refused = np.sum(np.logical_and(np.logical_not(accepted), np.logical_not(same)))
    missed = np.sum(np.logical_and(np.logical_not(accepted), same))
    return (
        float(right) / float(right + missed),
        float(wrong) / float(wrong + refused),
        float(right + refused) / distances.size,
    )


def _val_and_far(threshold: float, distances: Any, same: Any) -> tuple[float, float]:
    accepted = np.less(distances, threshold)
    right = np.sum(np.logical_and(accepted, same))
    wrong = np.sum(np.logical_and(accepted, np.logical_not(same)))
    return float(right) / float(np.sum(same)), float(wrong) / float(np.sum(np.logical_not(same)))
