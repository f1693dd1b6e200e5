"""How sure identification is: draws of the probes' identities for ranks, TPIR, and TAR at a FAR.

NumPy alone. The people who are looked for are drawn, all probes of one together; gallery and
distractors stay as they are. They are no sample to draw from: a search is for a mate that is there
exactly once, and someone who came twice into the gallery would tie with himself, someone who did
not come would leave his probes without a mate. So an interval says where the figure would lie with
other people's probes against this gallery or these distractors.

Every pair weighs what its probe weighs, and no product of two draws is taken: the draws' variance
is used as it is. Thresholds are sought anew in each draw among the highest wrong scores, which are
kept well beyond the data's own threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facerec.evaluation import distractors, identification
from facerec.evaluation.distractors import Distracted
from facerec.evaluation.identification import Identification
from facerec.evaluation.uncertainty import BLOCK, DRAWS, Resampled, draw_weights, slope

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LOST = 0.01  # draws without a threshold, at most: what the others say is of some people alone


def resample_identification(
    found: Identification,
    identities: ArrayLike,
    fpirs: Mapping[str, float] = identification.FPIRS,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[tuple[str, ...], Resampled]:
    """Ranks and TPIRs of 1:N under draws of the probes' identities; the gallery stays.

    In a draw the threshold of an FPIR is the highest wrong score with which the weights of the
    probes that such scores belong to reach ceil(FPIR x weight of all probes). Where those that
    were kept do not reach it, the draw has no figure; where that happens in more than one draw of
    a hundred, as when nearly all are of one person, there is no interval.

    Args:
        found: What `identification.identify` found.
        identities: (Q,) integers, who each probe is.
        fpirs: The rates that `identify` had; those that it could not measure are left out.
        draws: How many.
        seed: Of the draws; the same people and seed give the same draws, whatever the model.

    Returns:
        Names, such as `rank-1` and `tpir@fpir=0.01`, and a figure for each. No name and no figure
        where nothing was found.

    Raises:
        ValueError: Identities that do not fit the probes, rates that `identify` did not have, or
            fewer than one draw.
    """
    if not len(found.mate_ranks):
        return (), _nothing()
    whose = _numbered(identities)
    if whose.shape != found.mate_ranks.shape:
        raise ValueError(
            f"identities {whose.shape} for {len(found.mate_ranks)} probes: one of each is wanted"
        )
    measured = _measured(fpirs, found.tpirs)
    search = _Search(
        owners=whose,
        places=found.mate_ranks,
        scores=found.mate_scores,
        wrong_owners=whose[found.wrong_probes],
        wrong_scores=found.wrong_scores,
        impostors=np.bincount(whose),
    )
    weights = _weights(len(search.impostors), draws, seed)
    probes = search.impostors @ weights
    wanted = [np.ceil(probes * rate) for rate in measured.values()]
    names = (*(f"rank-{n}" for n in found.ranks), *(f"tpir@fpir={name}" for name in measured))
    return names, _resample(search, list(found.ranks), wanted, weights)


def resample_distracted(
    found: Distracted,
    identities: ArrayLike,
    fars: Mapping[str, int] = distractors.FARS,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[tuple[str, ...], Resampled]:
    """Ranks among distractors, and TAR at FAR, under draws of the probes' identities.

    Distractors stay. A pair of a probe and its mate weighs what their identity weighs, a pair of a
    probe and a distractor what the probe's weighs. In a draw the threshold of a FAR is the lowest
    wrong score that leaves no more than floor(FAR x weight of all impostor pairs) strictly above.
    What happens where those that were kept do not reach so far: see `resample_identification`.

    Args:
        found: What `distractors.identify_among` found.
        identities: (P,) integers, who each probe is.
        fars: The rates that `identify_among` had, by one over the rate; those that it could not
            measure are left out.
        draws: How many.
        seed: Of the draws; the same people and seed give the same draws, whatever the model.

    Returns:
        Names, such as `rank-1` and `tar@far=1e-6`, and a figure for each. No name and no figure
        where nothing was found.

    Raises:
        ValueError: Fewer identities than probes, rates that `identify_among` did not have, or
            fewer than one draw.
    """
    if not len(found.pair_ranks):
        return (), _nothing()
    whose = _numbered(identities)
    if whose.ndim != 1 or len(whose) <= found.pair_probes.max():
        raise ValueError(
            f"identities {whose.shape} for {found.pair_probes.max() + 1} probes or more: one of "
            "each is wanted"
        )
    measured = _measured(fars, found.tars)
    search = _Search(
        owners=whose[found.pair_probes],
        places=found.pair_ranks,
        scores=found.pair_scores,
        wrong_owners=whose[found.wrong_probes],
        wrong_scores=found.wrong_scores,
        impostors=np.bincount(whose) * found.distractors,
    )
    weights = _weights(len(search.impostors), draws, seed)
    impostors = search.impostors @ weights
    wanted = [impostors // per + 1 for per in measured.values()]
    names = (*(f"rank-{n}" for n in found.ranks), *(f"tar@far={name}" for name in measured))
    return names, _resample(search, list(found.ranks), wanted, weights)


@dataclass(frozen=True)
class _Search:
    """What draws need of a search.

    Attributes:
        owners: (P,), whose each search for a mate is, from 0 to N - 1.
        places: (P,), the mate's rank.
        scores: (P,), the mate's score.
        wrong_owners: (M,), whose probe each wrong score belongs to.
        wrong_scores: (M,), descending.
        impostors: (N,), what the wrong scores of each identity are counted against.
    """

    owners: Ints
    places: Ints
    scores: Floats
    wrong_owners: Ints
    wrong_scores: Floats
    impostors: Ints

    def thresholds(self, wanted: Sequence[Floats], weights: Floats) -> Ints:
        """Numbers of the wrong scores that are the thresholds (limits, R); M where none is.

        Args:
            wanted: (R,) for each limit, the weight that wrong scores reach at the threshold.
            weights: (N, R).
        """
        found = np.empty((len(wanted), weights.shape[1]), np.int64)
        for start in range(0, weights.shape[1] if len(wanted) else 0, BLOCK):
            block = slice(start, start + BLOCK)
            reached = np.cumsum(weights[:, block][self.wrong_owners], axis=0)
            for limit, enough in enumerate(wanted):
                found[limit, block] = (reached < enough[block]).sum(axis=0)
        return found

    def accepted(self, thresholds: Ints) -> Ints:
        """Mates of each identity that score above some thresholds, by number: (N, thresholds).

        Args:
            thresholds: Ascending, each once.
        """
        before = len(self.wrong_scores) - np.searchsorted(self.wrong_scores[::-1], self.scores)
        column, width = np.searchsorted(thresholds, before), len(thresholds) + 1
        counts = np.bincount(self.owners * width + column, minlength=len(self.impostors) * width)
        found: Ints = np.cumsum(counts.reshape(-1, width)[:, :-1], axis=1)
        return found


def _resample(
    search: _Search, ranks: Sequence[int], wanted: Sequence[Floats], weights: Floats
) -> Resampled:
    """Shares of mates in the first ranks, and of those above each threshold.

    Args:
        search: What was found.
        ranks: Which ranks.
        wanted: As in `_Search.thresholds`.
        weights: (N, 1 + draws), the first column even.
    """
    identities = len(weights)
    pairs = np.bincount(search.owners, minlength=identities)
    total, impostors = pairs @ weights, search.impostors @ weights
    shares, parts = [], []
    with np.errstate(invalid="ignore"):  # a draw may be of people without pairs
        for rank in ranks:
            hits = np.bincount(search.owners[search.places <= rank], minlength=identities)
            shares.append(hits @ weights / total)
            parts.append((hits - shares[-1][0] * pairs) / len(search.owners))
        for places in search.thresholds(wanted, weights):
            known, column = np.unique(places, return_inverse=True)
            accepted, at = search.accepted(known), places[0]
            share = np.einsum("ij,ij->j", accepted[:, column], weights) / total
            lost = places == len(search.wrong_scores)
            share[lost] = math.nan
            if lost.mean() > _LOST:
                share[1:] = math.nan
            hits = accepted[:, column[0]]
            wrong = np.bincount(search.wrong_owners[: at + 1], minlength=identities)
            rate = wrong @ weights / impostors
            cost = slope((share - hits @ weights / total)[1:], rate[1:])
            shares.append(share)
            parts.append(
                (hits - share[0] * pairs) / len(search.owners)
                - cost * (wrong - rate[0] * search.impostors) / impostors[0]
            )
    found = np.reshape(shares, (-1, weights.shape[1]))
    return Resampled(
        values=found[:, 0],
        draws=found[:, 1:].T,
        parts=np.reshape(parts, (-1, identities)).T,
        noise=np.zeros((len(found), len(found))),
        members=np.full(len(found), np.count_nonzero(pairs)),
        surplus=0,
    )


def _weights(identities: int, draws: int, seed: int) -> Floats:
    """Even weights, for the figures themselves, and those of the draws: (N, 1 + draws)."""
    return np.hstack([np.ones((identities, 1)), draw_weights(identities, draws, seed)])


def _numbered(identities: ArrayLike) -> Ints:
    """Identities numbered from 0, in their order."""
    given = np.asarray(identities)
    found: Ints = np.unique(given, return_inverse=True)[1].reshape(given.shape).astype(np.int64)
    return found


def _measured(rates: Mapping[str, float], found: Mapping[str, float]) -> dict[str, float]:
    """The rates at which something was measured.

    Raises:
        ValueError: Something was measured at others.
    """
    if unknown := [name for name in found if name not in rates]:
        raise ValueError(
            f"measured at {', '.join(unknown)}, but only {', '.join(rates) or 'no rates'} are "
            "given: give the rates of the measurement"
        )
    return {name: rates[name] for name, value in found.items() if not math.isnan(value)}


def _nothing() -> Resampled:
    none = np.empty((0, 0))
    return Resampled(np.empty(0), none, none, none, np.empty(0, np.int64), 0)
