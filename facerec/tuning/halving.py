"""Early stopping: asynchronous successive halving whose memory is the journal."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from facerec.tuning.messages import OBJECTIVE
from facerec.tuning.search import JournalSearcher


class JournalHalving(ASHAScheduler):  # type: ignore[misc]  # Ray has no types
    """ASHA, the stopping variant: at a rung, a trial of the lower half ends.

    The rungs stand at a quarter and at half of the epochs: late, since large margins start slowly
    and a one-cycle rate is still high at the first. What trials reached before a sweep was
    interrupted counts at the rungs as if it had not been. Trial 0 always runs to its end where it
    has the paper's values: the winner is compared with it.

    Args:
        epochs: Budget of a full trial.
        searcher: Knows what the journal holds.
    """

    def __init__(self, epochs: float, searcher: JournalSearcher) -> None:
        grace = max(1, math.ceil(epochs / 4))
        super().__init__(
            time_attr="epoch",
            metric=OBJECTIVE,
            mode="max",
            grace_period=grace,
            max_t=max(grace, math.floor(epochs / 2)),
            reduction_factor=2,
            stop_last_trials=False,  # full trials finish by themselves
        )
        self._epochs, self._searcher = epochs, searcher
        for number, values in searcher.reported().items():
            trial = _known_as(number)
            super().on_trial_add(None, trial)
            for epoch, value in sorted(values.items()):
                super().on_trial_result(None, trial, {"epoch": epoch, OBJECTIVE: value})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial up; one that goes on keeps the places at the rungs that it had."""
        known = _known_as(trial.config["number"])
        if known.trial_id not in self._trial_info:
            super().on_trial_add(tune_controller, known)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial of the lower half, unless it is near its end or has the paper's values."""
        number = trial.config["number"]
        decision = super().on_trial_result(tune_controller, _known_as(number), result)
        spared = bool(self._searcher.sweep.points) and number == 0
        if spared or result.get("epoch", 0) > 0.75 * self._epochs:
            return str(self.CONTINUE)
        return str(decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Let a trial go that is over."""
        super().on_trial_complete(tune_controller, _known_as(trial.config["number"]), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Let a trial go that never ran."""
        super().on_trial_remove(tune_controller, _known_as(trial.config["number"]))

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _known_as(number: int) -> SimpleNamespace:
    """Give a trial as ASHA knows it: by its number, which outlives Tune's own names."""
    return SimpleNamespace(trial_id=str(number))
