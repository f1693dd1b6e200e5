"""Who is it among a million: identification with distractors, as MegaFace's first challenge has it.

Distractors are read in blocks of rows, so that memory is bounded by the block and not by them. Pure
NumPy. Embeddings that admit no number give NaN and a sentence in `reason`, no traceback.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facerec.evaluation.identification import RANKS, alike, to_keep
from facerec.evaluation.search import BLOCK, Best, Highest, blocks, floating

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FARS: Mapping[str, int] = {"1e-6": 1_000_000}  # one over the rate: whole numbers keep counts exact


@dataclass(frozen=True)
class Distracted:
    """Result of `identify_among`.

    Attributes:
        ranks: Share of the pairs (probe, mate) where the mate is among the first so many.
        tars: True accept rates by the name of their FAR; NaN where the set cannot measure it.
        thresholds: Of the TARs: cosines; a pair is accepted strictly above.
        pair_ranks: (M,) integers from 1, for each ordered pair of a probe and a mate, in the order
            of the probes; what lies beyond the highest of `ranks` has the next number.
        pair_scores: (M,), their cosines.
        pair_probes: (M,), the probe of each of these pairs.
        wrong_scores: (W,), the highest cosines of probes with distractors, descending: all, or
            `identification.to_keep` of them; none where no FAR can be measured.
        wrong_probes: (W,), the probe of each of these.
        distractors: How many there were.
        reason: Why a number is missing; empty where none is.
    """

    ranks: Mapping[int, float]
    tars: Mapping[str, float]
    thresholds: Mapping[str, float]
    pair_ranks: Ints
    pair_scores: Floats
    pair_probes: Ints
    wrong_scores: Floats
    wrong_probes: Ints
    distractors: int
    reason: str = ""


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
    highest = Highest(to_keep(max(allowed.values(), default=0) + 1))
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
                highest.add(start, scores)
        best[start : start + block] = found.scores
        if reason:
            break
    tars, thresholds = dict.fromkeys(fars, math.nan), dict.fromkeys(fars, math.nan)
    if reason:
        shares, none = dict.fromkeys(ranks, math.nan), np.empty(0, np.int64)
        kept = (np.empty(0), none, np.empty(0), none)
        return Distracted(shares, tars, thresholds, none, *kept, len(others), reason)
    pair_ranks, genuine, pair_probes = _pair_ranks(unit, groups, best)
    wrong, wrong_probes = highest.descending()
    for name, per in fars.items():
        if name in allowed:
            count = allowed[name]
            thresholds[name] = float(wrong[count]) if count < len(wrong) else -math.inf
            tars[name] = float(np.mean(genuine > thresholds[name]))
        else:
            reason = f"{impostors} impostor pairs; FAR {name} needs {false_accepts * per}"
    shares = {rank: float(np.mean(pair_ranks <= rank)) for rank in ranks}
    kept = (genuine.astype(np.float64), pair_probes, wrong.astype(np.float64), wrong_probes)
    return Distracted(shares, tars, thresholds, pair_ranks, *kept, len(others), reason)


def _pair_ranks(
    unit: NDArray[Any], groups: list[Ints], best: NDArray[Any]
) -> tuple[Ints, NDArray[Any], Ints]:
    """Rank, score and probe of every ordered pair of one identity, in the order of the probes.

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
    owners = np.repeat(np.arange(len(unit)), [len(scores) for scores in genuine])
    return np.concatenate(ranks), np.concatenate(genuine), owners


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Rows of length 1; zero rows stay zero, rows whose length is not finite become NaN."""
    with np.errstate(all="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
        lengths[~np.isfinite(lengths)] = math.nan
        unit: NDArray[Any] = vectors / np.where(lengths == 0, 1, lengths)
    return unit


def _why_no_pairs(unit: NDArray[Any], groups: list[Ints], distractors: int) -> str:
    if not distractors:
        return "there are no distractors"
    if max(map(len, groups)) < 2:
        return "no identity has two images: there are no mates"
    if not np.isfinite(unit).all():
        return "embeddings are not finite"
    if alike(unit):
        return "all embeddings are the same: they have collapsed"
    return ""
