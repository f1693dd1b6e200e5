"""What is done while trials run: lines for the reader, names for the dashboard, tables, `best`."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import ray
from ray.tune import Callback

from facerec import history
from facerec.tuning import report, results
from facerec.tuning.board import Board
from facerec.tuning.messages import METRICS, OUTCOME
from facerec.tuning.nodes import Nodes
from facerec.tuning.search import JournalSearcher, kept
from facerec.tuning.trials import Job
from facerec.tuning.waiting import Waiting

_QUIET = 15.0  # seconds between two lines about the same running trial
_STALE = 2.0  # seconds that the tables may lack a trial which has begun


class Written(Protocol):
    """Tables of trials that are kept up to date in a sweep's folder."""

    def write(self) -> pd.DataFrame:
        """Write all; gives the trials."""
        ...


class Tables:
    """The search's tables and `best`, kept up to date in the sweep's folder.

    Args:
        folder: The sweep's.
        searcher: Knows the trials.
        crowned: Whether `best` is a confirmed winner, which no single score of a search replaces.
    """

    def __init__(self, folder: Path, searcher: JournalSearcher, crowned: bool = False) -> None:
        self._folder, self._searcher, self._crowned = folder, searcher, crowned
        self._histories: dict[int, pd.DataFrame] = {}
        self._read: set[int] = set()  # trials that are over, whose history is read for good
        self._winner: int | None = None
        self._warned = False

    def write(self) -> pd.DataFrame:
        """Write all tables, and `best` where the winner changed; gives the trials."""
        rows, sweep = self._searcher.rows(), self._searcher.sweep
        trials = results.trials_table(
            rows, metric=sweep.metric, keys=list(sweep.space), seed=sweep.base.seed
        )
        for row in rows:
            number = row["number"]
            if number not in self._read and (
                found := history.read(self._folder / results.run_folder(number))
            ):
                self._histories[number] = pd.DataFrame(found)
            if row["status"] != "running":
                self._read.add(number)
        try:
            results.write(self._folder, "trials", trials)
            results.write(self._folder, "history", results.history_table(self._histories))
            winners = trials.loc[trials["rank"] == 1, "trial"]
            if (
                not self._crowned
                and len(winners)
                and (winner := int(winners.iloc[0])) != self._winner
            ):
                replace_best(self._folder, self._folder / results.run_folder(winner))
                self._winner = winner
        except OSError as error:
            # The journal has it all; a full disk must not end the trials that still run.
            if not self._warned:
                print(f"warning: tables cannot be written now: {error}", file=sys.stderr)
            self._warned = True
        return trials


def replace_best(folder: Path, run: Path) -> None:
    """Make `best` a copy of a run folder; it is never half a copy.

    Files are linked where the file system can: they are only ever replaced, not changed.
    """
    aside, old = folder / ".best.new", folder / ".best.old"
    for left in (aside, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(run, aside, copy_function=_link, ignore=shutil.ignore_patterns(".*"))
    best = folder / "best"
    if best.exists():
        os.rename(best, old)
    os.rename(aside, best)
    shutil.rmtree(old, ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class Watch(Callback):  # type: ignore[misc]  # Ray has no types
    """Tune's callback of a sweep; what fails in it ends the sweep as the searcher's failure."""

    def __init__(
        self, job: Job, searcher: JournalSearcher, tables: Written, *, joined: bool = False
    ) -> None:
        self._job, self._searcher, self._tables = job, searcher, tables
        self._console = report.console()
        self._waiting = Waiting(job, joined=joined)
        self._nodes = Nodes() if joined else None
        self._spoken: dict[int, float] = {}
        self._epochs: dict[int, float] = {}  # that each trial has reached, and
        self._reached: dict[int, float] = {}  # had at its last accident
        self._begun, self._written = False, -math.inf  # since the tables were written, and when
        self._board = ray.remote(num_cpus=0)(Board).options(name=job.name).remote()

    @kept
    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """List new trials; say which wait for room, and end the sweep where none can come."""
        if self._begun and time.monotonic() - self._written > _STALE:
            self._write()
        lines, never = self._waiting.look(trials)
        if self._nodes is not None:
            lines = [*self._nodes.look(), *lines]
        for line in lines:
            self._console.print(line)
        if never:
            self._searcher.refusal = never

    @kept
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Name the trial; the tables list it as running in a moment."""
        title = self._job.title(trial.config)
        self._waiting.starts(trial)
        self._board.trial.options(name=title).remote(title)
        self._spoken[trial.config["number"]] = time.monotonic()
        self._begun = True

    @kept
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say how far a trial is, now and then."""
        metrics = result.get(METRICS.rstrip("/"), {})
        if result.get(OUTCOME) or not metrics:
            return
        text = (
            f"epoch {metrics['epoch']:g} of {self._job.base.epochs:g}  "
            f"{self._job.metric} {metrics[self._job.metric]:.4f}  loss {metrics['loss']:.3f}"
        )
        title, number = self._job.title(trial.config), trial.config["number"]
        self._epochs[number] = metrics["epoch"]
        self._board.tell.remote(title, text, False)
        if time.monotonic() - self._spoken.get(number, 0.0) > _QUIET:
            self._spoken[number] = time.monotonic()
            self._console.print(f"{title}  {text}", style="dim")

    @kept
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial met an accident and runs again.

        Only accidents without an epoch between them make it fail: nodes may be lost for ever.
        """
        self._searcher.on_trial_recover(trial.trial_id)
        number = trial.config["number"]
        epoch = self._epochs.get(number, 0.0)
        if epoch > self._reached.get(number, 0):
            self._reached[number] = epoch
            trial.run_metadata.num_failures = 0
        self._console.print(f"{self._job.title(trial.config)}  met an accident, runs again")

    @kept
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write the tables and say how the trial ended."""
        self._ended(trial)

    @kept
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write the tables and say why the trial failed."""
        self._ended(trial)

    def _write(self) -> pd.DataFrame:
        self._begun, self._written = False, time.monotonic()
        return self._tables.write()

    def _ended(self, trial: Any) -> None:
        table = self._write()
        title, number = self._job.title(trial.config), trial.config["number"]
        row = table.loc[table["trial"] == number].iloc[0]
        text = _ending(row, self._job.metric)
        self._board.tell.remote(title, text, True)
        if not self._searcher.refusal:
            self._console.print(f"{title}  {text}")

    @property
    def failure(self) -> Exception | None:
        """The searcher's failure."""
        return self._searcher.failure

    @failure.setter
    def failure(self, error: Exception) -> None:
        self._searcher.failure = error

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _ending(row: Mapping[str, Any], metric: str) -> str:
    why = row["reason"] if row["status"] == "diverged" else row["error"]
    words = [f"{row['status']} ({why})" if why else row["status"]]
    for column, shown in ((metric, "{} {:.4f}"), ("epochs", "{} {:g}"), ("seconds", "{1:.0f} s")):
        if column in row and not pd.isna(row[column]):
            words.append(shown.format(column, row[column]))
    if not pd.isna(row["rank"]) and row["rank"] == 1:
        words.append("best so far")
    return "  ".join(words)
