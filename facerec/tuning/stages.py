"""The stages of a sweep, in its folder and on one Ray: search, confirmation, verdict, report.

`facerec.tuning.search` decides what is tried, `confirm` what is trained again, `trials` how one
training runs, `watch` what is seen of it; this file puts them together, and ends them tidily.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facerec.config import ConfigError
from facerec.tuning import (
    cluster,
    confirm,
    confirm_plot,
    folder,
    judgement,
    nodes,
    packing,
    report,
    results,
)
from facerec.tuning.journal import repair
from facerec.tuning.options import Options
from facerec.tuning.results import Results
from facerec.tuning.search import JournalSearcher
from facerec.tuning.sweep import Sweep
from facerec.tuning.trials import Job
from facerec.tuning.tuner import search
from facerec.tuning.watch import Tables, Written


class Interrupted(KeyboardInterrupt):
    """The user ended a sweep that can be resumed."""


def run(
    sweep: Sweep, chosen: Options, path: Path, begun: dict[str, Any], described: Sequence[str]
) -> Results:
    """Run what is left of a sweep; its folder is owned and has its record.

    Args:
        sweep: What is searched, with data.
        chosen: How it is run.
        path: Its folder.
        begun: Its record.
        described: Lines about the data and about earlier sweeps.

    Raises:
        ConfigError: For what the user can mend.
        DataError: For data that cannot be used.
        Interrupted: After Ctrl-C.
    """
    journal, console = path / f"{sweep.name}.journal", report.console()
    repair(journal)
    searcher = JournalSearcher(
        sweep,
        journal,
        total=sweep.trials,
        sampler=begun["sampler"],
        commit=begun["commit"],
        earlier=begun["warm_start"].get("trials", ()),
    )
    tables = Tables(path, searcher, crowned=bool(results.verdict(path).get("best")))
    tables.write()
    about = _about(sweep, path, begun, searcher, described)
    try:
        with cluster.lasting():
            stage = _Stage(path, path.name, results.RUNS, searcher, tables, begun["sampler"])
            if not searcher.remaining():
                console.print(about)
            trained = _train(
                stage, sweep, chosen, lambda up: f"{_dashboard(up, path.name)}\n{about}"
            )
            runs = confirm.plan(sweep, searcher.rows(), confirm.read_plan(path))
            again, confirmed = None, False
            if runs and sweep.confirm:
                again, confirmed = _confirm(sweep, chosen, path, begun, runs, announced=trained)
    except KeyboardInterrupt:
        raise Interrupted from None
    if trained or confirmed or not folder.judged(path, begun):
        repeats = begun["warm_start"].get("repeats", ())
        judgement.conclude(
            sweep, path, searcher, runs, again, gpus=not chosen.smoke, repeats=repeats
        )
    report.write(path)
    confirm_plot.write(path)
    report.show(path, console)
    return results.load(path)


@dataclass(frozen=True)
class _Stage:
    """Trials that are run one after the other, or at a time.

    Attributes:
        folder: The sweep's.
        name: Of the trials, in the dashboard.
        runs: Where their run folders are.
        searcher: Says what is tried.
        tables: Written as they end.
        sampler: `tpe`, where later trials learn from earlier ones; else `random`.
    """

    folder: Path
    name: str
    runs: str
    searcher: JournalSearcher
    tables: Written
    sampler: str


def _confirm(
    sweep: Sweep,
    chosen: Options,
    path: Path,
    begun: dict[str, Any],
    runs: Sequence[confirm.Rerun],
    *,
    announced: bool,
) -> tuple[confirm.ConfirmTables, bool]:
    """Train the plan's settings; gives the tables of it, and whether anything was left to do."""
    confirm.write_plan(path, runs)
    repair(path / results.CONFIRM_RUNS / confirm.JOURNAL)
    searcher = confirm.open_searcher(sweep, path, runs, begun["commit"])
    tables = confirm.ConfirmTables(path, searcher, runs)
    name = f"{path.name}-confirm"
    remaining, settings = searcher.remaining(), len({run.setting for run in runs})
    done = f", {len(runs) - remaining} are done" if remaining < len(runs) else ""
    about = f"\nconfirm    {settings} settings, {len(runs)} trainings in all{done}"

    def heading(up: cluster.Cluster) -> str:
        return about if announced else f"{_dashboard(up, name)}\n{about}"

    stage = _Stage(path, name, results.CONFIRM_RUNS, searcher, tables, "random")
    return tables, _train(stage, sweep, chosen, heading)


def _train(
    stage: _Stage, sweep: Sweep, chosen: Options, heading: Callable[[cluster.Cluster], str]
) -> bool:
    """Run what is left of a stage; tells whether anything was."""
    searcher = stage.searcher
    if not searcher.remaining():
        return False
    shutil.rmtree(stage.folder / "ray", ignore_errors=True)  # Ray's own notes: a cache
    try:
        with cluster.running(chosen.address, gpus=not chosen.smoke) as up:
            if sweep.workers > 1 and not up.dashboard:
                raise ConfigError(
                    f"--workers {sweep.workers}: the cluster at {chosen.address} has no dashboard, "
                    "of which Ray Train asks whose cores are free again; start it with "
                    "ray start --head --include-dashboard=true, or give --workers 1"
                )
            share, packed = chosen.gpus_per_worker, ""
            if chosen.pack:
                share, packed = packing.share_of(sweep, up.gpus)
            slots = cluster.plan(
                up.cpus,
                up.gpus,
                workers=sweep.workers,
                trials=searcher.total,  # the same threads before and after an interruption
                sampler=stage.sampler,
                share=share,
            )
            report.console().print(f"{heading(up)}\n{_machine(up, slots, packed)}")
            path = stage.folder.resolve()
            job = Job(
                sweep.base,
                path,
                stage.name,
                sweep.metric,
                slots,
                stage.runs,
                nodes.digest(path / folder.RECORD) if up.joined else "",
            )
            search(job, searcher, stage.tables, joined=up.joined)
    finally:
        stage.tables.write()
    if searcher.refusal:
        raise ConfigError(searcher.refusal)
    if isinstance(searcher.failure, OSError):
        raise ConfigError(
            f"{stage.folder}: cannot be written ({searcher.failure}); make room there"
        )
    if searcher.failure is not None:
        raise searcher.failure
    return True


def _about(
    sweep: Sweep,
    path: Path,
    begun: dict[str, Any],
    searcher: JournalSearcher,
    described: Sequence[str],
) -> str:
    remaining = searcher.remaining()
    done = sum(row["status"] != "running" for row in searcher.rows())
    data, *warm = described
    return "\n".join(
        [
            f"sweep      {path}: {sweep.metric} over {', '.join(sweep.space)}",
            f"           {sweep.trials} trials, epochs={sweep.base.epochs:g}, {begun['sampler']}"
            f"{', lagging ones stop early' if sweep.early_stop else ''}"
            f"{f'; {done} are done, {remaining} to go' if done else ''}",
            f"data       {data}",
            *(f"warm start {line}" for line in warm),
        ]
    )


def _dashboard(up: cluster.Cluster, name: str) -> str:
    if not up.dashboard:
        return "dashboard  none"
    ray = Path(os.path.relpath(Path(sys.executable).with_name("ray")))
    return (
        f"dashboard  {up.dashboard}   (trials: Actors, {name})\n"
        f"           asks for a token, which this prints: {ray} get-auth-token"
    )


def _machine(up: cluster.Cluster, slots: cluster.Slots, packed: str = "") -> str:
    each = f"{slots.threads} thread{'s' if slots.threads > 1 else ''}"
    if slots.workers > 1:
        each = f"{slots.workers} workers each, {each} per worker"
    if slots.gpu and slots.gpu != 1:
        each += f", {slots.gpu:g} GPUs per process"
    packed = packed and f"\n           {packed}"
    return (
        f"machine    {sum(up.cpus):g} cores, {sum(up.gpus):g} GPUs: {slots.count} "
        f"trial{'s' if slots.count > 1 else ''} at a time, {each}{packed}"
    )
