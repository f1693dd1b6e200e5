"""Which pairs error-versus-reject curves are about: genuine ones, refused or not. Pure NumPy.

The threshold is that of a false accept rate (FAR) over all images: 1e-3, or the lowest of 1e-2 and
1e-1 that the set can measure.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facerec.evaluation import metrics, roc

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FARS: Mapping[str, int] = {"1e-3": 1000, "1e-2": 100, "1e-1": 10}  # the first measurable one
FALSE_ACCEPTS = 10  # in a list of pairs, for a threshold to say anything


@dataclass(frozen=True)
class Compared:
    """Images that take part in comparisons, and their genuine pairs at a fixed threshold.

    Attributes:
        rows: (N,), rows of the images in their split, ascending.
        identities: (N,), numbers of their identities from 0.
        genuine: (P, 2), numbers of images, that is, places in `rows`.
        missed: (P,), whether the pair is refused at the threshold.
        far: Name of the FAR that fixed the threshold, an entry of `FARS`; empty where none did.
        threshold: A cosine: pairs at or below it are refused. NaN where there is none.
        reason: Why there is none; empty where there is one.
    """

    rows: Ints
    identities: Ints
    genuine: Ints
    missed: Bools
    far: str = ""
    threshold: float = math.nan
    reason: str = ""


def nothing_compared(reason: str) -> Compared:
    """No pair, and why."""
    none = np.empty(0, np.int64)
    return Compared(none, none, none.reshape(0, 2), np.empty(0, np.bool_), reason=reason)


def pair_list(
    scores: ArrayLike,
    same: ArrayLike,
    ends: ArrayLike,
    identities: ArrayLike,
) -> Compared:
    """The genuine pairs of a list; the FAR leaves ten false accepts or more of its impostors.

    Args:
        scores: (P,), cosines.
        same: (P,) bool.
        ends: (P, 2), rows of both images.
        identities: (P, 2), numbers of the identities at both ends.

    Raises:
        ValueError: Shapes that do not fit each other.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(same, np.bool_)
    places, people = np.asarray(ends, np.int64), np.asarray(identities, np.int64)
    if places.shape != (len(values), 2) or people.shape != places.shape:
        raise ValueError(
            f"scores {values.shape}, ends {places.shape}, identities {people.shape}: (P,), (P, 2) "
            "and (P, 2) is wanted"
        )
    found = roc.tar_at_far(values, truth, FARS, "not exceeding", FALSE_ACCEPTS)
    far = next((name for name in FARS if name not in found.reasons), "")
    if not far:
        return nothing_compared(found.reasons[list(FARS)[-1]])
    rows, numbered = np.unique(places, return_inverse=True)
    numbered = numbered.reshape(places.shape)
    whose = np.empty(len(rows), np.int64)
    whose[numbered] = people
    # `roc` accepts from its threshold on: the cosine below it is the highest that is refused.
    threshold = float(np.nextafter(found.thresholds[far], -math.inf))
    return Compared(
        rows=rows,
        identities=np.unique(whose, return_inverse=True)[1].ravel(),
        genuine=numbered[truth],
        missed=values[truth] <= threshold,
        far=far,
        threshold=threshold,
    )


def first_images(labels: ArrayLike, keys: ArrayLike, most: int) -> Ints:
    """Rows of the first images of each known identity, in the order of their keys; ascending.

    Args:
        labels: (rows,), below 0 where the identity is unknown.
        keys: (rows,).
        most: Of each identity.
    """
    whose = np.asarray(labels)
    order = np.lexsort((np.asarray(keys), whose))
    ordered = whose[order]
    place = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    found: Ints = np.sort(order[(place < most) & (ordered >= 0)])
    return found


def all_pairs(vectors: ArrayLike, labels: ArrayLike, rows: ArrayLike) -> Compared:
    """The genuine pairs among all pairs of images, with `metrics.tar_at_far`'s threshold.

    Args:
        vectors: (N, D), embeddings, need not be normalised.
        labels: (N,), the identities.
        rows: (N,), rows of the images in their split.

    Raises:
        ValueError: Shapes that do not fit each other.
    """
    found = metrics.tar_at_far(vectors, labels, FARS)
    far = next((name for name in FARS if name in found.thresholds), "")
    if not far:
        return nothing_compared(found.reason)
    places, whose = np.asarray(rows, np.int64), np.unique(labels, return_inverse=True)[1].ravel()
    order = np.argsort(whose, kind="stable")
    pairs, cosines = [], []
    wide = np.asarray(vectors, np.float64)[order]
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True).clip(min=1e-300)
    for first, last in itertools.pairwise(np.cumsum([0, *np.bincount(whose)]).tolist()):
        own = unit[first:last]
        one, other = np.triu_indices(len(own), 1)
        pairs.append(np.stack([order[first + one], order[first + other]], axis=1))
        cosines.append((own @ own.T)[one, other])
    genuine, missed = np.concatenate(pairs), np.concatenate(cosines) <= found.thresholds[far]
    return Compared(places, whose, genuine, missed, far, found.thresholds[far])


def oracle(compared: Compared) -> Ints:
    """Images from the worst to the best for someone who knows the errors.

    Next goes the image in most refused genuine pairs that are left; of equals, the one in fewer
    genuine pairs. The best order of all would take too long to find, and is rarely better.

    Returns:
        (N,), numbers of images.
    """
    count = len(compared.rows)
    pairs = np.bincount(compared.genuine.ravel(), minlength=count)
    partners: list[list[int]] = [[] for _ in range(count)]
    for one, other in compared.genuine[compared.missed].tolist():
        partners[one].append(other)
        partners[other].append(one)
    wrong = [len(mine) for mine in partners]
    waiting = [(-errors, int(pairs[k]), k) for k, errors in enumerate(wrong) if errors]
    heapq.heapify(waiting)
    order: list[int] = []
    while waiting:
        errors, known, image = heapq.heappop(waiting)
        if wrong[image] == 0:
            continue
        if -errors != wrong[image]:  # its partners went meanwhile
            heapq.heappush(waiting, (-wrong[image], known, image))
            continue
        order.append(image)
        for other in partners[image]:
            wrong[other] -= wrong[other] > 0
        wrong[image] = 0
    rest = np.setdiff1d(np.arange(count), order)
    return np.append(np.array(order, np.int64), rest[np.argsort(pairs[rest], kind="stable")])
