"""Earlier sweeps that a search begins with: which of their trials it may learn from.

A score counts only where it would be the same here: the same images, the same metric, the same
config but for what is searched (and the seed, which is noise), a setting within the space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from facerec.config import ConfigError, DataConfig, flatten
from facerec.domains import Scalar
from facerec.tuning import folder as folders
from facerec.tuning import results
from facerec.tuning.sweep import Sweep

# What a score does not depend on; data is compared by its hashes.
_FREE = ("seed", "checkpoint.every", "compile", "deterministic", *folders.PLACES)
# What older sweeps do not name was as it is by default.
_UNNAMED = {f"data.{key}": value for key, value in flatten(DataConfig()).items()}
_USED = ("completed", "stopped", "diverged")


def gather(
    wanted: Iterable[Path],
    sweep: Sweep,
    record: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Collect the trials of earlier sweeps.

    Args:
        wanted: Folders of sweeps.
        sweep: The one that begins.
        record: Its `sweep.json`.
        before: What it has taken already, when it is resumed; those folders are not read again.

    Returns:
        What is kept in `sweep.json`: `folders`; `trials`, each with `setting`, `status`, `value`
        and `epochs` (pairs of epoch and metric); `repeats`, settings that were confirmed there,
        each with `setting`, `seeds` and `metrics` by column, a value per seed. And a line per
        folder for the reader: how many were taken, how many left out, and why.

    Raises:
        ConfigError: For a folder that is no sweep's.
    """
    known = list((before or {}).get("folders", []))
    trials = list((before or {}).get("trials", []))
    repeats = list((before or {}).get("repeats", []))
    lines = [f"{name}: taken when the sweep began" for name in known]
    for path in wanted:
        name = str(path.absolute())
        if name in known:
            continue
        earlier, found = folders.read(path), results.load(path)
        if why := _other(earlier, record, sweep):
            left_out = [why] * len(found.trials)
            taken, again = list[dict[str, Any]](), list[dict[str, Any]]()
        else:
            taken, left_out = _tried(earlier, found, sweep)
            again = _repeated(earlier, found.confirm, sweep)
        reasons = "; ".join(f"{count}: {why}" for why, count in Counter(left_out).items())
        told = f"{len(taken)} trial{'' if len(taken) == 1 else 's'} taken"
        told += f", {len(left_out)} left out" + (reasons and f" ({reasons})")
        if again:
            which = (
                "1 confirmed setting tells"
                if len(again) == 1
                else f"{len(again)} confirmed settings tell"
            )
            told += f"; {which} how far seeds differ"
        lines.append(f"{path}: {told}")
        known.append(name)
        trials += taken
        repeats += again
    return {"folders": known, "trials": trials, "repeats": repeats}, lines


def _tried(
    earlier: Mapping[str, Any], found: results.Results, sweep: Sweep
) -> tuple[list[dict[str, Any]], list[str]]:
    """Trials of a sweep that count here, and why each of the others does not."""
    taken, left_out = list[dict[str, Any]](), list[str]()
    curves = found.history.groupby("trial") if sweep.metric in found.history else None
    rows: list[dict[Any, Any]] = found.trials.to_dict("records")
    for row in rows:
        config = {**earlier["base"], **_setting(row, earlier["space"])}
        if why := _unfit(row, config, sweep):
            left_out.append(why)
            continue
        epochs: list[list[float]] = []
        if curves is not None and row["trial"] in curves.groups:
            curve = curves.get_group(row["trial"])[["epoch", sweep.metric]].dropna()
            epochs = curve.to_numpy(float).tolist()
        value = None if row["status"] == "diverged" else float(row[sweep.metric])
        setting = {key: config[key] for key in sweep.space}
        taken.append(
            {"setting": setting, "status": row["status"], "value": value, "epochs": epochs}
        )
    return taken, left_out


def _repeated(
    earlier: Mapping[str, Any], confirm: pd.DataFrame, sweep: Sweep
) -> list[dict[str, Any]]:
    """Settings of a sweep's confirmation that were trained with several seeds, as here."""
    if not len(confirm):
        return []
    taken = []
    for _, own in confirm[confirm["status"] == "completed"].sort_values("seed").groupby("setting"):
        rows: list[dict[Any, Any]] = own.to_dict("records")
        setting = _setting(rows[0], {k: d for k, d in earlier["space"].items() if k in rows[0]})
        if len(rows) < 2 or _unfit(rows[0], {**earlier["base"], **setting}, sweep):
            continue
        scores = own.dropna(axis="columns").filter(regex=r"^(confirm|val)\.")
        taken.append(
            {
                "setting": {key: setting.get(key, earlier["base"].get(key)) for key in sweep.space},
                "seeds": [int(row["seed"]) for row in rows],
                "metrics": {str(name): list(map(float, scores[name])) for name in scores},
            }
        )
    return taken


def _other(earlier: Mapping[str, Any], record: Mapping[str, Any], sweep: Sweep) -> str:
    """Why no trial of an earlier sweep counts; empty where some may."""
    if earlier["data"]["train"] != record["data"]["train"]:
        return "trained on other images"
    if earlier["metric"] != record["metric"]:
        return f"maximised {earlier['metric']}, not {record['metric']}"
    name = sweep.metric.rpartition(".")[0]
    sets = [found["data"]["eval"].get(name) for found in (earlier, record)]
    if sets[0] != sets[1]:
        return f"{name} held other images"
    return ""


def _unfit(row: Mapping[str, Any], config: Mapping[str, Scalar], sweep: Sweep) -> str:
    """Why a trial does not count; empty where it does."""
    if row["status"] not in _USED:
        return str(row["status"])
    if row["status"] != "diverged" and pd.isna(row.get(sweep.metric)):
        return "without a score"
    own, config = flatten(sweep.base), _UNNAMED | dict(config)
    # The loss by name first: its other keys differ because of it.
    for key in sorted(own.keys() | config.keys(), key=lambda key: (key != "loss.name", key)):
        if key not in sweep.space and key not in _FREE and own.get(key) != config.get(key):
            return f"{key} = {config.get(key)}, here {own.get(key)}"
    for key, domain in sweep.space.items():
        if key not in config or not domain.contains(config[key]):
            return f"{key} = {config.get(key)} is not in {domain}"
    try:
        sweep.config({key: config[key] for key in sweep.space})
    except ConfigError as error:
        return str(error)
    return ""


def _setting(row: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Scalar]:
    """A trial's setting from its row; what was mixed stands there as text."""
    return {key: _value(row[key], domain) for key, domain in space.items()}


def _value(cell: Any, domain: Mapping[str, Any]) -> Scalar:
    if domain["kind"] == "choice":
        options: Sequence[Scalar] = domain["options"]
        text = "None" if pd.isna(cell) else str(cell)
        # A column of numbers has 1.0 where the option is 1.
        return next(o for o in options if str(o) == text or (o is not None and o == cell))
    return int(cell) if domain["kind"] == "int" else float(cell)
