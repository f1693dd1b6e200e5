"""Every loss with an equal budget: runs the sweeps of `facerec.tuning.compare`, one by one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from facerec.config import ConfigError, TrainConfig, override
from facerec.data.writer import write_json
from facerec.tree import in_section
from facerec.tuning import cluster, compare, compare_report, data, folder, options, report, results
from facerec.tuning.options import Options
from facerec.tuning.runner import chosen_sweep, door, run
from facerec.tuning.stages import Interrupted
from facerec.values import one_of

RECORD = "comparison.json"
SMOKE_LOSSES = 2  # so many are compared by --smoke: the first ones


@dataclass(frozen=True)
class Comparison:
    """Losses that are compared.

    Attributes:
        name: Name of the folder; each loss has two sweeps in it.
        configs: Loss -> the config that its trials change; they differ in the loss alone.
        trials: Settings that the search of each loss tries.
    """

    name: str
    configs: Mapping[str, TrainConfig]
    trials: int


def main(comparison: Comparison, argv: Sequence[str] | None = None) -> None:
    """Compare losses as the script's command line says.

    Raises:
        SystemExit: 2 for what the user can mend, 130 after an interruption.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        compare_losses(comparison, options.read(comparison.name, words, losses=True))

    door(words, work)


def compare_losses(comparison: Comparison, given: Options) -> pd.DataFrame:
    """Run what is left of a comparison, and write its table after each loss.

    A loss whose search and seeds are finished is not run again; one that cannot be run is left
    behind, and named at the end.

    Returns:
        The table over all losses that are in the folder, see `compare.summary`.

    Raises:
        ConfigError: For values, options or folders that the user can mend; before Ray starts
            wherever that can be known.
        DataError: For data that cannot be used.
        Interrupted: After Ctrl-C.
    """
    if given.resume:
        path = folder.begun(given.storage, comparison.name, RECORD)[0]
        before = folder.read(path, RECORD)
        given = replace(
            given,
            overrides={**before["overrides"], **given.overrides},
            trials=given.trials or before["trials"],
            sampler=given.sampler or before["sampler"],
            smoke=given.smoke or before["smoke"],
        )
    else:
        folder.check_storage(given.storage)
    if "seed" in given.overrides:
        seeds = ", ".join(map(str, compare.SEEDS))
        raise ConfigError(f"seed: a comparison trains with seeds {seeds} itself; leave it out")
    losses = _losses(comparison, given)
    trials = given.trials or (2 if given.smoke else comparison.trials)
    configs = {loss: override(comparison.configs[loss], given.overrides) for loss in losses}
    records = {loss: _begun(loss, configs[loss], trials, given) for loss in losses}
    path = path if given.resume else folder.create(given.storage, comparison.name)
    with folder.owned(path):
        compare.check_equal([*_kept(path).items(), *records.items()])
        first = next(iter(records.values()))
        moved = {key: first["base"][key] for key in ("data.train", "data.eval")}
        overrides = {**given.overrides, **{k: v for k, v in moved.items() if k in given.overrides}}
        record = {"version": folder.VERSION, "overrides": overrides, "trials": trials}
        write_json(path / RECORD, {**record, "sampler": first["sampler"], "smoke": given.smoke})
        shards = Path(moved["data.train"])
        given = replace(given, storage=path, trials=trials, overrides=overrides)
        table, failed = pd.DataFrame(), dict[str, ConfigError]()
        try:
            with cluster.lasting():
                for number, loss in enumerate(losses, 1):
                    report.console().print(f"\nloss {number} of {len(losses)}: {loss}")
                    try:
                        _one(loss, configs[loss], given)
                    except ConfigError as error:  # the other losses need not wait for it
                        failed[loss] = error
                        print(f"error: {loss}: {error}", file=sys.stderr)
                    else:
                        table = _write(path, shards)
        except KeyboardInterrupt:
            raise Interrupted from None
    if len(table):
        compare_report.show(path, report.console())
    if failed:
        raise ConfigError("; ".join(f"{loss}: {error}" for loss, error in failed.items()))
    return table


def _losses(comparison: Comparison, given: Options) -> list[str]:
    for loss in given.losses:
        in_section("", lambda: one_of("--losses", loss, tuple(comparison.configs)))  # noqa: B023
    every = list(comparison.configs)
    return list(given.losses) or (every[:SMOKE_LOSSES] if given.smoke else every)


def _begun(loss: str, config: TrainConfig, trials: int, given: Options) -> dict[str, Any]:
    """What the record of a loss's seeds will be, looked at before anything runs."""
    sweep = compare.repeats(loss, config, fixed=given.overrides)
    sweep = chosen_sweep(sweep, replace(given, trials=sweep.trials))
    data.check(sweep.base, sweep.metric)
    compare.search(loss, config, trials, fixed=given.overrides)
    sampler = given.sampler or options.SAMPLERS[0]
    return folder.record(sweep, sampler=sampler, overrides={}, smoke=given.smoke, commit="")


def _kept(path: Path) -> dict[str, dict[str, Any]]:
    """The records of the losses that are in the folder already."""
    found = sorted(path.glob(f"*_seeds/{folder.RECORD}"))
    return {p.parent.name.removesuffix("_seeds"): folder.read(p.parent) for p in found}


def _one(loss: str, config: TrainConfig, given: Options) -> None:
    """Search a loss's best setting, and train that and the defaults with several seeds."""
    best = None
    if sweep := compare.search(loss, config, given.trials or 1, fixed=given.overrides):
        _sweep(sweep, given)
        best = compare.best_setting(given.storage / loss)
    seeds = given.storage / f"{loss}_seeds"
    begun = folder.read(seeds)["points"] if (seeds / folder.RECORD).exists() else []
    repeats = compare.repeats(loss, config, best, begun, fixed=given.overrides)
    _sweep(repeats, replace(given, trials=repeats.trials))


def _sweep(sweep: Any, given: Options) -> None:
    """Run a sweep in the comparison's folder, or what is left of it."""
    path = given.storage / sweep.name
    begun = (path / folder.RECORD).exists()
    if begun and folder.finished(path) >= (given.trials or 1):
        return
    if not begun:
        folder.discard(path)  # a process was killed between making it and writing its record
    run(
        sweep,
        overrides=given.overrides,
        trials=given.trials,
        resume=begun,
        workers=given.workers,
        gpus_per_worker=given.gpus_per_worker,
        pack=given.pack,
        storage=given.storage,
        address=given.address,
        sampler=given.sampler,
        smoke=given.smoke,
    )


def _write(path: Path, shards: Path) -> pd.DataFrame:
    """Write the tables of all losses whose seeds are finished, and the plot."""
    losses = [
        loss
        for loss, begun in _kept(path).items()
        if folder.finished(path / f"{loss}_seeds") >= begun["trials"]
    ]
    seeds = pd.concat([compare.seeds_table(path, loss, shards) for loss in losses])
    searches = {
        loss: results.load(path / loss).trials
        for loss in losses
        if (path / loss / folder.RECORD).exists()
    }
    table = compare.summary(seeds, searches)
    results.write(path, "seeds", seeds)
    results.write(path, "comparison", table)
    compare_report.write(path)
    return table
