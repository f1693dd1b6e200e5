"""What a comparison of losses found, to look at: a plot of means and seeds, and a ranked table.

Drawn from the files of its folder alone: no cluster, no Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from facerec.data.writer import write_bytes
from facerec.tuning import compare

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of backend
from matplotlib.axes import Axes

PLOT, MARKDOWN = "comparison.png", "comparison.md"

_PANELS = 3  # metrics that are drawn
# setting -> (colour, marker, filled, offset in rows); filled or not tells apart without colour.
_LOOKS = {
    compare.BEST: ("#0072B2", "o", True, -0.16),
    compare.DEFAULTS: ("#B35900", "s", False, 0.16),
}


def write(folder: Path) -> None:
    """Draw the plot and write the table as Markdown, beside the tables that they come from."""
    seeds, table = _tables(folder)
    _draw(folder, seeds, table)
    head, *rows = _cells(seeds, table)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    text = "\n".join([*lines, "", *_notes(seeds, table)])
    write_bytes(folder / MARKDOWN, (text + "\n").encode())


def show(folder: Path, console: Console) -> None:
    """Print the ranking, what is distinguishable, and where the files are."""
    seeds, table = _tables(folder)
    head, *rows = _cells(seeds, table)
    title = f"{folder.name}, ranked by {compare.ranked_by(seeds)}"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in head:
        words = column in ("loss", "setting", "values")
        shown.add_column(column.replace(" (", "\n("), justify="left" if words else "right")
    for row in rows:
        shown.add_row(*row, style="bold" if row[0] == "1" else None)
    console.print(shown)
    for line in _notes(seeds, table):
        console.print(line)
    console.print(
        f"tables     {folder / 'comparison.parquet'}, {folder / 'seeds.parquet'} (and .csv)"
    )
    console.print(f"           {folder / MARKDOWN}")
    console.print(f"plot       {folder / PLOT}")


def _tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.read_parquet(folder / "seeds.parquet"), pd.read_parquet(folder / "comparison.parquet")


def _cells(seeds: pd.DataFrame, table: pd.DataFrame) -> list[list[str]]:
    """The table as text, its heading first."""
    metrics = compare.metrics(seeds)
    told = [f"{m} (search saw it)" if m == compare.SEEN else m for m in metrics]
    head = ["rank", "loss", "setting", "values", *told, "diverged", "seconds"]
    rows = [head]
    for _, row in table.iterrows():
        lost = f"{row['diverged']} of {row['trials']}" if row["trials"] else "no search"
        if row["seeds_diverged"]:
            lost += f", {row['seeds_diverged']} of {row['seeds'] + row['seeds_diverged']} seeds"
        rows.append(
            [
                "" if pd.isna(row["rank"]) else str(row["rank"]),
                *(row["loss"], row["setting"], row["values"]),
                *(_number(row, metric) for metric in metrics),
                *(lost, f"{row['seconds']:.0f}"),
            ]
        )
    return rows


def _number(row: Any, metric: str) -> str:
    if pd.isna(row[metric]):
        return ""
    spread = "" if pd.isna(row[f"{metric}.std"]) else f" ± {row[f'{metric}.std']:.4f}"
    return f"{row[metric]:.4f}{spread}"


def _notes(seeds: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    metric = compare.ranked_by(seeds)
    count = int(table["seeds"].max())
    return [
        f"Mean ± standard deviation over {count} seeds. Ranked by {metric}; the search of each "
        f"loss maximised {compare.SEEN} and saw nothing else.",
        compare.verdict(table, metric),
    ]


def _draw(folder: Path, seeds: pd.DataFrame, table: pd.DataFrame) -> None:
    losses = list(dict.fromkeys(table["loss"]))
    drawn = compare.metrics(seeds)[:_PANELS]
    figure, axes = plt.subplots(
        1,
        len(drawn),
        figsize=(2.6 + 4.2 * len(drawn), 1.7 + 0.42 * len(losses)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, metric in zip(axes[0], drawn, strict=True):
        for setting in _LOOKS:
            _dots(axis, seeds, table, losses, metric, setting)
        seen = "the search maximised it" if metric == compare.SEEN else "no search saw it"
        axis.set_xlabel(f"{metric}\n({seen})")
        axis.grid(True, axis="x", color="#E3E3E3", linewidth=0.8)
        for line in range(1, len(losses)):
            axis.axhline(line - 0.5, color="#EFEFEF", linewidth=0.8, zorder=0)
        axis.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(losses)), losses)
    axes[0, 0].set_ylim(len(losses) - 0.5, -0.5)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    path = folder / PLOT
    aside = path.with_name(f".{path.name}.part")
    figure.savefig(aside, dpi=130, format="png")
    plt.close(figure)
    aside.replace(path)


def _dots(
    axis: Axes,
    seeds: pd.DataFrame,
    table: pd.DataFrame,
    losses: Sequence[str],
    metric: str,
    setting: str,
) -> None:
    """A setting's mean over its seeds, large, and every single seed, small."""
    colour, marker, filled, offset = _LOOKS[setting]
    for rows, size, width, what in (
        (seeds[seeds["status"] == "completed"], 14, 0.9, "each seed"),
        (table, 72, 1.6, "mean"),
    ):
        own = rows[rows["setting"] == setting]
        places = np.array([losses.index(loss) for loss in own["loss"]], np.float64) + offset
        axis.scatter(
            own[metric].to_numpy(float),
            places,
            s=size,
            marker=marker,
            facecolors=colour if filled else "none",
            edgecolors=colour,
            linewidths=width,
            alpha=0.55 if what == "each seed" and filled else 1.0,
            label=f"{setting}: {what}",
            zorder=3,
        )
