"""Who is it: 1:N over templates, as in IJB-B and IJB-C.

Everything is a product of blocks, so that memory is bounded by the block and not by the gallery.
Pure NumPy. Embeddings that admit no number give NaN and a sentence in `reason`, no traceback.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facerec.evaluation.search import BLOCK, Highest, floating

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RANKS = (1, 5, 10)
FPIRS: Mapping[str, float] = {"0.01": 0.01, "0.1": 0.1}  # false positive identification rates

_SPARE, _LEAST = 4, 1000  # scores kept beyond a threshold: times as many, and at least so many
_ALIKE = 1e-7  # unit vectors nearer than this in every coordinate differ by rounding only


@dataclass(frozen=True)
class Identification:
    """Result of `identify`.

    Attributes:
        ranks: Share of the probes whose mate is among the first so many of the gallery.
        tpirs: Share of the probes whose mate scores above the threshold, by the name of the false
            positive identification rate (FPIR).
        thresholds: Of the FPIRs; a mate counts strictly above.
        mate_ranks: (Q,) integers from 1, the place of each probe's mate.
        mate_scores: (Q,), the score of each probe with its mate.
        wrong_scores: (M,), the highest scores of probes with others than their mates, descending:
            all, or `to_keep` of them.
        wrong_probes: (M,), the probe of each of these.
        reason: Why a number is missing; empty where none is.
    """

    ranks: Mapping[int, float]
    tpirs: Mapping[str, float]
    thresholds: Mapping[str, float]
    mate_ranks: Ints
    mate_scores: Floats
    wrong_scores: Floats
    wrong_probes: Ints
    reason: str = ""


def cmc(ranks: ArrayLike, longest: int) -> Floats:
    """Cumulative match characteristic: share of the ranks that are 1 or less, 2 or less, ...

    Args:
        ranks: (N,) integers from 1.
        longest: Up to which rank.

    Returns:
        (longest,), rising; NaN where there are no ranks.
    """
    places = np.asarray(ranks, dtype=np.int64)
    if not len(places):
        return np.full(longest, math.nan)
    counts = np.bincount(places[places <= longest], minlength=longest + 1)[1:]
    shares: Floats = np.cumsum(counts) / len(places)
    return shares


def identify(
    probes: ArrayLike,
    probe_subjects: ArrayLike,
    gallery: ArrayLike,
    gallery_subjects: ArrayLike,
    ranks: Sequence[int] = RANKS,
    fpirs: Mapping[str, float] = FPIRS,
) -> Identification:
    """Identification 1:N, as insightface computes it for IJB-B and IJB-C.

    Both galleries count as one. Each probe has exactly one mate in it. The rank of a mate is its
    place among the gallery by descending score, of equal ones in the order of the gallery. The
    threshold of an FPIR is the ceil(FPIR x probes)-th highest score of a probe with any other than
    its mate; one probe can have several of those. The mate need not be the first.

    Args:
        probes: (Q, D), as `templates.pool` makes them: scores are dot products.
        probe_subjects: (Q,) integers.
        gallery: (G, D).
        gallery_subjects: (G,) integers.
        ranks: Which ranks.
        fpirs: Which rates.

    Raises:
        ValueError: Shapes that do not fit each other.
    """
    sides = []
    for name, features, subjects in (
        ("probes", floating(probes), np.asarray(probe_subjects)),
        ("gallery", floating(gallery), np.asarray(gallery_subjects)),
    ):
        if features.ndim != 2 or subjects.shape != features.shape[:1]:
            raise ValueError(
                f"{name} {features.shape} and subjects {subjects.shape}: (n, D), (n,) wanted"
            )
        sides.append((features, subjects))
    (queries, whose), (others, known) = sides
    if queries.shape[1] != others.shape[1]:
        raise ValueError(f"probes {queries.shape} and gallery {others.shape} differ in size")
    order = np.argsort(known, kind="stable")
    begin, end = (np.searchsorted(known[order], whose, side=side) for side in ("left", "right"))
    reason = _why_no_gallery(queries, others, whose, end - begin)
    tpirs, thresholds = dict.fromkeys(fpirs, math.nan), dict.fromkeys(fpirs, math.nan)
    if reason:
        shares, none = dict.fromkeys(ranks, math.nan), np.empty(0, np.int64)
        empty = np.empty(0)
        return Identification(shares, tpirs, thresholds, none, empty, empty, none, reason)
    mates = order[begin]
    places, own = np.empty(len(queries), np.int64), np.empty(len(queries))
    wanted = {name: math.ceil(len(queries) * rate) for name, rate in fpirs.items()}
    highest = Highest(to_keep(max(wanted.values(), default=0)))
    rows = max(BLOCK**2 // len(others), 1)
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        scores, mine = queries[part] @ others.T, mates[part, None]
        mate = np.take_along_axis(scores, mine, axis=1)
        earlier = (scores == mate) & (np.arange(len(others)) < mine)
        places[part] = 1 + (scores > mate).sum(axis=1) + earlier.sum(axis=1)
        own[part] = mate[:, 0]
        np.put_along_axis(scores, mine, -math.inf, axis=1)
        highest.add(start, scores)
    wrong, wrong_probes = highest.descending()
    for name, count in wanted.items():
        if 1 <= count <= len(wrong):
            thresholds[name] = float(wrong[count - 1])
            tpirs[name] = float(np.mean(own > wrong[count - 1]))
        else:
            reason = f"FPIR {name}: {count} scores with others wanted, there are {len(wrong)}"
    shares = {rank: float(np.mean(places <= rank)) for rank in ranks}
    wrong = wrong.astype(np.float64)
    return Identification(shares, tpirs, thresholds, places, own, wrong, wrong_probes, reason)


def to_keep(count: int) -> int:
    """How many of the highest scores are kept where the threshold is the `count`-th.

    Draws of the probes' identities seek the threshold further down where the highest are of people
    that did not come.
    """
    return max(_SPARE * count, _LEAST)


def alike(vectors: NDArray[Any]) -> bool:
    """Whether all rows (n, D) are the same but for rounding: embeddings have collapsed."""
    return len(vectors) > 1 and float(np.ptp(vectors, axis=0).max(initial=0)) < _ALIKE


def _why_no_gallery(
    probes: NDArray[Any], gallery: NDArray[Any], subjects: NDArray[Any], mates: Ints
) -> str:
    if not len(probes) or not len(gallery):
        return f"{len(probes)} probes and a gallery of {len(gallery)}: both are needed"
    if (mates != 1).any():
        probe = int(np.argmax(mates != 1))
        return (
            f"the gallery has {mates[probe]} mates of probe {probe} (subject {subjects[probe]}): "
            f"exactly one is wanted"
        )
    if not (np.isfinite(probes).all() and np.isfinite(gallery).all()):
        return "embeddings are not finite"
    if alike(gallery):
        return "all embeddings are the same: they have collapsed"
    return ""
