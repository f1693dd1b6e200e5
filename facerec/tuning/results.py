"""A sweep's tables: a row per trial, a row per trial and epoch; on disk as Parquet and CSV.

They are written as trials finish and replaced whole, so that `load` works at any time, in another
process, without Ray and Optuna.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from facerec.config import ConfigError
from facerec.data.writer import write_bytes
from facerec.planning.meter import POSSIBLE, PREFIX

RUNS, CONFIRM_RUNS = "checkpoints", "checkpoints/confirm"
VERDICT = "verdict.json"
STATUSES = ("completed", "stopped", "diverged", "failed", "running")
# Columns of a history that are no evaluation.
_COUNTERS = ("epoch", "step", "images", "loss", "seconds", "images_per_second", POSSIBLE)


@dataclass(frozen=True)
class Results:
    """What a sweep has found so far.

    Attributes:
        trials: A row per trial: `trial` (number), `status` (completed, stopped, diverged, failed
            or running), `reason`, `error`, `rank` (1 is the winner; empty below full budget),
            `run` (the trial's run folder, relative to the sweep's), the searched keys, `seed`,
            the metrics of the last epoch (fractions), `epochs`, `seconds`, `images_per_second`,
            `commit`, `accidents` (how often it was lost and began again).
        history: A row per trial and epoch: `trial`, `epoch`, `step`, `images`, `loss`,
            `loss.<term>`, `train.accuracy`, metrics.
        confirm: A row per training of the confirmation: as `trials`, and `setting` and `repeats`
            (`facerec.tuning.confirm`); empty where there was none.
        verdict: What came of it, see `facerec.tuning.judgement`; empty before it is given.
    """

    trials: pd.DataFrame
    history: pd.DataFrame
    confirm: pd.DataFrame = field(default_factory=pd.DataFrame)
    verdict: dict[str, Any] = field(default_factory=dict)


def load(folder: str | os.PathLike[str]) -> Results:
    """Read a sweep's tables.

    Raises:
        ConfigError: Where the folder holds no tables.
    """
    path = Path(folder)
    try:
        trials, history = (_table(path / f"{name}.parquet") for name in ("trials", "history"))
        return Results(trials, history, confirm=load_confirm(path), verdict=verdict(path))
    except (OSError, ValueError) as error:
        inside = sorted(found.parent for found in path.glob("*/trials.parquet"))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        line = str(error).partition("\n")[0]
        begun = any(path.glob("*.journal"))
        what = "its tables cannot be read" if begun else "not a sweep's folder"
        raise ConfigError(f"{path}: {what} ({line}){hint}") from None


def _table(path: Path) -> pd.DataFrame:
    """Read a table of one file (Pandas would take an empty folder for an empty one)."""
    with path.open("rb") as file:
        return pd.read_parquet(file)


def load_confirm(folder: Path) -> pd.DataFrame:
    """Read the table of a sweep's confirmation; empty where there was none."""
    path = folder / "confirm.parquet"
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()


def verdict(folder: Path) -> dict[str, Any]:
    """Read a sweep's `verdict.json`; empty where there is none.

    Raises:
        ConfigError: Where it is damaged.
    """
    try:
        return dict(json.loads((folder / VERDICT).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / VERDICT}: cannot be read ({error}); remove it, and give --resume to have "
            "the verdict again"
        ) from None


def run_folder(number: int, runs: str = RUNS) -> str:
    """Give a trial's run folder, relative to the sweep's.

    Args:
        number: Of the trial.
        runs: Where such trials lie: `RUNS`, or `CONFIRM_RUNS` for those of the confirmation.
    """
    return f"{runs}/{number}"


def trials_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    metric: str,
    keys: Sequence[str],
    seed: int,
    runs: str = RUNS,
) -> pd.DataFrame:
    """Make the table of trials.

    Args:
        rows: Per trial: number, status, reason, error, setting, metrics (of the last epoch, with
            epoch, seconds and images_per_second among them), commit, accidents.
        metric: What the rank follows, downwards.
        keys: The searched keys.
        seed: The seed of trials that do not search it.
        runs: As in `run_folder`.
    """
    names = dict.fromkeys(
        name
        for row in rows
        for name in row["metrics"]
        if name not in _COUNTERS and not name.startswith(("loss.", "train.", PREFIX))
    )
    table: dict[str, Any] = {
        "trial": pd.array([row["number"] for row in rows], dtype="int64"),
        **{name: _text([row[name] for row in rows]) for name in ("status", "reason", "error")},
        "rank": _ranks(rows, metric),
        "run": _text([run_folder(row["number"], runs) for row in rows]),
        **{key: _column([row["setting"].get(key) for row in rows]) for key in keys},
    }
    if "seed" not in keys:
        table["seed"] = pd.array([seed] * len(rows), dtype="int64")
    for name in [*names, "epoch", "seconds", "images_per_second"]:
        values = [row["metrics"].get(name) for row in rows]
        table["epochs" if name == "epoch" else name] = pd.array(
            [math.nan if value is None else value for value in values], dtype="float64"
        )
    table["commit"] = _text([row["commit"] for row in rows])
    table["accidents"] = pd.array([row.get("accidents", 0) for row in rows], dtype="int64")
    return pd.DataFrame(table)


def history_table(histories: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Put the trials' histories under one another, with the column `trial` first."""
    parts = []
    for number in sorted(histories):
        part = histories[number].copy()
        part.insert(0, "trial", number)
        parts.append(part)
    if not parts:
        return pd.DataFrame({"trial": pd.array([], "int64"), "epoch": pd.array([], "float64")})
    return pd.concat(parts, ignore_index=True)


def write(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Replace `name.parquet` and `name.csv`, each aside, made durable, and renamed."""
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    write_bytes(folder / f"{name}.parquet", parquet.getvalue())
    write_bytes(folder / f"{name}.csv", table.to_csv(index=False).encode())


def _ranks(rows: Sequence[Mapping[str, Any]], metric: str) -> Any:
    """Rank what reached its full budget, by the metric; ties go to the earlier trial."""
    scores = {
        row["number"]: row["metrics"][metric]
        for row in rows
        if row["status"] == "completed" and row["metrics"].get(metric) is not None
    }
    order = sorted(scores, key=lambda number: (-scores[number], number))
    ranks = {number: place for place, number in enumerate(order, 1)}
    return pd.array([ranks.get(row["number"]) for row in rows], dtype="Int64")


def _text(values: Sequence[str]) -> Any:
    return pd.array(list(values), dtype="str")


def _column(values: Sequence[Any]) -> Any:
    """Give searched values a column type; mixed ones (`none` or a number) become text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.array(list(values), dtype="boolean")
    if kinds == {int}:
        return pd.array(list(values), dtype="Int64")
    if kinds <= {int, float}:
        return pd.array([math.nan if v is None else float(v) for v in values], dtype="float64")
    return pd.array([None if v is None else str(v) for v in values], dtype="str")
