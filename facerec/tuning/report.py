"""What a sweep found, to look at: a plot of the metric against each searched key, and tables.

Drawn from the files of a sweep's folder alone: no cluster, no GPU, no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from facerec.tuning import axes, confirm_plot, results, told
from facerec.tuning import folder as folders

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of backend
from matplotlib.axes import Axes

PLOT = "trials.png"

# status -> (colour, marker, filled); colours tell apart for the colour-blind too.
_LOOKS = {
    "completed": ("#0072B2", "o", True),
    "stopped": ("#8A8A8A", "v", False),
    "diverged": ("#D55E00", "X", True),
    "failed": ("#000000", "x", True),
    "running": ("#009E73", "o", False),
}
_LABELS = {"stopped": "stopped early (score so far)", "running": "unfinished"}
_BEST, _DEFAULT = "#E69F00", "#CC79A7"
_NUMBERED = 40  # up to so many trials, the plot gives each its number
_SHOWN = 20  # rows of the printed ranking


def write(folder: Path) -> Path:
    """Draw the metric against each searched key into the sweep's folder; gives the PNG's path.

    Raises:
        ConfigError: Where the folder is not a sweep's.
    """
    begun, found = folders.read(folder), results.load(folder)
    trials, metric, space = found.trials, begun["metric"], begun["space"]
    columns = min(len(space), 3)
    lines = math.ceil(len(space) / columns)
    figure, panels = plt.subplots(
        lines,
        columns,
        figsize=(max(5.2 * columns, 6.4), 4.2 * lines + 0.7),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    rings = _rings(trials, begun, found.verdict)
    for axis, (key, domain) in zip(panels.flat, space.items(), strict=False):
        _panel(axis, trials, key, domain, metric, rings)
        axes.draw_good_region(axis, key, found.verdict)
        if key == "loss.scale":
            axes.draw_least_scale(axis, begun)
    for axis in panels.flat[len(space) :]:
        axis.set_visible(False)
    for axis in panels[:, 0]:
        axis.set_ylabel(metric)
    counts = trials["status"].value_counts()
    ended = ", ".join(f"{counts[s]} {s}" for s in results.STATUSES if s in counts)
    counted = f"{folder.name}: {len(trials)} trials ({ended})"
    figure.suptitle(
        f"{counted}\n{told.title(found.verdict, figure.get_figwidth())}".rstrip(), fontsize=11
    )
    handles = {
        label: handle
        for axis in panels.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, min(len(handles), 2 * columns + 1)),
        frameon=False,
        fontsize=9,
        markerscale=0.75,
    )
    path = folder / PLOT
    aside = path.with_name(f".{path.name}.part")
    figure.savefig(aside, dpi=130, format="png")
    plt.close(figure)
    aside.replace(path)
    return path


def default_trial(trials: pd.DataFrame, begun: Mapping[str, Any]) -> int | None:
    """Give the number of the trial of the paper's values (the first point), if there is one."""
    if not begun["points"]:
        return None
    point = begun["points"][0]
    for _, row in trials.iterrows():
        if all(
            row[key] == value or axes.option(row[key]) == str(value) for key, value in point.items()
        ):
            return int(row["trial"])
    return None


def _rings(
    trials: pd.DataFrame, begun: Mapping[str, Any], verdict: Mapping[str, Any]
) -> list[tuple[int | None, str, str, int, str]]:
    """What is marked besides: trial, marker, colour, size, name."""
    winner, name = best_trial(trials, verdict), "best"
    if verdict.get("winner"):
        name = "confirmed winner"
    default = default_trial(trials, begun)
    return [
        (default, "D", _DEFAULT, 150, "the paper's values"),
        (winner, "*", _BEST, 330, name),
    ]


def best_trial(trials: pd.DataFrame, verdict: Mapping[str, Any]) -> int | None:
    """Give the trial of the confirmed winner's setting; where nothing was confirmed, of rank 1."""
    for row in verdict.get("settings", ()):
        if row["setting"] == verdict["winner"]:
            return None if row["repeats"] is None else int(row["repeats"])
    best = trials.loc[trials["rank"] == 1, "trial"]
    return int(best.iloc[0]) if len(best) else None


def _panel(
    axis: Axes,
    trials: pd.DataFrame,
    key: str,
    domain: Mapping[str, Any],
    metric: str,
    rings: Sequence[tuple[int | None, str, str, int, str]],
) -> None:
    scores = trials[metric] if metric in trials else pd.Series(math.nan, index=trials.index)
    x = axes.positions(axis, trials, key, domain)
    known = scores[trials["status"] != "diverged"].dropna()
    floor = min(float(known.min()), 0.0) if len(known) else 0.0
    axis.grid(True, color="#E3E3E3", linewidth=0.8)
    axis.set_axisbelow(True)
    for status, (colour, marker, filled) in _LOOKS.items():
        chosen = (trials["status"] == status).to_numpy()
        y = scores.to_numpy(float)[chosen]
        if status == "diverged":
            y = np.full(chosen.sum(), floor)  # where the search puts them
        if chosen.any() and not np.isnan(y).all():
            label = _LABELS.get(status, status)
            axis.scatter(
                x[chosen],
                y,
                s=46,
                marker=marker,
                facecolors=colour if filled else "none",
                edgecolors=None if marker == "x" else colour,
                linewidths=1.3,
                alpha=0.9,
                label=label,
                zorder=3,
            )
    for number, marker, colour, size, name in rings:
        at = (trials["trial"] == number).to_numpy()
        if number is not None and at.any() and not np.isnan(scores.to_numpy(float)[at]).any():
            filled = marker == "*"
            axis.scatter(
                x[at],
                scores.to_numpy(float)[at],
                s=size,
                marker=marker,
                facecolors=colour if filled else "none",
                edgecolors="#333333" if filled else colour,
                linewidths=0.8 if filled else 2.2,
                label=name,
                zorder=4 if filled else 5,
            )
    if len(trials) <= _NUMBERED:
        for place, score, number in zip(x, scores, trials["trial"], strict=True):
            if not math.isnan(score):
                axis.annotate(
                    str(number),
                    (place, score),
                    xytext=(9, 5),
                    textcoords="offset points",
                    fontsize=7,
                    color="#555555",
                )
    axis.margins(y=0.1)
    axis.set_xlabel(key)


def console() -> Console:
    """Give a console for people; where it is a file, tables are as wide as they need to be."""
    wide = None if Console().is_terminal else 200
    return Console(highlight=False, markup=False, soft_wrap=True, width=wide)


def show(folder: Path, console: Console) -> None:
    """Print the search, what was confirmed, the verdict, and where the files are."""
    begun, found = folders.read(folder), results.load(folder)
    trials, metric, keys = found.trials, begun["metric"], list(begun["space"])
    best = best_trial(trials, found.verdict)
    scores = [metric, *(c for c in map(str, trials) if c.endswith(".accuracy") and c != metric)]
    scores = [column for column in scores if column in trials]
    by = ["rank", "epochs", *scores[:1]]
    order = trials.sort_values(by, ascending=[True, *[False] * (len(by) - 1)])
    title = f"{folder.name}: the search, ranked by {metric}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("rank", "trial", *keys, *scores, "epochs", "seconds", "status"):
        words = column in ("status", *(k for k in keys if begun["space"][k]["kind"] == "choice"))
        heading = column.replace(".", ".\n")  # narrow
        table.add_column(
            heading,
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=column == "status",
        )
    for _, row in order.head(_SHOWN).iterrows():
        why = row["reason"] if row["status"] == "diverged" else ""
        table.add_row(
            "" if pd.isna(row["rank"]) else str(row["rank"]),
            str(row["trial"]),
            *(_shown(row[key]) for key in keys),
            *(_shown(row[column], 4) for column in scores),
            _shown(row["epochs"]),
            _shown(row["seconds"], 0),
            f"{row['status']} ({why})" if why else row["status"],
            style="bold" if row["trial"] == best else None,
        )
    console.print(table)
    if len(trials) > _SHOWN:
        console.print(f"and {len(trials) - _SHOWN} more in trials.csv")
    if found.verdict.get("settings"):
        console.print(told.settings_table(found.verdict, keys))
    else:
        for line in _unconfirmed(trials, begun, scores):
            console.print(line)
    for line in told.lines(found.verdict):
        console.print(line)
    names = [name for name in ("trials", "history", "confirm") if _is_table(folder, name)]
    tables = ", ".join(str(folder / f"{name}.parquet") for name in names)
    console.print(f"\ntables     {tables} (and .csv)")
    console.print(f"plot       {folder / PLOT}")
    if (folder / confirm_plot.PLOT).exists():
        console.print(f"           {folder / confirm_plot.PLOT}")
    if (folder / "best").exists():
        console.print(f"best model {folder / 'best'}")


def _is_table(folder: Path, name: str) -> bool:
    return (folder / f"{name}.parquet").exists()


def _unconfirmed(
    trials: pd.DataFrame, begun: Mapping[str, Any], scores: Sequence[str]
) -> list[str]:
    best = trials[trials["rank"] == 1]
    if not len(best):
        return ["no trial reached its full budget with a score: there is no winner"]
    row, number = best.iloc[0], default_trial(trials, begun)
    lines = [_line("best", row, begun, scores)]
    if number is not None:
        lines.append(
            _line("paper", trials[trials["trial"] == number].iloc[0], begun, scores)
            if number != row["trial"]
            else "the best trial is the paper's own setting"
        )
    lines.append(
        "one training each, chosen by the same score: a small difference may well be noise"
    )
    return lines


def _line(name: str, row: Any, begun: Mapping[str, Any], scores: Sequence[str]) -> str:
    setting = "  ".join(f"{key}={_shown(row[key])}" for key in begun["space"])
    measured = "  ".join(f"{column} {_shown(row[column], 4)}" for column in scores)
    status = "" if row["status"] == "completed" else f"  ({row['status']})"
    return f"{name:<10} {setting}  ->  {measured}{status}"


def _shown(value: Any, digits: int | None = None) -> str:
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.{digits}f}" if digits is not None else f"{value:.4g}"
