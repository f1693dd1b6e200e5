"""The confirmation: which settings are trained again, with which seeds, and the table of it.

The search's winner was chosen because its one score was high, so that score is too high. The best
settings and the paper's values are therefore trained anew, with seeds that the search did not use,
the same ones for each setting: an epoch's order and augmentation follow from the seed, so two
settings with one seed saw the same images in the same order.

A setting once confirmed keeps its name (`1`, `2`, ... in the order of the search at that time), and
its trainings their numbers, however much is added later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from facerec.config import ConfigError
from facerec.data.writer import write_json
from facerec.domains import IntUniform, Scalar
from facerec.tuning import results
from facerec.tuning.search import JournalSearcher
from facerec.tuning.sweep import MOST_SEEDS, Sweep

DEFAULTS = "defaults"
_PLAN, JOURNAL = "plan.json", "confirm.journal"


def place(setting: str) -> int:
    """Give a setting's place in the order `defaults`, `1`, `2`, ..."""
    return 0 if setting == DEFAULTS else int(setting)


@dataclass(frozen=True)
class Rerun:
    """One training of the confirmation; its number is its place in the plan.

    Attributes:
        setting: `defaults`, `1`, `2`, ...
        repeats: The search's trial of this setting; None where the defaults were not tried.
        seed: Of the training.
        values: The searched keys, without the seed.
    """

    setting: str
    repeats: int | None
    seed: int
    values: Mapping[str, Scalar]


def read_plan(folder: Path) -> list[Rerun]:
    """Read what a sweep's confirmation consists of so far; empty before there is one.

    Raises:
        ConfigError: Where the plan is damaged.
    """
    path = folder / results.CONFIRM_RUNS / _PLAN
    try:
        return [Rerun(**run) for run in json.loads(path.read_text(encoding="utf-8"))["runs"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); remove {path.parent}, and give --resume to confirm "
            "again"
        ) from None


def write_plan(folder: Path, runs: Sequence[Rerun]) -> None:
    """Write the plan, aside and then in place, before any of it is run."""
    path = folder / results.CONFIRM_RUNS / _PLAN
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"runs": [asdict(run) for run in runs]})


def plan(
    sweep: Sweep, rows: Sequence[Mapping[str, Any]], before: Sequence[Rerun] = ()
) -> list[Rerun]:
    """Say what is trained again: the sweep's `confirm` best settings and its first point.

    Only trials that reached their full budget count, each setting once, and not the first point
    itself. With none of them there is nothing to confirm.

    Args:
        sweep: What was searched.
        rows: Its trials, as `JournalSearcher.rows` gives them.
        before: The plan so far; it is kept, and what is missing comes after it.
    """
    runs = list(before)
    arms: dict[str, tuple[int | None, dict[str, Scalar]]] = {
        run.setting: (run.repeats, dict(run.values)) for run in runs
    }
    best = _best(sweep, rows) if sweep.confirm else []
    if best and sweep.points:
        point = _values(sweep, sweep.points[0])
        tried = (row["number"] for row in rows if _values(sweep, row["setting"]) == point)
        arms.setdefault(DEFAULTS, (next(tried, None), point))
    for number, values in best:
        if values not in [known for _, known in arms.values()]:
            names = sum(name != DEFAULTS for name in arms)
            arms[str(names + 1)] = (number, values)
    there = {(run.setting, run.seed) for run in runs}
    for seed in range(sweep.base.seed + 1, sweep.base.seed + 1 + sweep.seeds):
        for name, (repeats, values) in arms.items():  # a seed of all before the next one
            if sweep.confirm and (name, seed) not in there:
                runs.append(Rerun(name, repeats, seed, values))
    return runs


def _best(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, Scalar]]]:
    """The best distinct settings but the first point, with their trials' numbers."""
    full = [
        row
        for row in rows
        if row["status"] == "completed" and row["metrics"].get(sweep.metric) is not None
    ]
    found: list[tuple[int, dict[str, Scalar]]] = []
    known = [_values(sweep, point) for point in sweep.points[:1]]
    for row in sorted(full, key=lambda row: (-row["metrics"][sweep.metric], row["number"])):
        values = _values(sweep, row["setting"])
        if values not in known and len(found) < sweep.confirm:
            known.append(values)
            found.append((row["number"], values))
    return found


def _values(sweep: Sweep, setting: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {key: setting[key] for key in sweep.space if key != "seed"}


def open_searcher(
    sweep: Sweep, folder: Path, runs: Sequence[Rerun], commit: str
) -> JournalSearcher:
    """Open the confirmation's journal: trials of fixed settings, retried and resumed as any.

    Args:
        sweep: What was searched.
        folder: The sweep's folder.
        runs: The plan.
        commit: Version of the program.
    """
    path = folder / results.CONFIRM_RUNS / JOURNAL
    seeds = IntUniform(sweep.base.seed + 1, sweep.base.seed + MOST_SEEDS)
    fixed = Sweep(
        "confirm",
        sweep.base,
        {**sweep.space, "seed": seeds},
        sweep.metric,
        trials=len(runs),
        confirm=0,
        early_stop=False,
        workers=sweep.workers,
        points=tuple({**run.values, "seed": run.seed} for run in runs),
    )
    return JournalSearcher(fixed, path, total=len(runs), sampler="random", commit=commit)


class ConfirmTables:
    """`confirm.parquet` and its CSV, kept up to date in the sweep's folder.

    Args:
        folder: The sweep's.
        searcher: As `open_searcher` gives it.
        runs: The plan.
    """

    def __init__(self, folder: Path, searcher: JournalSearcher, runs: Sequence[Rerun]) -> None:
        self._folder, self._searcher, self._runs = folder, searcher, runs
        self._measured: dict[int, dict[str, float]] = {}

    def measured(self, scores: Mapping[int, Mapping[str, float]]) -> None:
        """Take up what was measured on the split that no search saw: number -> metrics."""
        self._measured = {number: dict(metrics) for number, metrics in scores.items()}

    def rows(self) -> list[dict[str, Any]]:
        """Give the trainings, as `JournalSearcher.rows` does."""
        return self._searcher.rows()

    def write(self, ranks: Mapping[str, int] | None = None) -> pd.DataFrame:
        """Write the table; gives it.

        Args:
            ranks: Setting -> its place by the verdict, 1 for the winner.
        """
        table = self.table(ranks or {})
        results.write(self._folder, "confirm", table)
        return table

    def table(self, ranks: Mapping[str, int]) -> pd.DataFrame:
        """Give a row per training: `setting`, `repeats`, and the columns of `trials`."""
        rows = [
            {**row, "metrics": {**row["metrics"], **self._measured.get(row["number"], {})}}
            for row in self._searcher.rows()
        ]
        sweep = self._searcher.sweep
        table = results.trials_table(
            rows,
            metric=sweep.metric,
            keys=list(sweep.space),
            seed=sweep.base.seed,
            runs=results.CONFIRM_RUNS,
        )
        own = [self._runs[number] for number in table["trial"]]
        table["setting"] = pd.array([run.setting for run in own], dtype="str")
        table["repeats"] = pd.array([run.repeats for run in own], dtype="Int64")
        # Of the setting, not of the single training.
        table["rank"] = pd.array([ranks.get(run.setting) for run in own], dtype="Int64")
        first = ["setting", "trial", "repeats"]
        return table[[*first, *(column for column in table if column not in first)]]
