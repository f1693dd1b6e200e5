"""How much each searched key decides, with an interval.

PED-ANOVA (S. Watanabe, A. Bansal, F. Hutter, PED-ANOVA: efficiently quantifying hyperparameter
importance in arbitrary subspaces, IJCAI 2023), as Optuna has it, compares where the best trials lie
with where all of them lie, key by key. Only who belongs to the best matters, so a trial that
diverged, which counts as the worst, does not drown the rest as it would in a variance. One that was
stopped early counts with what it had reached when it was stopped: it was behind then.

The interval is over trials drawn again. It says how far this search would repeat itself; that a key
does nothing it cannot say, for a share of chance is in every estimate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from facerec.domains import Domain
from facerec.evaluation.uncertainty import CONFIDENCE
from facerec.tuning.good_region import checked, searched
from facerec.tuning.samplers import distribution

LEAST_TRIALS = 4  # with a score, for anything to be said

_BEST, _LEAST_BEST = 0.1, 5  # the best trials: so large a part of all, and so many at least


def importance(
    settings: pd.DataFrame,
    values: ArrayLike,
    space: Mapping[str, Domain],
    seed: int = 0,
    *,
    draws: int = 100,
) -> pd.DataFrame:
    """Give the share that each key has in what tells the best trials from the others.

    Args:
        settings: A row per trial, a column per searched key: complete ones, early-stopped ones and
            those that diverged. Failed and running ones are left out by the caller.
        values: (trials,), what each reached last; more is better; NaN where it diverged.
        space: Searched key -> domain.
        seed: Of the draws.
        draws: How often the trials are drawn again.

    Returns:
        A row per key, the most important first: `key`, `importance` (a fraction; those of all keys
        sum to 1), `low` and `high` (95 % interval), `reason` (why there are none, then NaN).

    Raises:
        ValueError: Another number of values than of settings, a key without a column, fewer than
            one draw.
    """
    scores = checked(settings, values, space)
    if draws < 1:
        raise ValueError(f"{draws} draws: takes 1 or more")
    finite = np.isfinite(scores)
    varied = [key for key in space if settings[key].nunique(dropna=False) > 1]
    reasons = {key: "" if key in varied else "it never varied" for key in space}
    if finite.sum() < LEAST_TRIALS:
        few = f"{finite.sum()} trials with a score: it takes {LEAST_TRIALS}"
        reasons = dict.fromkeys(space, few)
    elif len(np.unique(scores)) < 2:  # NaN, for what diverged, counts as a value
        reasons = dict.fromkeys(space, "all trials reached the same")
    keys = [key for key in space if not reasons[key]]
    rows = dict.fromkeys(space, (math.nan, math.nan, math.nan))
    if keys:
        ranked = np.where(finite, scores, scores[finite].min() - 1)
        trials = _trials(settings, ranked, {key: space[key] for key in keys})
        found, low, high = _interval(trials, keys, seed, draws)
        for key, *three in zip(keys, found, low, high, strict=True):
            rows[key] = float(three[0]), float(three[1]), float(three[2])
            if math.isnan(three[0]):
                reasons[key] = "nothing tells the best trials from the others"
    table = pd.DataFrame(
        [(key, *rows[key], reasons[key]) for key in space],
        columns=["key", "importance", "low", "high", "reason"],
    )
    return table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def _interval(
    trials: list[FrozenTrial], keys: list[str], seed: int, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The keys' shares, and the lower and upper ends over trials drawn again."""
    generator, found = np.random.default_rng(seed), _shares(trials, keys)
    rows = generator.integers(len(trials), size=(draws, len(trials)))
    again = np.stack([_shares([trials[row] for row in drawn], keys) for drawn in rows])
    again = again[np.isfinite(again).all(axis=1)]
    if not len(again):
        return found, np.full(len(keys), math.nan), np.full(len(keys), math.nan)
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(again, [outside, 1 - outside], axis=0)
    return found, np.minimum(low, found), np.maximum(high, found)


class _Study:
    """As much of a study as the evaluator asks for: one in memory costs as much as its answer."""

    directions = (StudyDirection.MAXIMIZE,)

    def __init__(self, trials: list[FrozenTrial]) -> None:
        self._trials = trials

    def get_trials(self, deepcopy: bool, states: Sequence[TrialState]) -> list[FrozenTrial]:
        return self._trials

    def _is_multi_objective(self) -> bool:
        return False


def _shares(trials: list[FrozenTrial], keys: list[str]) -> NDArray[np.float64]:
    """(keys,), which sum to 1; NaN where nothing tells the best trials from the others."""
    best = min(max(_BEST, _LEAST_BEST / len(trials)), 0.5)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=best)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the best are all: then there is NaN
        found = evaluator.evaluate(_Study(trials), keys)
    parts = np.array([found[key] for key in keys])
    return parts / parts.sum() if parts.sum() > 0 else np.full(len(keys), math.nan)


def _trials(
    settings: pd.DataFrame, values: NDArray[np.float64], space: Mapping[str, Domain]
) -> list[FrozenTrial]:
    wanted = {key: distribution(domain) for key, domain in space.items()}
    cells = {key: [searched(space[key], cell) for cell in settings[key]] for key in space}
    return [
        FrozenTrial(
            number=row,
            trial_id=row,
            state=TrialState.COMPLETE,
            value=float(value),
            params={key: cells[key][row] for key in space},
            distributions=wanted,
            **dict.fromkeys(("datetime_start", "datetime_complete")),
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        for row, value in enumerate(values)
    ]
