"""Plots of quality: error versus reject, histograms of the scalars, images from worst to best."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from facerec.data.writer import write_bytes
from facerec.evaluation import axes
from facerec.evaluation.quality import ORACLE, PERCENTS, RANDOM, UP_TO, RejectCurve

Floats = NDArray[np.float64]

COLUMNS, ROWS = 8, 6  # of the contact sheet

# Colours tell apart for the colour-blind, dashes in greyscale; dots are for few errors.
_LOOKS: tuple[tuple[str, Any], ...] = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", (0, (1.6, 0.8))),
)
_GREY, _BLACK = "#777777", "#000000"
_BINS = 40
_WIDE = 30.0  # a scalar whose upper 95 % span such a ratio is drawn on a logarithmic axis
_CELL, _LABEL, _GAP = 112, 20, 8  # pixels of an image of the sheet, its label, and between
_DPI = 100  # of the sheet


@dataclass(frozen=True)
class Cell:
    """One image of the contact sheet.

    Attributes:
        rank: From 1, the worst.
        value: Of the scalar.
        pixels: RGB (H, W, 3).
    """

    rank: int
    value: float
    pixels: NDArray[np.uint8]


def draw_reject_curves(
    name: str, curves: Sequence[RejectCurve], protocol: str, told: str, path: Path
) -> None:
    """Draw error versus reject, all scalars in one panel; PNG, 960 pixels wide.

    Args:
        name: The set's.
        curves: As `error_versus_reject` gives them.
        protocol: Stands below the title.
        told: Stands below that.
        path: The file, which is replaced.
    """
    with style.context(axes.STYLE, after_reset=True):
        figure, axis = axes.page(f"{name}: error versus reject", protocol, told)
        shown = [curve for curve in curves if not curve.reason]
        known = [curve.errors[~np.isnan(curve.errors)] for curve in shown]
        top = max((float(errors.max()) for errors in known if len(errors)), default=0.0)
        if not top:
            reasons = [curve.reason for curve in curves if curve.reason]
            axes.say(axis, (*reasons, "No genuine pair is refused: there is no error to lower.")[0])
        else:
            looks = iter(_LOOKS * (1 + len(shown) // len(_LOOKS)))
            for curve in shown:
                look: dict[str, Any] = {"label": curve.quality}
                if curve.quality in (RANDOM, ORACLE):
                    dash = "-" if curve.quality == RANDOM else (0, (1.5, 1.5, 6, 1.5))
                    look |= {"color": _GREY, "linestyle": dash, "linewidth": 1.3, "zorder": 1.5}
                    axis.plot(PERCENTS, curve.errors, drawstyle="steps-post", **look)
                    continue
                look["color"], look["linestyle"] = next(looks)
                x = PERCENTS.astype(np.float64)
                axes.line(axis, x, curve.errors, curve.misses, "false non-matches", **look)
            told = "verdict up to here"
            axis.axvline(UP_TO[0], color=_BLACK, linewidth=0.8, linestyle=":", zorder=1, label=told)
            axis.set(xlim=(0, PERCENTS[-1]), ylim=(0, 1.06 * top))
            axis.set_xlabel("images rejected, worst first (%)")
            axis.set_ylabel("false non-match\nrate (FNMR)")
        axes.legend(figure)
        _save(figure, path, 150)


def draw_histograms(name: str, scalars: Mapping[str, Floats], path: Path) -> None:
    """Draw the histogram of each scalar in a panel of its own; PNG, 960 pixels wide.

    Args:
        name: The set's.
        scalars: By name, (N,) each; what is not finite is left out, and counted.
        path: The file, which is replaced.
    """
    columns = min(len(scalars), 2)
    rows = math.ceil(len(scalars) / columns)
    with style.context(axes.STYLE, after_reset=True):
        engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
        figure = Figure(figsize=(6.4, 1.0 + (2.6 if columns > 1 else 3.4) * rows), layout=engine)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        count = len(next(iter(scalars.values())))
        title = textwrap.fill(f"{name}: quality of {count:,} images", 48)
        figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold")
        for panel in panels[len(scalars) :]:
            panel.set_axis_off()
        for axis, (scalar, values) in zip(panels, scalars.items(), strict=False):
            known = values[np.isfinite(values)]
            lacking = len(values) - len(known)
            told = f"{lacking:,} without a finite value" if lacking else ""
            axis.set_title(told, loc="left", fontsize=9.5, color="#333333")
            if not len(known):
                axes.say(axis, f"No image has a finite {scalar}.")
                continue
            low, median, high = np.quantile(known, (0.05, 0.5, 1))
            edges = np.linspace(known.min(), high, _BINS + 1)
            axis.set_xlabel(scalar)
            if known.min() > 0 and high > _WIDE * low:
                edges = np.geomspace(known.min(), high, _BINS + 1)
                axes.plain_log(axis, "x")
                axis.set_xlabel(f"{scalar}, logarithmic")
            if known.min() == high:
                edges = known.min() + np.array([-0.5, 0.5])
            axis.hist(known, edges, color=_LOOKS[0][0], alpha=0.8)
            axis.axvline(median, color=_BLACK, linewidth=1.3, linestyle="--")
            axis.margins(x=0.02)
            axis.set_ylim(0, 1.22 * axis.get_ylim()[1])
            left = edges[0] + (edges[-1] - edges[0]) / 2 > median
            if axis.get_xscale() == "log":
                left = math.sqrt(edges[0] * edges[-1]) > median
            axis.annotate(
                f"median {median:.4g}",
                (median, 0.97),
                xycoords=("data", "axes fraction"),
                xytext=(5 if left else -5, 0),
                textcoords="offset points",
                ha="left" if left else "right",
                va="top",
                fontsize=10.5,
            )
        for axis in panels[::columns]:
            axis.set_ylabel("images")
        _save(figure, path, 150)


def draw_contact_sheet(
    name: str, scalar: str, cells: Sequence[Cell], count: int, path: Path
) -> None:
    """Draw images from worst to best, row by row, each with its rank and value; PNG.

    Args:
        name: The set's.
        scalar: Name of the scalar that orders them.
        cells: 48 at most, in the order of their ranks.
        count: How many images have a rank.
        path: The file, which is replaced.
    """
    rows = max(math.ceil(len(cells) / COLUMNS), 1)
    head = 58
    width = COLUMNS * (_CELL + _GAP) + _GAP
    height = head + rows * (_CELL + _LABEL + _GAP)
    with style.context(axes.STYLE, after_reset=True):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axis.set_axis_off()
        title = textwrap.shorten(f"{name}: from the lowest {scalar} to the highest", 88)
        axis.text(_GAP, 8, title, fontsize=14, fontweight="bold", va="top")
        told = (
            f"{len(cells)} of {count:,} images, evenly spaced through their ranks: rank, {scalar}"
        )
        axis.text(_GAP, 34, told, fontsize=10.5, color="#333333", va="top")
        if not cells:
            axis.text(_GAP, head + 20, f"No image has a finite {scalar}.", fontsize=11, va="top")
        for number, cell in enumerate(cells):
            x = _GAP + (number % COLUMNS) * (_CELL + _GAP)
            y = head + (number // COLUMNS) * (_CELL + _LABEL + _GAP)
            place = (x, x + _CELL, y + _CELL, y)
            axis.imshow(cell.pixels, extent=place, aspect="auto", interpolation="antialiased")
            axis.text(x, y + _CELL + 3, f"{cell.rank:,}", fontsize=9.5, va="top", color="#555555")
            axis.text(
                x + _CELL,
                y + _CELL + 3,
                f"{cell.value:.4g}",
                fontsize=9.5,
                va="top",
                ha="right",
                fontweight="bold",
            )
        axis.set(xlim=(0, width), ylim=(height, 0))  # each image moved them
        _save(figure, path, _DPI)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")  # of a set's name, in no font here
        figure.savefig(content, format="png", dpi=dpi)
    write_bytes(path, content.getvalue())
