"""Numbers from embeddings: 10-fold verification, and TAR at FAR over all pairs. Pure NumPy.

Input that admits no number (embeddings that are not finite or all alike, pairs of one kind only,
too few pairs) gives NaN and a sentence in `reason`, because a broken training run must end as a
row in a table, not as a traceback.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# False accept rates by name, as one over the rate: whole numbers keep the counts exact.
FARS: Mapping[str, int] = {"1e-5": 100_000, "1e-4": 10_000, "1e-3": 1_000, "1e-2": 100}
PAIRS_PER_ERROR = 100  # a rate is measured only where it leaves at least so many false accepts

_VAL_FAR = 1e-3
_TILE = 2048  # rows and columns of scores held at once: 32 MB
_ALIKE = 1e-7  # unit vectors nearer than this in every coordinate differ by rounding only


@dataclass(frozen=True)
class Verification:
    """Result of k-fold verification.

    Attributes:
        accuracy: Mean over the folds, a fraction.
        accuracy_std: Standard deviation over the folds (divided by their number).
        fold_accuracies: (folds,), each at the threshold that is best on the other folds.
        thresholds: (folds,), squared distances; a pair is accepted strictly below.
        val: Share of same pairs accepted where the other folds give a FAR of 1e-3; mean over folds.
        far: Share of different pairs accepted at these thresholds; mean over the folds.
        reason: Why there is no number; empty where there is one.
    """

    accuracy: float
    accuracy_std: float
    fold_accuracies: Floats
    thresholds: Floats
    val: float
    far: float
    reason: str = ""


@dataclass(frozen=True)
class AllPairs:
    """Result of `tar_at_far`.

    Attributes:
        tar: Mean of `tars`.
        tars: True accept rate by the name of its FAR, for each FAR that the set can measure.
        thresholds: Cosine by the name of its FAR; a pair is accepted strictly above.
        genuine_pairs: Pairs of one identity.
        impostor_pairs: Pairs of two identities.
        reason: Why there is no number; empty where there is one.
    """

    tar: float
    tars: Mapping[str, float]
    thresholds: Mapping[str, float]
    genuine_pairs: int
    impostor_pairs: int
    reason: str = ""


def verification(embeddings: ArrayLike, same: ArrayLike, folds: int = 10) -> Verification:
    """K-fold verification accuracy and VAL, as insightface computes them.

    Embeddings are L2-normalised; pair k is rows 2k and 2k + 1, at their squared distance. See
    `verification_from_distances` for the rest.

    Args:
        embeddings: (2N, D), image and mirror image already summed; need not be normalised.
        same: (N,) bool, whether pair k shows one identity.
        folds: Number of folds.

    Raises:
        ValueError: Shapes that do not fit each other, or fewer than one fold.
    """
    vectors = np.asarray(embeddings, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != 2 * np.size(same):
        raise ValueError(
            f"embeddings {vectors.shape} do not fit {np.size(same)} pairs: "
            f"(2N, D) = ({2 * np.size(same)}, D) is wanted"
        )
    unit = _normalize(vectors)
    distances = np.square(unit[0::2] - unit[1::2]).sum(axis=1)
    return verification_from_distances(distances, same, folds)


def verification_from_distances(
    distances: ArrayLike, same: ArrayLike, folds: int = 10
) -> Verification:
    """K-fold verification accuracy and VAL from squared distances, as insightface computes them.

    Folds are contiguous, in file order; the first N % folds are one pair longer. Accuracy: among
    thresholds 0, 0.01, ... 3.99, the one that is right most often on the other folds (the lowest
    of several) is applied to the fold. VAL: thresholds 0, 0.001, ... 3.999; the one at FAR 1e-3
    on the other folds, interpolated between the highest threshold of the next lower FAR and the
    lowest of the next higher; the highest where the FAR is hit exactly; 0 where it is out of reach.
    A fold without same (different) pairs has no say in the mean of `val` (`far`). One fold is
    measured at its own thresholds.

    Args:
        distances: (N,), squared Euclidean distances of unit vectors.
        same: (N,) bool.
        folds: Number of folds.

    Raises:
        ValueError: Shapes that do not fit each other, or fewer than one fold.
    """
    values = np.asarray(distances, dtype=np.float64)
    truth = np.asarray(same, dtype=np.bool_)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"distances {values.shape} and same {truth.shape}: both (N,) is wanted")
    if folds < 1:
        raise ValueError(f"folds = {folds}: takes 1 or more")
    reason = _why_no_accuracy(values, truth, folds)
    if reason:
        nothing = np.full(folds, math.nan)
        return Verification(math.nan, math.nan, nothing, nothing, math.nan, math.nan, reason)

    parts = np.array_split(np.arange(len(values)), folds)
    same_parts = [np.sort(values[part][truth[part]]) for part in parts]
    other_parts = [np.sort(values[part][~truth[part]]) for part in parts]
    sizes = np.array([len(part) for part in parts])
    others = np.array([len(part) for part in other_parts])

    grid = np.arange(0, 4, 0.01)
    accepted, wrong = _below(same_parts, grid), _below(other_parts, grid)
    right = accepted + others[:, None] - wrong
    best = np.argmax(_rest(right), axis=1)
    accuracies = right[np.arange(folds), best] / sizes

    grid_val = np.arange(0, 4, 0.001)
    wrong_rest, others_rest = _rest(_below(other_parts, grid_val)), _rest(others)
    vals: list[float] = []
    fars: list[float] = []
    for fold in range(folds):
        threshold = _threshold_at(_VAL_FAR, wrong_rest[fold] / max(others_rest[fold], 1), grid_val)
        for rates, part in ((vals, same_parts[fold]), (fars, other_parts[fold])):
            if len(part):
                rates.append(np.searchsorted(part, threshold) / len(part))
    return Verification(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        fold_accuracies=accuracies,
        thresholds=grid[best],
        val=float(np.mean(vals)),
        far=float(np.mean(fars)),
    )


def tar_at_far(
    embeddings: ArrayLike, labels: ArrayLike, fars: Mapping[str, int] = FARS
) -> AllPairs:
    """True accept rates at given false accept rates over all pairs of images, by cosine.

    The threshold of a FAR is a cosine such that at most floor(FAR x impostor pairs) impostor pairs
    lie strictly above it: the next score in descending order. Pairs strictly above are accepted,
    so scores that tie with it are refused, genuine ones too, and the FAR is never exceeded. Each
    identity weighs the same: the TAR is the mean, over identities with two images or more, of the
    accepted share of their pairs. A FAR counts where the set has at least 100 / FAR impostor pairs.

    Memory: tiles of scores, and some 16 bytes for each pair that the largest FAR accepts.

    Args:
        embeddings: (N, D), need not be normalised.
        labels: (N,) integers, the identity of each row.
        fars: The rates, as `FARS`.

    Raises:
        ValueError: Shapes that do not fit each other.
    """
    vectors, identity = np.asarray(embeddings, dtype=np.float64), np.asarray(labels)
    if vectors.ndim != 2 or identity.shape != vectors.shape[:1]:
        raise ValueError(
            f"embeddings {vectors.shape} and labels {identity.shape}: (N, D) and (N,) is wanted"
        )
    _, identity, images = np.unique(identity, return_inverse=True, return_counts=True)
    pairs_of = images * (images - 1) // 2
    genuine_pairs = int(pairs_of.sum())
    impostor_pairs = math.comb(len(identity), 2) - genuine_pairs
    unit = _normalize(vectors)
    reason = _why_no_tar(unit, images, impostor_pairs, min(fars.values()))
    if reason:
        return AllPairs(math.nan, {}, {}, genuine_pairs, impostor_pairs, reason)

    enough = (item for item in fars.items() if impostor_pairs >= PAIRS_PER_ERROR * item[1])
    allowed = {name: impostor_pairs // per for name, per in enough}
    genuine, whose, highest = _scores(unit, identity, max(allowed.values()) + 1)
    tars, thresholds = {}, {}
    for name, count in allowed.items():
        thresholds[name] = float(highest[count])
        accepted = np.bincount(whose[genuine > highest[count]], minlength=len(images))
        tars[name] = float(np.mean(accepted[pairs_of > 0] / pairs_of[pairs_of > 0]))
    return AllPairs(
        float(np.mean(list(tars.values()))), tars, thresholds, genuine_pairs, impostor_pairs
    )


def _normalize(vectors: Floats) -> Floats:
    """Rows of length 1; zero rows stay zero, rows whose length is not finite become NaN."""
    with np.errstate(all="ignore"):
        lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
        lengths = np.where(np.isfinite(lengths), lengths, math.nan)
        unit: Floats = vectors / np.where(lengths == 0, 1, lengths)
    return unit


def _below(parts: list[Floats], thresholds: Floats) -> Ints:
    """How many of each fold's sorted distances lie strictly below: (folds, thresholds)."""
    return np.stack([np.searchsorted(part, thresholds) for part in parts])


def _rest(counts: Ints) -> Ints:
    """Counts (folds, ...) of all folds but the own; the own where there is no other."""
    return counts.sum(axis=0) - counts if len(counts) > 1 else counts


def _threshold_at(target: float, rates: Floats, thresholds: Floats) -> float:
    """Where the rate, which rises with the threshold, reaches `target`; 0 where it does not."""
    if rates[-1] < target or rates[0] > target:
        return 0.0
    low = int(np.searchsorted(rates, target, side="right")) - 1
    if rates[low] == target:
        return float(thresholds[low])
    share = (target - rates[low]) / (rates[low + 1] - rates[low])
    return float(thresholds[low] + share * (thresholds[low + 1] - thresholds[low]))


def _why_no_accuracy(distances: Floats, same: NDArray[np.bool_], folds: int) -> str:
    if len(distances) < folds:
        return f"{len(distances)} pairs cannot be cut into {folds} folds"
    if not np.isfinite(distances).all():
        return "embeddings or distances are not finite"
    if same.all() or not same.any():
        return f"all {len(same)} pairs are {'same' if same.all() else 'different'}: both are needed"
    if distances.min() == distances.max():
        return "all pairs have the same distance: the embeddings have collapsed"
    return ""


def _why_no_tar(unit: Floats, images: Ints, impostor_pairs: int, per: int) -> str:
    wanted = PAIRS_PER_ERROR * per
    if impostor_pairs < wanted:
        each = max(len(unit) / max(len(images), 1), 1.0)
        needed = math.ceil(0.5 + math.sqrt(0.25 + 2 * wanted / each**2))
        return (
            f"{impostor_pairs} impostor pairs ({len(unit)} images of {len(images)} identities); "
            f"FAR {1 / per:g} needs {wanted}: about {needed} identities of {each:.3g} images"
        )
    if images.max() < 2:
        return "no identity has two images: there are no genuine pairs"
    if not np.isfinite(unit).all():
        return "embeddings are not finite"
    if np.ptp(unit, axis=0).max() < _ALIKE:
        return "all embeddings are the same: they have collapsed"
    return ""


def _scores(unit: Floats, identity: Ints, keep: int) -> tuple[Floats, Ints, Floats]:
    """Cosines of all pairs of unit rows, as far as they are needed.

    Returns:
        All genuine scores, whose each is, and the `keep` highest impostor scores, descending.
    """
    genuine: list[Floats] = []
    whose: list[Ints] = []
    pool: list[Floats] = []
    pooled, floor = 0, -math.inf
    tiles = [slice(first, first + _TILE) for first in range(0, len(unit), _TILE)]
    for rows, columns in itertools.combinations_with_replacement(tiles, 2):
        scores = unit[rows] @ unit[columns].T
        if rows == columns:  # each pair once, none with itself
            scores[np.tril_indices(len(scores))] = -math.inf
        equal = identity[rows, None] == identity[columns]
        mine = equal & (scores > -math.inf)
        genuine.append(scores[mine])
        whose.append(identity[rows][np.nonzero(mine)[0]])
        pool.append(scores[~equal & (scores > floor)])
        pooled += len(pool[-1])
        if pooled > 2 * keep + _TILE**2:
            pool = [_highest(np.concatenate(pool), keep)]
            pooled, floor = keep, float(pool[0].min())
    highest = np.sort(_highest(np.concatenate(pool), keep))[::-1]
    return np.concatenate(genuine), np.concatenate(whose), highest


def _highest(scores: Floats, keep: int) -> Floats:
    """The `keep` highest, in no order."""
    return np.partition(scores, len(scores) - keep)[-keep:] if len(scores) > keep else scores
