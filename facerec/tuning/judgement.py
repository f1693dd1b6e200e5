"""What a sweep comes to: `verdict.json`, the whole `confirm` table, and `best`.

`facerec.tuning.verdict` judges the settings by the confirmed models' scores. Importance of the keys
and the good region are of the search's trials.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facerec.data import leaks
from facerec.data.writer import write_json
from facerec.tuning import results
from facerec.tuning.confirm import DEFAULTS, ConfirmTables, Rerun, place
from facerec.tuning.good_region import good_region
from facerec.tuning.importance import importance
from facerec.tuning.measured import UNSEEN, Measured, measure
from facerec.tuning.search import JournalSearcher
from facerec.tuning.sweep import Sweep
from facerec.tuning.verdict import Arm, Verdict, judge
from facerec.tuning.watch import replace_best


def conclude(
    sweep: Sweep,
    folder: Path,
    searcher: JournalSearcher,
    runs: Sequence[Rerun],
    tables: ConfirmTables | None,
    *,
    gpus: bool,
    repeats: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Judge what was confirmed, and write `verdict.json`, `confirm.parquet` and `best`.

    Args:
        sweep: What was searched.
        folder: Its folder.
        searcher: Of the search; all of its trials are over.
        runs: The confirmation's plan.
        tables: Of the confirmation; None where there is none, or where it is left out now: then
            an earlier verdict stays.
        gpus: Whether accelerators may be used.
        repeats: Settings that earlier sweeps confirmed, as `warm_start.gather` gives them.

    Returns:
        What `verdict.json` holds; `docs/sweeps.md` says what is in it.
    """
    before = results.verdict(folder) if tables is None else {}
    found: dict[str, Any] = {"settings": [], "winner": "", "best": "", "sentence": ""} | before
    if sweep.confirm and not runs:
        found["sentence"] = "nothing was confirmed: no other setting reached its full budget"
    error = math.nan
    if tables is not None:
        table = tables.write()
        measured = measure(sweep, folder, table, gpus=gpus)
        tables.measured(measured.scores)
        arms = _arms(table, runs, measured)
        found |= _judged(arms, measured, table, _earlier(repeats, measured.metric))
        table = tables.write({row["setting"]: row["rank"] for row in found["settings"]})
        error = seeds_error(table, sweep.metric)
        if found["winner"]:
            found["best"] = typical(table, found["winner"], sweep.metric)
            replace_best(folder, folder / found["best"])
    rows = searcher.rows()
    found |= {"trials": sweep.trials, "confirm": sweep.confirm, "seeds": sweep.seeds}
    found |= _of_search(sweep, rows, error)
    found["leaks"] = _leaks(sweep)
    found["ended"] = {"search": _ended(rows), "confirm": _ended(tables.rows() if tables else [])}
    write_json(folder / results.VERDICT, _plain(found))
    return found


def _arms(table: pd.DataFrame, runs: Sequence[Rerun], measured: Measured) -> dict[str, Arm]:
    """The settings with the scores that judge them; a training without one is left out."""
    arms = {}
    for name in sorted(dict.fromkeys(run.setting for run in runs), key=place):
        own = table[(table["setting"] == name) & (table["status"] == "completed")]
        scores = [measured.scores.get(n, {}).get(measured.metric, math.nan) for n in own["trial"]]
        own = own.assign(score=scores).dropna(subset="score").sort_values("seed")
        arms[name] = Arm(
            name=name,
            setting=next(run.values for run in runs if run.setting == name),
            seeds=tuple(int(seed) for seed in own["seed"]),
            scores=own["score"].to_numpy(float),
            seconds=own["seconds"].to_numpy(float),
        )
    return arms


def _earlier(repeats: Sequence[Mapping[str, Any]], metric: str) -> list[Arm]:
    """Settings of earlier sweeps that the same metric judged."""
    return [
        Arm(
            name="",
            setting=row["setting"],
            seeds=tuple(row["seeds"]),
            scores=np.array(row["metrics"][metric]),
            seconds=np.full(len(row["seeds"]), math.nan),  # it is not judged
        )
        for row in repeats
        if metric in row["metrics"]
    ]


def _judged(
    arms: Mapping[str, Arm], measured: Measured, table: pd.DataFrame, earlier: Sequence[Arm]
) -> dict[str, Any]:
    """The settings' part of `verdict.json`."""
    defaults = arms.get(DEFAULTS)
    candidates = [arm for name, arm in arms.items() if name != DEFAULTS]
    told: dict[str, Verdict] = {}
    if defaults is not None and len(defaults.seeds):
        with_scores = [arm for arm in candidates if len(arm.seeds)]
        judged = judge(
            defaults,
            with_scores,
            measured.identities,
            metric=measured.metric,
            earlier=earlier,
        )
        told = {verdict.name: verdict for verdict in judged}
    ends = {name: Counter(table.loc[table["setting"] == name, "status"]) for name in arms}
    mean = {name: float(np.mean(arm.scores)) for name, arm in arms.items() if len(arm.seeds)}
    # A setting that may break down is no winner by its other seeds: it comes last.
    order = sorted(mean, key=lambda name: (ends[name]["diverged"] > 0, -mean[name], place(name)))
    settings = []
    for name, arm in arms.items():
        own = table[table["setting"] == name]
        row: dict[str, Any] = {
            "setting": name,
            "repeats": None if pd.isna(own["repeats"].iloc[0]) else int(own["repeats"].iloc[0]),
            "values": dict(arm.setting),
            "rank": order.index(name) + 1 if name in order else None,
            "mean": mean.get(name),
            "seeds": list(arm.seeds),
            "diverged": ends[name]["diverged"],
            "failed": ends[name]["failed"],
            "seconds": float(np.mean(arm.seconds)) if len(arm.seeds) else None,
        }
        settings.append(row | (_as_row(told[name]) if name in told else {}))
    winner = order[0] if order else ""
    return {
        "metric": measured.metric,
        "split": measured.split,
        "people": measured.people,
        "settings": settings,
        "winner": winner,
        "sentence": _sentence(winner, told, measured),
    }


def _as_row(judged: Verdict) -> dict[str, Any]:
    row = asdict(judged)
    return {key: row[key] for key in row if key not in ("name", "seeds", "seconds")}


def _sentence(winner: str, told: Mapping[str, Verdict], measured: Measured) -> str:
    """The verdict in one sentence: of the winner, or of the best candidate beside the defaults."""
    if not winner:
        return "no confirmed training has a score: there is no verdict"
    if not told:
        return f"setting {winner} comes first; without the paper's values there is no verdict"
    first = told.get(winner) or max(told.values(), key=lambda verdict: verdict.effect)
    if measured.split == UNSEEN:
        return str(first.sentence)
    seen = measured.split or measured.metric
    return (
        f"{first.sentence}; judged on {seen}, which the search saw, since the shards have no "
        "confirm split of enough people"
    )


def typical(table: pd.DataFrame, setting: str, metric: str) -> str:
    """Give the run of a setting's median seed, by the search's metric; of two, the lower one.

    The best seed's model would promise more than the setting holds; and the figure that judges
    chooses nothing.

    Args:
        table: Of the confirmation.
        setting: `defaults`, `1`, ...
        metric: What the search maximised.
    """
    own = table[(table["setting"] == setting) & table[metric].notna()]
    own = own[own["status"] == "completed"].sort_values([metric, "seed"])
    return str(own["run"].iloc[(len(own) - 1) // 2])


def seeds_error(table: pd.DataFrame, metric: str) -> float:
    """Give the standard deviation of one training's score under its seed, pooled over settings.

    Args:
        table: Of the confirmation.
        metric: The score, a column.

    Returns:
        NaN where no setting has two complete trainings.
    """
    squares, freedom = 0.0, 0
    for _, own in table[table["status"] == "completed"].groupby("setting"):
        scores = own[metric].dropna().to_numpy(float)
        if len(scores) > 1:
            squares += float(np.square(scores - scores.mean()).sum())
            freedom += len(scores) - 1
    return math.sqrt(squares / freedom) if freedom else math.nan


def _of_search(
    sweep: Sweep, rows: Sequence[Mapping[str, Any]], error: float
) -> dict[str, list[dict[str, Any]]]:
    """Importance of the keys and the good region, from the search's trials."""
    scored = [
        {**row["setting"], "status": row["status"], "value": row["metrics"].get(sweep.metric)}
        for row in rows
    ]
    table = pd.DataFrame(scored, columns=[*sweep.space, "status", "value"])
    table["value"] = table["value"].astype(float)
    table.loc[table["status"] == "diverged", "value"] = math.nan  # it counts as the worst
    known = table["status"].isin(("completed", "stopped")) & table["value"].notna()
    keys, full = list(sweep.space), table[known & (table["status"] == "completed")]
    table = table[known | (table["status"] == "diverged")]
    parts = {
        "importance": importance(
            table[keys], table["value"].to_numpy(), sweep.space, sweep.base.seed
        ),
        "good_region": good_region(full[keys], full["value"].to_numpy(), sweep.space, error),
    }
    found: dict[str, list[Any]] = {name: part.to_dict("records") for name, part in parts.items()}
    return found


def _leaks(sweep: Sweep) -> list[dict[str, Any]]:
    """What each evaluation set shares with the training images, as far as it was looked for."""
    data = sweep.base.data
    looked = [(path.name, path, "") for path in data.eval_sets]
    looked += [(name, Path(data.train), name) for name in ("val", "confirm")]
    rows = []
    for name, path, split in looked:
        known = leaks.read(data.train, path, split)
        if known is not None or not split:
            rows.append(
                {
                    "set": name,
                    "checked": known is not None,
                    "found": known is not None and known.found,
                    "sentence": leaks.told(data.train, path, split),
                }
            )
    return rows


def _ended(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How trials ended, how many accidents they met, and seconds of training."""
    return {
        "trials": len(rows),
        "status": dict(Counter(row["status"] for row in rows)),
        "reasons": dict(Counter(row["reason"] for row in rows if row["status"] == "diverged")),
        "accidents": sum(row.get("accidents", 0) for row in rows),
        "seconds": sum(row["metrics"].get("seconds") or 0.0 for row in rows),
    }


def _plain(found: Any) -> Any:
    """Give a value as JSON can hold it: no NaN, no NumPy."""
    if isinstance(found, Mapping):
        return {str(key): _plain(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_plain(value) for value in found]
    if isinstance(found, np.generic):
        found = found.item()
    return None if isinstance(found, float) and not math.isfinite(found) else found
