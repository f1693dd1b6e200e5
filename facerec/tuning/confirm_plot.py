"""The confirmation, to look at: every training's score, and each setting's difference.

Drawn from `confirm.parquet` and `verdict.json` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from facerec.tuning import results, told

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of backend
from matplotlib.axes import Axes

PLOT = "confirm.png"

# verdict -> colour, marker; told apart without colours too
_LOOKS = {
    "better": ("#0072B2", "^"),
    "worse": ("#D55E00", "v"),
    "not distinguishable": ("#555555", "o"),
}
_DEFAULT, _SEED = "#CC79A7", "#8A8A8A"


def write(folder: Path) -> Path | None:
    """Draw the confirmation into the sweep's folder; gives the PNG's path, None without scores."""
    found, table = results.verdict(folder), results.load_confirm(folder)
    ranked = [row for row in found.get("settings", ()) if row["rank"]]
    if not ranked:
        return None
    rows = sorted(ranked, key=lambda row: -row["rank"])  # upwards: the winner on top
    figure, (scores, effects) = plt.subplots(
        1, 2, figsize=(11, 1.9 + 0.62 * len(rows)), sharey=True, layout="constrained"
    )
    _scores(scores, rows, table, found["metric"])
    _effects(effects, rows)
    scores.set_yticks(range(len(rows)), [_name(row) for row in rows])
    scores.set_ylim(-0.6, len(rows) - 0.4)
    figure.suptitle(told.title(found, figure.get_figwidth()), fontsize=11)
    path = folder / PLOT
    aside = path.with_name(f".{PLOT}")
    figure.savefig(aside, dpi=130, format="png")
    plt.close(figure)
    aside.replace(path)
    return path


def _name(row: Mapping[str, Any]) -> str:
    values = [f"{key.rpartition('.')[2]} {told.value(v)}" for key, v in row["values"].items()]
    lines = [", ".join(values[i : i + 3]) for i in range(0, len(values), 3)]
    first = "the paper's values" if row["setting"] == told.DEFAULTS else f"setting {row['setting']}"
    return "\n".join([first, *lines])


def _scores(
    axis: Axes, rows: Sequence[Mapping[str, Any]], table: pd.DataFrame, metric: str
) -> None:
    places = {row["setting"]: place for place, row in enumerate(rows)}
    known = table[table["setting"].isin(places) & (table["status"] == "completed")]
    for seed, own in known.dropna(subset=metric).groupby("seed"):
        own = own.assign(place=own["setting"].map(places)).sort_values("place")
        axis.plot(own[metric], own["place"], color=_SEED, linewidth=0.8, zorder=1)
        axis.scatter(own[metric], own["place"], s=26, color=_SEED, zorder=2)
        top = own.iloc[-1]
        axis.annotate(
            f"{seed}",
            (top[metric], top["place"]),
            textcoords="offset points",
            xytext=(0, 17),  # above the mean's bar
            ha="center",
            fontsize=7,
            color=_SEED,
        )
    for place, row in enumerate(rows):
        colour = _DEFAULT if row["setting"] == told.DEFAULTS else "black"
        axis.plot([row["mean"]] * 2, [place - 0.18, place + 0.18], color=colour, linewidth=2.5)
    axis.set_xlabel(f"{metric}: each seed (its number on top), and the mean")
    axis.grid(axis="x", alpha=0.3)


def _effects(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    axis.axvline(0, color=_DEFAULT, linewidth=1.5)
    for place, row in enumerate(rows):
        if row.get("effect") is None:
            if row["setting"] == told.DEFAULTS:
                axis.scatter([0], [place], marker="D", s=60, color=_DEFAULT, zorder=3)
            continue
        colour, marker = _LOOKS[row["verdict"]]
        if row["low"] is not None and row["high"] is not None:
            axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        axis.scatter([row["effect"]], [place], marker=marker, s=60, color=colour, zorder=3)
        axis.annotate(
            row["verdict"],
            (row["effect"], place),
            textcoords="offset points",
            xytext=(0, 9),
            ha="center",
            fontsize=8,
            color=colour,
        )
    axis.set_xlabel("difference from the paper's values, with its 95 % interval")
    axis.grid(axis="x", alpha=0.3)
