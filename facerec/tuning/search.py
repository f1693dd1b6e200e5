"""The search: Tune's questions answered by Optuna, with a journal that outlives every process.

The journal (`<sweep>.journal`, Optuna's own format) is the truth about which trial numbers exist,
with which setting, how far they came and how they ended. What Tune remembers is not needed again.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from facerec.domains import Choice, IntUniform, LogUniform, Uniform
from facerec.tuning import journal, samplers
from facerec.tuning.messages import (
    ACCIDENT,
    DETAIL,
    DIVERGED,
    FINISHED,
    METRICS,
    OBJECTIVE,
    OUTCOME,
    REFUSED,
    TEXT,
    WORST,
)
from facerec.tuning.sweep import Sweep

_STATUS = "status"  # user attributes of a journal's trial
_ROW = "row"
_ACCIDENTS = "accidents"


P = ParamSpec("P")
T = TypeVar("T")


def kept(method: Callable[P, T]) -> Callable[P, T | None]:
    """Keep a method's exception as its object's `failure`, and do nothing from then on.

    (Tune takes an exception on the driver's side for an accident of the trial, and would run it
    again.)
    """

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T | None:
        owner: Any = args[0]
        if owner.failure is None:
            try:
                return method(*args, **kwargs)
            except Exception as error:
                owner.failure = error
        return None

    return call


def at_once(method: Callable[P, T]) -> Callable[P, T]:
    """Have all that a method of `JournalSearcher` tells the journal written at its end."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        owner: Any = args[0]
        with owner._lines.together():
            return method(*args, **kwargs)

    return call


class JournalSearcher(Searcher):  # type: ignore[misc]  # Ray has no types
    """Tune's searcher over Optuna's ask, report and tell.

    A trial that reached its last epoch, or diverged, is told as complete; one that ASHA stopped
    as pruned, with its intermediate values; one lost to repeated accidents as failed, which
    teaches the sampler nothing. Accidents are counted in the journal, those too that a trial got
    over. Trials that the journal knows as running when it is opened were interrupted: they are
    handed out again first, under their numbers.

    Args:
        sweep: What is searched.
        path: The journal's path; `journal.repair` has seen it.
        total: Trials of the whole sweep, the journal's included.
        sampler: `tpe` or `random`.
        commit: Version of the program, for the rows of new trials.
        earlier: Trials of earlier sweeps that the sampler knows, see `warm_start.gather`.

    Attributes:
        refusal: What the user has to mend before any trial can run; else empty.
        failure: What broke the search itself: a full disk, a mistake of ours.
    """

    def __init__(
        self,
        sweep: Sweep,
        path: Path,
        *,
        total: int,
        sampler: str,
        commit: str = "",
        earlier: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self.sweep, self.total, self.commit = sweep, total, commit
        self.refusal = ""
        self.failure: Exception | None = None
        first = sweep.points[0] if sweep.points else {}
        self._lines = journal.Lines(path)
        self._study = journal.open_study(
            sweep,
            self._lines,
            samplers.build(
                sampler,
                sweep.space,
                trials=total,
                seed=sweep.base.seed,
                first=first,
                earlier=samplers.as_trials(earlier, sweep.space, WORST),
            ),
        )
        self._interrupted = deque(self._frozen(TrialState.RUNNING))
        self._open: dict[str, Trial] = {}
        self._latest: dict[int, dict[str, Any]] = {}

    def remaining(self) -> int:
        """Count the trials still to be run: interrupted ones, and new ones up to the total."""
        asked = len(self._study.get_trials(deepcopy=False)) - len(self._frozen(TrialState.WAITING))
        return len(self._interrupted) + max(self.total - asked, 0)

    def reported(self, number: int | None = None) -> dict[int, dict[int, float]]:
        """Give the objective by trial and epoch as the journal has it; of one trial, or all."""
        trials = self._study.get_trials(deepcopy=False)
        return {t.number: dict(t.intermediate_values) for t in trials if number in (None, t.number)}

    # What Tune calls.

    @kept
    @at_once
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Give the number and the setting of the next trial."""
        if self._interrupted:
            trial = Trial(self._study, self._interrupted.popleft()._trial_id)
        elif self.remaining():
            trial = self._ask()
        else:
            return str(Searcher.FINISHED)
        setting = {key: _suggest(trial, key, d) for key, d in self.sweep.space.items()}
        self._open[trial_id] = trial
        return {"number": trial.number, **setting}

    def _ask(self) -> Trial:
        known = len(self._study.get_trials(deepcopy=False))
        if known < len(self.sweep.points) and not self._frozen(TrialState.WAITING):
            self._study.enqueue_trial(dict(self.sweep.points[known]))
        return self._study.ask()

    @kept
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Write an epoch's value down."""
        if trial_id in self._open:
            self._note(self._open[trial_id], result)

    @kept
    @at_once
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell how a trial ended; nothing where it was only interrupted."""
        trial = self._open.pop(trial_id, None)
        if trial is None or (result is None and not error):
            return
        if result is not None:
            self._note(trial, result)
        latest = self._latest.pop(trial.number, {})
        outcome = latest.get(OUTCOME, "")
        if outcome == REFUSED and not error:
            return  # the user will mend it: the trial stays open for --resume
        if error:
            times = self._count_accident(trial)
            lost = "its process died (out of memory, or killed)"
            text = latest[TEXT] if outcome == ACCIDENT else lost
            text = f"{times} accidents, the last: {text}" if times > 1 else text
            self._tell(trial, TrialState.FAIL, "failed", latest, error=text)
        elif outcome == DIVERGED:
            trial.set_constraint("diverged", 1.0)  # ranked behind all others, stopped ones too
            reason, text = latest[TEXT], latest[DETAIL] or ""
            self._tell(trial, TrialState.COMPLETE, "diverged", latest, WORST, reason, text)
        elif outcome == FINISHED:
            value = latest[OBJECTIVE]
            self._tell(trial, TrialState.COMPLETE, "completed", latest, value)
        else:
            self._tell(trial, TrialState.PRUNED, "stopped", latest, reason="early_stop")

    @kept
    def on_trial_recover(self, trial_id: str) -> None:
        """Count an accident after which the trial runs again, under its number."""
        if trial_id in self._open:
            self._count_accident(self._open[trial_id])

    def _count_accident(self, trial: Trial) -> int:
        times = int(trial.user_attrs.get(_ACCIDENTS, 0)) + 1
        trial.set_user_attr(_ACCIDENTS, times)
        return times

    def _note(self, trial: Trial, result: Mapping[str, Any]) -> None:
        metrics = {k.removeprefix(METRICS): v for k, v in result.items() if k.startswith(METRICS)}
        before = self._latest.get(trial.number, {})
        self._latest[trial.number] = {
            "metrics": metrics or before.get("metrics", {}),
            **{key: result.get(key) for key in (OBJECTIVE, OUTCOME, TEXT, DETAIL)},
        }
        if result.get(OUTCOME) == REFUSED:
            self.refusal = str(result[TEXT])
        if "epoch" in metrics and result.get(OBJECTIVE) is not None:
            trial.report(float(result[OBJECTIVE]), math.ceil(metrics["epoch"]))

    def _tell(
        self,
        trial: Trial,
        state: TrialState,
        status: str,
        latest: Mapping[str, Any],
        value: float | None = None,
        reason: str = "",
        error: str = "",
    ) -> None:
        row = {
            "reason": reason,
            "error": error,
            "commit": self.commit,
            "metrics": _finite(latest.get("metrics", {})),
        }
        trial.set_user_attr(_ROW, row)
        trial.set_user_attr(_STATUS, status)
        self._study.tell(trial, value, state)

    # What the tables need.

    def rows(self) -> list[dict[str, Any]]:
        """Give every trial: number, status, reason, error, accidents, setting, metrics, commit."""
        rows = []
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state == TrialState.WAITING:
                continue
            latest = self._latest.get(frozen.number, {}).get("metrics", {})
            running: dict[str, Any] = {"reason": "", "error": "", "commit": self.commit}
            running["metrics"] = _finite(latest)
            done = frozen.state.is_finished()
            rows.append(
                {
                    "number": frozen.number,
                    "status": frozen.user_attrs[_STATUS] if done else "running",
                    "accidents": int(frozen.user_attrs.get(_ACCIDENTS, 0)),
                    "setting": {key: frozen.params.get(key) for key in self.sweep.space},
                    **(frozen.user_attrs[_ROW] if done else running),
                }
            )
        return rows

    def _frozen(self, state: TrialState) -> list[FrozenTrial]:
        return list(self._study.get_trials(deepcopy=False, states=(state,)))

    # Tune pickles its searcher now and then; the journal makes that needless.

    def __getstate__(self) -> dict[str, Any]:
        return {"_metric": self._metric, "_mode": self._mode}

    def save(self, checkpoint_path: str) -> None:
        """Leave an empty file: the journal is the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: sweeps are resumed from the journal."""


def _suggest(trial: Any, key: str, domain: object) -> Any:
    match domain:
        case Uniform(low, high):
            return trial.suggest_float(key, low, high)
        case LogUniform(low, high):
            return trial.suggest_float(key, low, high, log=True)
        case IntUniform(low, high, log):
            return trial.suggest_int(key, low, high, log=log)
        case Choice(options):
            return trial.suggest_categorical(key, options)
    raise AssertionError(domain)


def _finite(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Give metrics as JSON can hold them: without NaN and infinity."""
    return {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}
