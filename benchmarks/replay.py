"""Searches replayed on recorded learning curves: ours, random search, and Ray's OptunaSearch.

python benchmarks/replay.py [CURVES.parquet] [--seeds N]

The curves are those of benchmarks/learning_curves.py: a grid of settings, each trained for eight
epochs. A search asks for a setting, gets the nearest recorded one, and pays an epoch for each value
it is shown. Our searcher and its early stopping, and Ray's, are the real ones, driven by hand in
simulated time: with two slots two trials go on by an epoch in turns. Written are the epochs until
random search's best is reached, and what is still missing to the best of all settings when random
search has used its epochs, to docs/benchmarks/replay.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import optuna
import pyarrow.parquet as pq
from hardware import ROOT, surroundings
from numpy.typing import NDArray
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from facerec.config import Component, override
from facerec.data.writer import write_json
from facerec.domains import LogUniform, Uniform
from facerec.presets import laptop
from facerec.tuning.halving import JournalHalving
from facerec.tuning.messages import DIVERGED, FINISHED, METRICS, OBJECTIVE, OUTCOME, TEXT, WORST
from facerec.tuning.search import JournalSearcher
from facerec.tuning.sweep import Sweep

CURVES = ROOT / "docs" / "benchmarks" / "learning_curves.parquet"
OUT = ROOT / "docs" / "benchmarks" / "replay.json"
METRIC = "val.tar"
EPOCHS = 8
RANDOM_TRIALS = 32
BUDGET = RANDOM_TRIALS * EPOCHS
SPACE: Mapping[str, Uniform | LogUniform] = {
    "loss.margin": Uniform(0.0, 0.7),
    "loss.scale": LogUniform(12.0, 64.0),
    "optimizer.lr": LogUniform(0.0125, 0.1),
}
Setting = Mapping[str, Any]


class Curves:
    """The recorded settings and their values by epoch; NaN from where a training diverged."""

    def __init__(self, path: Path) -> None:
        table = pq.read_table(path).to_pydict()
        self.candidates = sorted(set(table["candidate"]))
        shape = (len(self.candidates), EPOCHS)
        self.val, self.confirm = np.full(shape, np.nan), np.full(shape, np.nan)
        self._places = np.zeros((shape[0], len(SPACE)))
        for row, candidate in enumerate(table["candidate"]):
            which, epoch = self.candidates.index(candidate), table["epoch"][row] - 1
            for values, name in ((self.val, METRIC), (self.confirm, "confirm.tar")):
                value = table[name][row]
                values[which, epoch] = math.nan if value is None else value
            self._places[which] = self._place({key: table[key][row] for key in SPACE})

    def nearest(self, setting: Setting) -> int:
        """The recorded setting that is nearest, each key's range taken as one."""
        return int(((self._places - self._place(setting)) ** 2).sum(1).argmin())

    def _place(self, setting: Setting) -> NDArray[np.float64]:
        place = []
        for key, domain in SPACE.items():
            scale = math.log if isinstance(domain, LogUniform) else float
            low, high = scale(domain.low), scale(domain.high)
            place.append((scale(setting[key]) - low) / (high - low))
        return np.array(place)

    def standard_error(self) -> float:
        """Of a last value: what `val` says beyond `confirm`, which other people make up.

        The residual of one split's last values on the other's has the error of both.
        """
        one, two = self.val[:, -1], self.confirm[:, -1]
        there = np.isfinite(one) & np.isfinite(two)
        slope, level = np.polyfit(two[there], one[there], 1)
        left = one[there] - slope * two[there] - level
        return float(np.sqrt((left**2).sum() / (there.sum() - 2) / 2))


class Search(Protocol):
    """A searcher with its early stopping."""

    def ask(self, name: str) -> Setting:
        """Give the next trial's setting."""

    def tell(self, name: str, epoch: int, value: float) -> bool:
        """Take up an epoch's value, NaN where it diverged; tells whether the trial goes on."""


class Ours:
    """The sweep's own searcher on a journal, with or without its early stopping."""

    def __init__(self, sampler: str, seed: int, folder: Path, *, early_stop: bool) -> None:
        base = override(laptop(Component("uniface")), {"seed": seed, "epochs": EPOCHS})
        sweep = Sweep("replay", base, dict(SPACE), METRIC, trials=BUDGET)
        path = folder / f"{sampler}.journal"
        self._searcher = JournalSearcher(sweep, path, total=BUDGET, sampler=sampler)
        self._halving = JournalHalving(EPOCHS, self._searcher) if early_stop else None
        self._trials: dict[str, Any] = {}

    def ask(self, name: str) -> Setting:
        found = self._searcher.suggest(name)
        assert isinstance(found, dict), self._searcher.failure
        self._trials[name] = SimpleNamespace(trial_id=name, config=found)
        if self._halving is not None:
            self._halving.on_trial_add(None, self._trials[name])
        return found

    def tell(self, name: str, epoch: int, value: float) -> bool:
        metrics = {METRICS + "epoch": float(epoch), METRICS + METRIC: value}
        result = {"epoch": epoch, OBJECTIVE: value, OUTCOME: "", TEXT: "", **metrics}
        if math.isnan(value):
            result = {OBJECTIVE: WORST, OUTCOME: DIVERGED, TEXT: "nan_loss"}
        self._searcher.on_trial_result(name, result)
        stops = False
        if self._halving is not None and not math.isnan(value):
            decision = self._halving.on_trial_result(None, self._trials[name], result)
            stops = decision == ASHAScheduler.STOP
        if epoch == EPOCHS:
            result = {**result, OUTCOME: FINISHED}
        if stops or math.isnan(value) or epoch == EPOCHS:
            if self._halving is not None:
                self._halving.on_trial_complete(None, self._trials[name], result)
            self._searcher.on_trial_complete(name, result)
            assert self._searcher.failure is None, self._searcher.failure
            return False
        return True


class Rays:
    """Ray's OptunaSearch with ASHA: a trial that is stopped is told as complete."""

    def __init__(self, seed: int, **halving: Any) -> None:
        self._searcher = OptunaSearch(_define, metric=METRIC, mode="max", seed=seed)
        self._halving = ASHAScheduler(time_attr="epoch", metric=METRIC, mode="max", **halving)
        self._trials: dict[str, Any] = {}

    def ask(self, name: str) -> Setting:
        found: Setting = self._searcher.suggest(name)
        self._trials[name] = SimpleNamespace(trial_id=name, config=found)
        self._halving.on_trial_add(None, self._trials[name])
        return found

    def tell(self, name: str, epoch: int, value: float) -> bool:
        # A value that is no number would never be told: the worst one is.
        shown = WORST if math.isnan(value) else value
        result = {"epoch": epoch, "training_iteration": epoch, METRIC: shown}
        self._searcher.on_trial_result(name, result)
        decision = self._halving.on_trial_result(None, self._trials[name], result)
        if decision == ASHAScheduler.STOP or math.isnan(value) or epoch == EPOCHS:
            self._halving.on_trial_complete(None, self._trials[name], result)
            self._searcher.on_trial_complete(name, result)
            return False
        return True


def _define(trial: optuna.Trial) -> None:
    for key, domain in SPACE.items():
        trial.suggest_float(key, domain.low, domain.high, log=isinstance(domain, LogUniform))


@dataclass
class Done:
    """A trial that ran to its end.

    Attributes:
        spent: Epochs of all trials until then.
        candidate: Which recorded setting it was.
    """

    spent: int
    candidate: int


def replay(curves: Curves, search: Search, slots: int) -> list[Done]:
    """Let a search spend the budget; gives the trials that ran to their end, in their order."""
    running: list[tuple[str, int, int] | None] = [None] * slots  # name, candidate, epochs behind it
    done: list[Done] = []
    spent = asked = 0
    while spent < BUDGET:
        for slot in range(slots):
            if (now := running[slot]) is None:
                name, asked = str(asked), asked + 1
                now = (name, curves.nearest(search.ask(name)), 0)
            name, candidate, epoch = now[0], now[1], now[2] + 1
            spent += 1
            goes_on = search.tell(name, epoch, float(curves.val[candidate, epoch - 1]))
            if epoch == EPOCHS and math.isfinite(curves.val[candidate, -1]):
                done.append(Done(spent, candidate))
            running[slot] = (name, candidate, epoch) if goes_on else None
    return done


def reached(curves: Curves, done: Sequence[Done], value: float) -> float:
    """The epochs that were spent when a full training first had a value; infinity for never."""
    return min((d.spent for d in done if curves.val[d.candidate, -1] >= value), default=math.inf)


def main() -> None:
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("curves", type=Path, nargs="?", default=CURVES)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    curves = Curves(given.curves)
    error = curves.standard_error()
    same = {"grace_period": 2, "max_t": 4, "reduction_factor": 2, "stop_last_trials": False}
    kinds: dict[str, Callable[[int, Path], Search]] = {
        "random search, none stopped": lambda s, f: Ours("random", s, f, early_stop=False),
        "ours": lambda s, f: Ours("tpe", s, f, early_stop=True),
        "ours, none stopped": lambda s, f: Ours("tpe", s, f, early_stop=False),
        "random search, stopped as ours": lambda s, f: Ours("random", s, f, early_stop=True),
        "OptunaSearch and ASHA, stopped as ours": lambda s, f: Rays(s, **same),
        "OptunaSearch and ASHA, Ray's defaults": lambda s, f: Rays(s, max_t=EPOCHS),
    }
    results = {
        f"{slots} slot{'s' if slots > 1 else ''}": _compare(
            curves, kinds, slots, given.seeds, error
        )
        for slots in (1, 2)
    }
    best = np.nanmax(curves.val[:, -1])
    described = {
        "command": "python benchmarks/replay.py",
        **surroundings("numpy", "optuna", "ray"),
        "curves": {"settings": len(curves.candidates), "epochs": EPOCHS, "best": round(best, 4)},
        "standard_error": round(error, 4),
        "random_trials": RANDOM_TRIALS,
        "budget_epochs": BUDGET,
        "seeds": given.seeds,
        "results": results,
    }
    write_json(given.out, described)
    print(json.dumps(results, indent=1))


def _compare(
    curves: Curves,
    kinds: Mapping[str, Callable[[int, Path], Search]],
    slots: int,
    seeds: int,
    error: float,
) -> dict[str, dict[str, float | None]]:
    runs: dict[str, list[list[Done]]] = {}
    for name, make in kinds.items():
        runs[name] = []
        for seed in range(1, seeds + 1):
            with tempfile.TemporaryDirectory() as folder:
                runs[name].append(replay(curves, make(seed, Path(folder)), slots))
    first, *_ = runs.values()  # random search: each seed's best is what the others go for
    tops = [max(curves.val[d.candidate, -1] for d in done) for done in first]
    best, best_confirm = np.nanmax(curves.val[:, -1]), np.nanmax(curves.confirm[:, -1])
    found: dict[str, dict[str, float | None]] = {}
    for name, each in runs.items():
        epochs = [reached(curves, d, top - error) for d, top in zip(each, tops, strict=True)]
        itself = [reached(curves, d, top) for d, top in zip(each, tops, strict=True)]
        winners = [max(d, key=lambda one: curves.val[one.candidate, -1]).candidate for d in each]
        regrets = [best - curves.val[w, -1] for w in winners]
        unseen = [best_confirm - curves.confirm[w, -1] for w in winners]
        found[name] = {
            "epochs_to_within_an_error_of_random_best": _middle(epochs),
            "never_within_an_error": sum(map(math.isinf, epochs)),
            "epochs_to_random_best": _middle(itself),
            "never_reached": sum(map(math.isinf, itself)),
            "full_trainings": statistics.median(len(d) for d in each),
            "regret_val_mean": round(float(np.mean(regrets)), 5),
            "regret_val_median": round(float(np.median(regrets)), 5),
            "regret_val_error_of_mean": round(float(np.std(regrets, ddof=1) / seeds**0.5), 5),
            "regret_confirm_mean": round(float(np.mean(unseen)), 5),
        }
    return found


def _middle(epochs: Sequence[float]) -> float | None:
    """Give the median, None where it is out of the budget."""
    middle = statistics.median(epochs)
    return middle if math.isfinite(middle) else None


if __name__ == "__main__":
    main()
