"""Panels of the evaluation's plots: titles, scales, curves that say where they are unreliable."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

STYLE: dict[str, Any] = {
    "font.size": 11.5,
    "axes.labelsize": 12,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.2,
    "lines.markersize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "text.parse_math": False,  # a set's name may hold dollar signs
}
_PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}  # behind words
_HEIGHT = 4.8  # inches
_FEW = 10  # a rate from fewer errors is unreliable
_STEPS = 200  # a curve of fewer points is drawn as the steps that it is
_FEWER = f"fewer than {_FEW} "
_SINGLE = 30  # a curve of fewer points shows each
_FLOORS = (
    0.99,
    0.98,
    0.95,
    0.9,
    0.8,
    0.7,
    0.6,
    0.5,
    0.4,
    0.2,
    0.0,
)  # where an axis of shares may begin
# Ticks of a normal-deviate axis: the first ones that find room are taken.
_DEVIATES = (
    *(0.01, 0.1, 0.5, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 0.9, 0.99, 0.3, 0.05, 0.2, 0.02, 0.4, 0.7),
    *(1e-8, 1e-9, 0.03, 0.15, 0.6, 0.8, 0.95, 0.07, 0.25, 0.35),
)


def page(title: str, protocol: str, told: str) -> tuple[Figure, Axes]:
    """A figure of one panel.

    Args:
        title: What it shows.
        protocol: Stands below the title, small; may be long.
        told: Stands below that.
    """
    figure = Figure(figsize=(6.4, _HEIGHT), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06))
    axis = figure.subplots()
    head = textwrap.fill(title, 48)
    figure.suptitle(head, x=0.02, ha="left", fontsize=14, fontweight="bold")
    # A switch and its value stay on one line.
    switches = ", ".join(part.replace(" ", "\u00a0") for part in protocol.split(", "))
    below = "\n".join(textwrap.fill(text, 76) for text in (switches, told) if text)
    axis.set_title(below, loc="left", fontsize=9.5, color="#333333")
    return figure, axis


def say(axis: Axes, sentence: str) -> None:
    """A sentence in the place of what cannot be drawn."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.text(
        0.5, 0.5, textwrap.fill(sentence, 46), transform=axis.transAxes, ha="center", va="center"
    )


def line(axis: Axes, x: Floats, y: Floats, errors: Floats | None, what: str, **look: Any) -> None:
    """A curve, dotted where it rests on few errors.

    Args:
        axis: Where.
        x: (K,), rising, as it is on a linear axis.
        y: (K,).
        errors: (K,), how many each point rests on; None where they are not known.
        what: What these errors are, for the legend.
        look: Of the reliable part; its label stands for both parts.
    """
    look |= {"drawstyle": "steps-post"} if len(x) < _STEPS else {}
    look |= {"marker": ".", "markersize": 6} if len(x) < _SINGLE else {}
    few = np.zeros(len(x), np.bool_) if errors is None else errors < _FEW - 0.5
    # A piece between two points is dotted where either rests on few errors.
    joined = few | np.append(few[1:], False) | np.append(False, few[:-1])[: len(few)]
    axis.plot(x, np.where(few, math.nan, y), **look)
    if few.any():
        dotted = look | {"linestyle": ":", "alpha": 0.6, "label": None}
        axis.plot(x, np.where(joined, y, math.nan), **dotted)
        label = f"{_FEWER}{what}: unreliable"
        if label not in axis.get_legend_handles_labels()[1]:
            axis.plot([], [], color="#666666", linestyle=":", alpha=0.6, label=label)


def dots(axis: Axes, marks: Mapping[float, float], label: str) -> None:
    """Points with their values, which stand where a rising curve leaves room."""
    if not marks:
        return
    left, right = axis.get_xlim()
    low, high = axis.get_ylim()
    places = {max(x, left): y for x, y in marks.items()}
    axis.plot(
        list(places),
        list(places.values()),
        "o",
        color="black",
        label=label,
        zorder=4,
        clip_on=False,
    )
    for x, y in sorted(places.items()):
        under = (y - low) / (high - low) > 0.2
        last = math.log(x / left) > 0.92 * math.log(right / left)
        axis.annotate(
            f"{y:.4g}" + " at rate 0" * (marks.get(x) is None),  # on no logarithmic axis
            (x, y),
            xytext=(-6 if last else 6, -13 if under else 9),
            textcoords="offset points",
            ha="right" if last else "left",
            va="center",
            fontsize=10.5,
            bbox=_PLATE,
            zorder=5,
        )


def upright(axis: Axes, words: str, x: float, level: float) -> None:
    """A vertical line with its name, whose upper end is at a share of the panel's height."""
    axis.axvline(x, color="black", linewidth=1, linestyle=":")
    axis.text(
        x,
        level,
        words,
        transform=axis.get_xaxis_transform(),
        rotation=90,
        ha="center",
        va="top",
        fontsize=10,
        bbox=_PLATE,
    )


def log_axis(axis: Axes, left: float, label: str, right: float = 1) -> None:
    """A logarithmic x axis with plain numbers at its ticks."""
    plain_log(axis, "x")
    spare = (right / left) ** 0.02
    axis.set_xlim(left / spare, right * spare)
    axis.set_xlabel(label)


def plain_log(axis: Axes, name: str) -> None:
    """Makes the `x` or `y` axis logarithmic, with plain numbers at its powers of ten."""
    axis.set(**{f"{name}scale": "log"})
    own = axis.xaxis if name == "x" else axis.yaxis
    own.set_major_formatter(FuncFormatter(lambda x, _: plain(x)))
    own.set_minor_formatter(NullFormatter())


def share_axis(axis: Axes, shown: Sequence[float], label: str) -> None:
    """A linear y axis up to 1, from a round share below all that is shown."""
    lowest = min(shown, default=0)
    floor = next(f for f in _FLOORS if f <= lowest - 0.05 * (1 - f) or f == 0)
    if lowest == 1:
        floor = 0.9
    axis.set_ylim(floor, 1 + 0.03 * (1 - floor))
    axis.set_ylabel(label)


def deviate_axis(axis: Axes, name: str, low: float, high: float, label: str) -> None:
    """A normal-deviate axis, on which normally distributed scores give a straight line.

    Args:
        axis: What is drawn on it are normal deviates of rates.
        name: `x` or `y`.
        low: The lowest rate shown.
        high: The highest.
        label: What the rate is.
    """
    ends = special.ndtri([max(min(low, 0.2), 1e-12), high])
    spare = 0.03 * float(ends[1] - ends[0])
    ends = (float(ends[0]) - spare, float(ends[1]) + spare)
    ticks: dict[float, float] = {}
    for rate in _DEVIATES:
        place = float(special.ndtri(rate))
        if ends[0] <= place <= ends[1] and all(
            abs(place - other) > 0.085 * (ends[1] - ends[0]) for other in ticks.values()
        ):
            ticks[rate] = place
    own = axis.xaxis if name == "x" else axis.yaxis
    own.set_major_locator(FixedLocator(list(ticks.values())))
    own.set_minor_locator(NullLocator())
    own.set_ticklabels([plain(rate) for rate in ticks])
    axis.set(**{f"{name}lim": ends, f"{name}label": label})


def legend(figure: Figure) -> None:
    """A legend below the panel, where it covers nothing; the figure grows with a long one."""
    entries = list(zip(*figure.axes[0].get_legend_handles_labels(), strict=True))
    if not entries:
        return
    entries.sort(key=lambda entry: entry[1].startswith(_FEWER))  # after the curves
    longest = sorted(len(label) for _, label in entries)[-2:]
    columns = 2 if len(entries) > 1 and sum(longest) < 62 else 1
    figure.set_figheight(_HEIGHT + 0.24 * max(math.ceil(len(entries) / columns) - 4, 0))
    handles, labels = zip(*entries, strict=True)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def plain(number: float) -> str:
    """A tick's number: 1e-4, 0.01, 0.5, 1, 1000."""
    return f"{number:.0e}".replace("e-0", "e-") if number < 0.0099 else f"{number:g}"
