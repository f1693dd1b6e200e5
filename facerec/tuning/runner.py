"""Sweeps on Ray Tune: `main(SWEEP)` is all that a script calls.

What is asked for becomes a sweep with data, in a folder that it owns; `facerec.tuning.stages` runs
it there.
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
from facerec.tuning import data, folder, options, priors, report, results, stages, warm_start
from facerec.tuning.options import Options
from facerec.tuning.results import Results
from facerec.tuning.stages import Interrupted
from facerec.tuning.sweep import Sweep
from facerec.version import commit


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
    except (ConfigError, DataError, OSError) as error:  # a file that cannot be written, say
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
    confirm: int | None = None,
    seeds: int | None = None,
    warm_start: Sequence[str | os.PathLike[str]] = (),
    workers: int | None = None,
    gpus_per_worker: float = 1.0,
    pack: bool = False,
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
        confirm: Best settings that are trained again for the verdict, and the first of the
            sweep's points with them; 0 leaves it out, None is as for `trials`.
        seeds: Trainings of each of these; None is as for `trials`.
        warm_start: Folders of earlier sweeps, whose trials the sampler is told.
        workers: Training processes per trial; None keeps the sweep's own number.
        gpus_per_worker: Accelerators of each process, or its share of one; where there are any.
        pack: Whether as many trials share an accelerator as predicted memory allows; wins over
            `gpus_per_worker`.
        storage: Folder that the sweep's folder is made in.
        address: Ray cluster to join; empty starts one on this machine.
        sampler: `tpe` or `random`; None is tpe, or what a resumed sweep began with.
        smoke: Two trials of one epoch on small synthetic shards, on the CPU; one setting and the
            first point are confirmed with one seed.

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
        confirm=confirm,
        seeds=seeds,
        warm_start=tuple(Path(folder) for folder in warm_start),
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        pack=pack,
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
    sweep = priors.with_points(sweep)
    begun, lines = _recorded(sweep, chosen, {})
    path = folder.create(chosen.storage, sweep.name)
    with folder.owned(path):
        if path.name != sweep.name:
            before = path.with_name(sweep.name)
            report.console().print(f"{before} is there already: this is {path.name}")
        folder.write(path, begun)
        try:
            return stages.run(sweep, chosen, path, begun, [described, *lines])
        except (ConfigError, DataError):
            if not folder.finished(path) and not (path / results.RUNS).exists():
                folder.discard(path)  # it never came to anything
            raise


def _resume(sweep: Sweep, chosen: Options, path: Path) -> Results:
    before = folder.read(path)
    chosen = replace(
        chosen,
        overrides={**before["overrides"], **chosen.overrides},
        trials=chosen.trials or before["trials"],
        confirm=before["confirm"] if chosen.confirm is None else chosen.confirm,
        seeds=chosen.seeds or before["seeds"] or None,
        sampler=chosen.sampler or before["sampler"],
        smoke=chosen.smoke or before["smoke"],
    )
    sweep = chosen_sweep(sweep, chosen)
    described = data.check(sweep.base, sweep.metric)
    sweep = priors.with_points(sweep)
    now, lines = _recorded(sweep, chosen, before["warm_start"])
    folder.check_same(before, now, path)
    folder.write(path, now)
    return stages.run(sweep, chosen, path, now, [described, *lines])


def _recorded(
    sweep: Sweep, chosen: Options, taken: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Give the sweep's record, and lines about the earlier sweeps that it begins with."""
    sampler = chosen.sampler or "tpe"
    if chosen.warm_start and sampler == "random":
        raise ConfigError("--warm-start: --sampler random learns from no trial; leave out either")
    now = folder.record(
        sweep,
        sampler=sampler,
        overrides={**chosen.overrides, **_paths(sweep, chosen.overrides)},
        smoke=chosen.smoke,
        commit=commit(),
    )
    earlier, lines = warm_start.gather(chosen.warm_start, sweep, now, taken)
    return {**now, "warm_start": earlier}, lines


def chosen_sweep(sweep: Sweep, chosen: Options) -> Sweep:
    """Give the sweep with the command line's changes, and with data."""
    base, trials, confirm, seeds = sweep.base, sweep.trials, sweep.confirm, sweep.seeds
    if chosen.smoke:
        confirm, seeds = min(confirm, 1), 1
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
        confirm=confirm if chosen.confirm is None else chosen.confirm,
        seeds=chosen.seeds or seeds,
        workers=chosen.workers or sweep.workers,
    )


def _paths(sweep: Sweep, overrides: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Give the data's folders, where they were given, as they are found from anywhere."""
    found = {"data.train": sweep.base.data.train, "data.eval": sweep.base.data.eval}
    return {key: path for key, path in found.items() if key in overrides}
