"""Sweeps on Ray Tune: `main(SWEEP)` is all that a script calls.

`facerec.tuning.search` decides what is tried, `trials` how one trial runs, `watch` what is seen of
it; this file puts them together, and ends them tidily.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from facerec.config import ConfigError, override
from facerec.data.shards import DataError
from facerec.domains import Scalar
from facerec.tuning import cluster, data, folder, options, report, results
from facerec.tuning.journal import repair
from facerec.tuning.options import Options
from facerec.tuning.results import Results
from facerec.tuning.search import JournalSearcher
from facerec.tuning.sweep import Sweep
from facerec.tuning.trials import Job
from facerec.tuning.tuner import search
from facerec.tuning.watch import Tables
from facerec.version import commit


class Interrupted(KeyboardInterrupt):
    """The user ended a sweep that can be resumed."""


def main(sweep: Sweep, argv: Sequence[str] | None = None) -> None:
    """Run a sweep as its script's command line says.

    Raises:
        SystemExit: 2 for what the user can mend, 130 after an interruption.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    door(words, lambda: _run(sweep, options.read(sweep.name, words)))


def door(words: Sequence[str], work: Callable[[], object]) -> None:
    """Do a script's work, and end as scripts do.

    Args:
        words: The command line after the script's name.
        work: What is done.

    Raises:
        SystemExit: 2 for what the user can mend, 130 after an interruption.
    """
    try:
        work()
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Interrupted:
        again = [word for word in words if word != "--resume"]
        command = shlex.join([_python(), sys.argv[0], *again, "--resume"])
        print(f"interrupted; to go on:\n  {command}", file=sys.stderr)
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        print("interrupted before it began", file=sys.stderr)
        raise SystemExit(130) from None


def _python() -> str:
    """Give the interpreter as one would type it here."""
    if shutil.which("python") == sys.executable:
        return "python"
    short = os.path.relpath(sys.executable)
    return sys.executable if short.startswith("..") else short


def run(
    sweep: Sweep,
    *,
    overrides: Mapping[str, Scalar] | None = None,
    trials: int | None = None,
    resume: bool = False,
    workers: int | None = None,
    storage: str | os.PathLike[str] = "results",
    address: str = "",
    sampler: str | None = None,
    smoke: bool = False,
) -> Results:
    """Run a sweep, or go on with one: what `main` does, for notebooks and tests.

    Args:
        sweep: What is searched.
        overrides: Changes of the base config, key by key.
        trials: Settings to try; None keeps the sweep's own number, or the resumed one's.
        resume: Whether to go on with the newest unfinished run of this sweep.
        workers: Training processes per trial; None keeps the sweep's own number.
        storage: Folder that the sweep's folder is made in.
        address: Ray cluster to join; empty starts one on this machine.
        sampler: `tpe` or `random`; None is tpe, or what a resumed sweep began with.
        smoke: Two trials of one epoch on small synthetic shards, on the CPU.

    Returns:
        The sweep's tables.

    Raises:
        ConfigError: For values, options or folders that the user can mend; before Ray starts
            wherever that can be known.
        DataError: For data that cannot be used.
        Interrupted: After Ctrl-C; the trials stay open for `resume`.
    """
    chosen = Options(
        overrides=dict(overrides or {}),
        trials=trials,
        resume=resume,
        workers=workers,
        storage=Path(storage),
        address=address,
        sampler=sampler,
        smoke=smoke,
    )
    return _run(sweep, chosen)


def _run(sweep: Sweep, chosen: Options) -> Results:
    if chosen.resume:
        path = folder.resumable(chosen.storage, sweep.name)
        with folder.owned(path):
            return _resume(sweep, chosen, path)
    folder.check_storage(chosen.storage)
    sweep = chosen_sweep(sweep, chosen)
    described = data.check(sweep.base, sweep.metric)
    begun = folder.record(
        sweep,
        sampler=chosen.sampler or "tpe",
        overrides={**chosen.overrides, **_paths(sweep, chosen.overrides)},
        smoke=chosen.smoke,
        commit=commit(),
    )
    path = folder.create(chosen.storage, sweep.name)
    with folder.owned(path):
        if path.name != sweep.name:
            before = path.with_name(sweep.name)
            report.console().print(f"{before} is there already: this is {path.name}")
        folder.write(path, begun)
        try:
            return _search(sweep, chosen, path, begun, described)
        except (ConfigError, DataError):
            if not folder.finished(path):
                folder.discard(path)  # it never came to anything
            raise


def _resume(sweep: Sweep, chosen: Options, path: Path) -> Results:
    before = folder.read(path)
    chosen = replace(
        chosen,
        overrides={**before["overrides"], **chosen.overrides},
        trials=chosen.trials or before["trials"],
        sampler=chosen.sampler or before["sampler"],
        smoke=chosen.smoke or before["smoke"],
    )
    sweep = chosen_sweep(sweep, chosen)
    described = data.check(sweep.base, sweep.metric)
    now = folder.record(
        sweep,
        sampler=chosen.sampler or "tpe",
        overrides={**chosen.overrides, **_paths(sweep, chosen.overrides)},
        smoke=chosen.smoke,
        commit=commit(),
    )
    folder.check_same(before, now, path)
    folder.write(path, now)
    return _search(sweep, chosen, path, now, described)


def chosen_sweep(sweep: Sweep, chosen: Options) -> Sweep:
    """Give the sweep with the command line's changes, and with data."""
    base, trials = sweep.base, sweep.trials
    if chosen.smoke:
        base, trials = override(base, {"epochs": 1, "precision": "fp32", "data.train": ""}), 2
    base = override(base, chosen.overrides)
    space = {key: sweep.space[key] for key in sweep.space if key not in chosen.overrides}
    if not space:
        raise ConfigError(
            f"{', '.join(sweep.space)}: all that this sweep searches is fixed; leave one of them "
            "out, or train once with facerec train"
        )
    points = [{key: point[key] for key in space} for point in sweep.points]
    base = data.with_data(base, smoke=chosen.smoke)
    return replace(
        sweep,
        base=base,
        space=space,
        points=tuple(point for n, point in enumerate(points) if point not in points[:n]),
        trials=chosen.trials or trials,
        workers=chosen.workers or sweep.workers,
    )


def _paths(sweep: Sweep, overrides: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Give the data's folders, where they were given, as they are found from anywhere."""
    found = {"data.train": sweep.base.data.train, "data.eval": sweep.base.data.eval}
    return {key: path for key, path in found.items() if key in overrides}


def _search(
    sweep: Sweep, chosen: Options, path: Path, begun: dict[str, Any], described: str
) -> Results:
    """Run what is left of a sweep; its folder is owned and has its record."""
    journal, console = path / f"{sweep.name}.journal", report.console()
    repair(journal)
    searcher = JournalSearcher(
        sweep, journal, total=sweep.trials, sampler=begun["sampler"], commit=begun["commit"]
    )
    tables = Tables(path, searcher)
    tables.write()
    remaining = searcher.remaining()
    done = sum(row["status"] != "running" for row in searcher.rows())
    about = (
        f"sweep      {path}: {sweep.metric} over {', '.join(sweep.space)}\n"
        f"           {sweep.trials} trials, epochs={sweep.base.epochs:g}, {begun['sampler']}"
        f"{', lagging ones stop early' if sweep.early_stop else ''}"
        f"{f'; {done} are done, {remaining} to go' if done else ''}\n"
        f"data       {described}"
    )
    if not remaining:
        console.print(about)
    if remaining:
        shutil.rmtree(path / "ray", ignore_errors=True)  # Ray's own notes: a cache
        try:
            with cluster.running(chosen.address, gpus=not chosen.smoke) as up:
                slots = cluster.plan(
                    up.cpus,
                    up.gpus,
                    workers=sweep.workers,
                    trials=sweep.trials,  # the same threads before and after an interruption
                    sampler=begun["sampler"],
                )
                console.print(f"{_dashboard(up, path.name)}\n{about}\n{_machine(up, slots)}")
                job = Job(sweep.base, path.resolve(), path.name, sweep.metric, slots)
                search(job, searcher, tables)
        except KeyboardInterrupt:
            raise Interrupted from None
        finally:
            tables.write()
    if searcher.refusal:
        raise ConfigError(searcher.refusal)
    if isinstance(searcher.failure, OSError):
        raise ConfigError(f"{path}: cannot be written ({searcher.failure}); make room there")
    if searcher.failure is not None:
        raise searcher.failure
    report.write(path)
    report.show(path, console)
    return results.load(path)


def _dashboard(up: cluster.Cluster, name: str) -> str:
    if not up.dashboard:
        return "dashboard  none"
    ray = Path(os.path.relpath(Path(sys.executable).with_name("ray")))
    return (
        f"dashboard  {up.dashboard}   (trials: Actors, {name})\n"
        f"           asks for a token, which this prints: {ray} get-auth-token"
    )


def _machine(up: cluster.Cluster, slots: cluster.Slots) -> str:
    each = f"{slots.threads} thread{'s' if slots.threads > 1 else ''}"
    if slots.workers > 1:
        each = f"{slots.workers} workers each, {each} per worker"
    return (
        f"machine    {sum(up.cpus):g} cores, {sum(up.gpus):g} GPUs: {slots.count} "
        f"trial{'s' if slots.count > 1 else ''} at a time, {each}"
    )
