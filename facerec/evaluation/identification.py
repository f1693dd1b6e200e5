"""Who is it: 1:N over templates as in IJB-B and IJB-C, and MegaFace's million distractors.

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

from facerec.evaluation.search import BLOCK, Best, Highest, blocks, floating

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RANKS = (1, 5, 10)
FPIRS: Mapping[str, float] = {"0.01": 0.01, "0.1": 0.1}  # false positive identification rates
FARS: Mapping[str, int] = {"1e-6": 1_000_000}  # one over the rate: whole numbers keep counts exact

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
        reason: Why a number is missing; empty where none is.
    """

    ranks: Mapping[int, float]
    tpirs: Mapping[str, float]
    thresholds: Mapping[str, float]
    mate_ranks: Ints
    mate_scores: Floats
    reason: str = ""


@dataclass(frozen=True)
class Distracted:
    """Result of `identify_among`.

    Attributes:
        ranks: Share of the pairs (probe, mate) where the mate is among the first so many.
        tars: True accept rates by the name of their FAR; NaN where the set cannot measure it.
        thresholds: Of the TARs: cosines; a pair is accepted strictly above.
        pair_ranks: (M,) integers from 1, for each ordered pair of a probe and a mate, in the order
            of the probes; what lies beyond the highest of `ranks` has the next number.
        distractors: How many there were.
        reason: Why a number is missing; empty where none is.
    """

    ranks: Mapping[int, float]
    tars: Mapping[str, float]
    thresholds: Mapping[str, float]
    pair_ranks: Ints
    distractors: int
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
        return Identification(shares, tpirs, thresholds, none, np.empty(0), reason)
    mates = order[begin]
    places, own = np.empty(len(queries), np.int64), np.empty(len(queries))
    wanted = {name: math.ceil(len(queries) * rate) for name, rate in fpirs.items()}
    highest = Highest(max(wanted.values(), default=1))
    rows = max(BLOCK**2 // len(others), 1)
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        scores, mine = queries[part] @ others.T, mates[part, None]
        mate = np.take_along_axis(scores, mine, axis=1)
        earlier = (scores == mate) & (np.arange(len(others)) < mine)
        places[part] = 1 + (scores > mate).sum(axis=1) + earlier.sum(axis=1)
        own[part] = mate[:, 0]
        np.put_along_axis(scores, mine, -math.inf, axis=1)
        highest.add(scores)
    wrong = highest.descending()
    for name, count in wanted.items():
        if 1 <= count <= len(wrong):
            thresholds[name] = float(wrong[count - 1])
            tpirs[name] = float(np.mean(own > wrong[count - 1]))
        else:
            reason = f"FPIR {name}: {count} scores with others wanted, there are {len(wrong)}"
    shares = {rank: float(np.mean(places <= rank)) for rank in ranks}
    return Identification(shares, tpirs, thresholds, places, own, reason)


def identify_among(
    probes: ArrayLike,
    identities: ArrayLike,
    distractors: ArrayLike,
    ranks: Sequence[int] = RANKS,
    fars: Mapping[str, int] = FARS,
    false_accepts: int = 100,
    block: int = BLOCK,
) -> Distracted:
    """Identification among distractors, as MegaFace's first challenge has it, by cosine.

    Each probe is looked for in a gallery of all distractors and one mate: another image of its
    identity. This is done for every ordered pair of images of an identity, and all count the same.
    A mate's rank is 1 + the distractors that score as high or higher: ties count against it. The
    TAR is over the same pairs of images; its impostor pairs are all of a probe and a distractor.
    At most floor(FAR x impostor pairs) of those lie strictly above the threshold.

    Args:
        probes: (P, D), need not be normalised.
        identities: (P,) integers.
        distractors: (N, D), none of an identity of the probes; possibly mapped from a file: it is
            read in blocks of rows.
        ranks: Which ranks.
        fars: Which false accept rates, by one over the rate.
        false_accepts: A FAR counts where impostor pairs x FAR is at least this.
        block: Rows of each side that are multiplied at once.

    Raises:
        ValueError: Shapes that do not fit each other.
    """
    vectors, whose, others = floating(probes), np.asarray(identities), np.asanyarray(distractors)
    if vectors.ndim != 2 or whose.shape != vectors.shape[:1]:
        raise ValueError(
            f"probes {vectors.shape} and identities {whose.shape}: (P, D) and (P,) is wanted"
        )
    if others.ndim != 2 or others.shape[1] != vectors.shape[1]:
        raise ValueError(f"distractors {others.shape} and probes {vectors.shape} differ in size")
    impostors, unit = len(vectors) * len(others), _unit(vectors)
    order = np.argsort(whose, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(whose[order])) + 1)
    allowed = {n: impostors // per for n, per in fars.items() if impostors >= false_accepts * per}
    highest = Highest(max(allowed.values(), default=0) + 1)
    longest = min(max(ranks), len(others))
    best = np.empty((len(unit), longest), unit.dtype)
    reason = _why_no_pairs(unit, groups, len(others))
    for start in range(0, 0 if reason else len(unit), block):
        few = unit[start : start + block]
        found = Best(len(few), longest, unit.dtype)
        for first, rows in blocks(others, block):
            units = _unit(rows)
            if not np.isfinite(units).all():
                reason = f"distractors {first} to {first + len(rows) - 1}: not all are finite"
                break
            scores = few @ units.T
            found.add(first, scores)
            if allowed:
                highest.add(scores)
        best[start : start + block] = found.scores
        if reason:
            break
    tars, thresholds = dict.fromkeys(fars, math.nan), dict.fromkeys(fars, math.nan)
    if reason:
        shares, none = dict.fromkeys(ranks, math.nan), np.empty(0, np.int64)
        return Distracted(shares, tars, thresholds, none, len(others), reason)
    pair_ranks, genuine = _pair_ranks(unit, groups, best)
    wrong = highest.descending() if allowed else np.empty(0)
    for name, per in fars.items():
        if name in allowed:
            count = allowed[name]
            thresholds[name] = float(wrong[count]) if count < len(wrong) else -math.inf
            tars[name] = float(np.mean(genuine > thresholds[name]))
        else:
            reason = f"{impostors} impostor pairs; FAR {name} needs {false_accepts * per}"
    shares = {rank: float(np.mean(pair_ranks <= rank)) for rank in ranks}
    return Distracted(shares, tars, thresholds, pair_ranks, len(others), reason)


def _pair_ranks(
    unit: NDArray[Any], groups: list[Ints], best: NDArray[Any]
) -> tuple[Ints, NDArray[Any]]:
    """Rank and score of every ordered pair of one identity, in the order of the probes.

    Args:
        unit: (P, D), of length 1.
        groups: The probes of each identity.
        best: (P, k), the highest scores of each probe with distractors, descending.
    """
    ranks: list[Ints] = [np.empty(0, np.int64)] * len(unit)
    genuine: list[NDArray[Any]] = [np.empty(0, unit.dtype)] * len(unit)
    for group in groups:
        for probe in group:
            scores = unit[group[group != probe]] @ unit[probe]
            genuine[probe] = scores
            above = best.shape[1] - np.searchsorted(best[probe, ::-1], scores)
            ranks[probe] = 1 + above.astype(np.int64)
    return np.concatenate(ranks), np.concatenate(genuine)


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Rows of length 1; zero rows stay zero, rows whose length is not finite become NaN."""
    with np.errstate(all="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
        lengths[~np.isfinite(lengths)] = math.nan
        unit: NDArray[Any] = vectors / np.where(lengths == 0, 1, lengths)
    return unit


def _alike(vectors: NDArray[Any]) -> bool:
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
    if _alike(gallery):
        return "all embeddings are the same: they have collapsed"
    return ""


def _why_no_pairs(unit: NDArray[Any], groups: list[Ints], distractors: int) -> str:
    if not distractors:
        return "there are no distractors"
    if max(map(len, groups)) < 2:
        return "no identity has two images: there are no mates"
    if not np.isfinite(unit).all():
        return "embeddings are not finite"
    if _alike(unit):
        return "all embeddings are the same: they have collapsed"
    return ""
