"""What a sweep costs beside its trainings: overhead per trial, questions to the sampler, start-ups.

python benchmarks/sweep.py [overhead|asking|sleeping|workers ...]

Each part is run several times and its median kept, in docs/benchmarks/sweep.json with hardware,
commit and load; parts that are not named keep what the file has of them. The clock of a sweep runs
from when Ray is up until the last trial's tables are written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from hardware import ROOT, surroundings
from ray import tune

from facerec import history
from facerec.config import Component, TrainConfig, override
from facerec.data.writer import write_json
from facerec.domains import LogUniform, Scalar, Uniform
from facerec.presets import laptop
from facerec.tuning import cluster, data, trials, tuner
from facerec.tuning.cluster import Slots
from facerec.tuning.messages import FINISHED, METRICS, OBJECTIVE, OUTCOME
from facerec.tuning.search import JournalSearcher
from facerec.tuning.sweep import Sweep
from facerec.tuning.trials import Job
from facerec.tuning.watch import Tables

OUT = ROOT / "docs" / "benchmarks" / "sweep.json"
SLOTS = 2
SPACE = {
    "loss.margin": Uniform(0.0, 0.7),
    "loss.scale": LogUniform(16.0, 96.0),
    "optimizer.lr": LogUniform(0.01, 0.2),
}
Train = Callable[..., Mapping[str, float]]


def main() -> None:
    parts = {"overhead": _overhead, "asking": _asking, "sleeping": _sleeping, "workers": _workers}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)} (default: all)")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    found = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for name in given.parts or parts:
        load = os.getloadavg()[0]
        result = parts[name](given.turns)
        about = surroundings("torch", "ray", "optuna")
        result["commit"] = about.pop("commit")
        result["load_before_and_after"] = [round(load, 1), round(os.getloadavg()[0], 1)]
        found[name] = result
        print(f"{name}: {json.dumps(result)}", flush=True)
        described = {
            "command": "python benchmarks/sweep.py",
            **about,
            **{part: found[part] for part in parts if part in found},
        }
        write_json(OUT, described)


def _base() -> TrainConfig:
    return override(
        data.with_data(laptop(Component("cosface")), smoke=True),
        {"epochs": 1, "precision": "fp32", "eval.geometry": False},
    )


def _sweep(count: int, **changes: Any) -> Sweep:
    values: dict[str, Any] = {"trials": count, "early_stop": False, "confirm": 0}
    return Sweep("cost", changes.pop("base", None) or _base(), SPACE, **values | changes)


# Trials on Ray.


def _overhead(turns: int) -> dict[str, Any]:
    """24 trainings of one epoch on 400 small images, and as many that only wait half a second."""
    return {
        "limit_seconds": 0.5,
        "trials": 24,
        "one_epoch": _median([_trials(24, None) for _ in range(turns)]),
        "half_a_second_of_waiting": _median([_trials(24, _waiting(0.5)) for _ in range(turns)]),
    }


def _sleeping(turns: int) -> dict[str, Any]:
    """100 trials that wait for two seconds: how much of the two slots' time is theirs."""
    found = _median([_trials(100, _waiting(2.0)) for _ in range(turns)])
    return {"limit_of_ideal": 0.8, "trials": 100, **found}


def _trials(count: int, stand_in: Train | None) -> dict[str, float]:
    """Run a search; gives its wall time, and what of the slots' time was not in `train`."""
    with tempfile.TemporaryDirectory() as place, cluster.running(gpus=False):
        folder = Path(place)
        searcher = JournalSearcher(_sweep(count), folder / "j", total=count, sampler="tpe")
        job = Job(searcher.sweep.base, folder, "cost", "val.tar", Slots(SLOTS, 1, 1, 0.0))
        own, tuner.trainable = tuner.trainable, lambda job: _watched(job, stand_in)
        try:
            began = time.perf_counter()
            tuner.search(job, searcher, Tables(folder, searcher))
            wall = time.perf_counter() - began
        finally:
            tuner.trainable = own
        if searcher.failure is not None:
            raise searcher.failure
        spans = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("span-*")]
        assert len(spans) == count, [row for row in searcher.rows() if row["error"]]
        assert {row["status"] for row in searcher.rows()} == {"completed"}
    inside = sum(end - start for start, end in spans)
    first = min(start for start, _ in spans)
    return {
        "wall_seconds": wall,
        "inside_train_seconds": inside,
        "overhead_seconds_per_trial": (SLOTS * wall - inside) / count,
        "of_ideal": inside / SLOTS / wall,
        "before_the_first_trial_seconds": first - (time.time() - (time.perf_counter() - began)),
        "after_the_last_trial_seconds": time.time()
        - (time.perf_counter() - began - wall)
        - max(end for _, end in spans),
    }


def _watched(job: Job, stand_in: Train | None) -> Any:
    """The sweep's own trainable, with `train` timed or replaced in the trial's process."""
    own = trials.trainable(job)

    def alone(config: dict[str, Any]) -> None:
        from facerec.train import train
        from facerec.tuning import trials

        def timed(*args: Any, **kwargs: Any) -> Mapping[str, float]:
            began = time.time()
            final: Mapping[str, float] = (stand_in or train)(*args, **kwargs)
            span = json.dumps([began, time.time()])
            (job.folder / f"span-{config['number']}").write_text(span, encoding="utf-8")
            return final

        trials.train = timed  # type: ignore[assignment]
        own(config)

    return tune.with_resources(alone, job.slots.each)


def _waiting(seconds: float) -> Train:
    """A training that waits, and leaves what others leave: a run folder with a history."""

    def train(config: TrainConfig, *, run: Path, report: Any, **_: Any) -> Mapping[str, float]:
        time.sleep(seconds)
        metrics = {"epoch": 1.0, "step": 1.0, "loss": 1.0, "seconds": seconds, "val.tar": 0.5}
        run.mkdir(parents=True)
        history.History(run, 0).append(metrics)
        report(metrics, None)
        return metrics

    return train


# Questions to the sampler, without Ray.


def _asking(turns: int) -> dict[str, Any]:
    """Ask and tell with 1,000 trials known: our journal, and Optuna's own study in memory."""
    times: dict[str, list[float]] = {"journal": [], "in_memory": []}
    with tempfile.TemporaryDirectory() as place:
        searcher = JournalSearcher(
            _sweep(2000), Path(place) / "j", total=2000, sampler="tpe", commit="0" * 7
        )
        study = optuna.create_study(direction="maximize", sampler=_tpe(0))
        known = [_known(number) for number in range(1000)]
        for one in (searcher._study, study):
            one.add_trials(known)
        for number in range(20 * turns):
            began = time.perf_counter()
            setting = searcher.suggest(str(number))
            asked = time.perf_counter() - began
            assert isinstance(setting, dict)
            began = time.perf_counter()
            searcher.on_trial_complete(str(number), _result(_value(setting)))
            times["journal"].append(asked + time.perf_counter() - began)
            assert searcher.failure is None
            study.sampler = _tpe(number + 1)
            began = time.perf_counter()
            trial = study.ask()
            drawn = {key: _draw(trial, key, domain) for key, domain in SPACE.items()}
            study.tell(trial, _value(drawn))
            times["in_memory"].append(time.perf_counter() - began)
    ours, bare = (statistics.median(times[name]) for name in ("journal", "in_memory"))
    return {
        "limit_ratio": 2.0,
        "known_trials": 1000,
        "journal_milliseconds": round(1000 * ours, 2),
        "in_memory_milliseconds": round(1000 * bare, 2),
        "ratio": round(ours / bare, 2),
    }


def _tpe(seed: int) -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True
    )


def _known(number: int) -> optuna.trial.FrozenTrial:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    trial = study.ask()
    drawn = {key: _draw(trial, key, domain) for key, domain in SPACE.items()}
    return optuna.trial.create_trial(
        value=_value(drawn), params=drawn, distributions=trial.distributions
    )


def _draw(trial: optuna.Trial, key: str, domain: Uniform | LogUniform) -> float:
    log = isinstance(domain, LogUniform)
    return float(trial.suggest_float(key, domain.low, domain.high, log=log))


def _value(setting: Mapping[str, Scalar]) -> float:
    margin, scale = float(setting["loss.margin"] or 0), float(setting["loss.scale"] or 1)
    return 0.9 - (margin - 0.3) ** 2 - 0.05 * math.log(scale / 40) ** 2


def _result(value: float) -> dict[str, Any]:
    metrics = {"epoch": 8.0, "val.tar": value, "seconds": 60.0, "loss": 1.0}
    return {OBJECTIVE: value, OUTCOME: FINISHED, **{METRICS + k: v for k, v in metrics.items()}}


# Trials of several workers.


def _workers(turns: int) -> dict[str, Any]:
    """Trainings of two Ray Train workers, one after the other: all but the training itself."""
    with tempfile.TemporaryDirectory() as place, cluster.running(gpus=False):
        folder = Path(place)
        searcher = JournalSearcher(
            _sweep(turns + 1, workers=2), folder / "j", total=turns + 1, sampler="random"
        )
        slots = Slots(1, 2, 1, 0.0)
        tables = Tables(folder, searcher)
        began = time.time()
        tuner.search(Job(searcher.sweep.base, folder, "cost", "val.tar", slots), searcher, tables)
        ends = [
            (folder / "checkpoints" / str(number) / history.NAME).stat().st_mtime
            for number in range(turns + 1)
        ]
        inside = [row["metrics"]["seconds"] for row in searcher.rows()]
    spans = [end - before for before, end in zip([began, *ends], ends, strict=False)]
    starts = [span - seconds for span, seconds in zip(spans, inside, strict=True)]
    return {
        "workers": 2,
        "first_start_seconds": round(starts[0], 2),
        "later_start_seconds": round(statistics.median(starts[1:]), 2),
        "training_seconds": round(statistics.median(inside), 2),
    }


def _median(runs: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "runs": len(runs),
        **{key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]},
    }


if __name__ == "__main__":
    main()
