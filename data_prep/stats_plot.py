"""The plot of `python -m data_prep stats`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from data_prep.looks import Looks

matplotlib.use("Agg")

# Filled, then lines of falling darkness with strokes of their own: told apart without colour too.
_SPLITS = (
    {"color": "#A6CBE3", "histtype": "stepfilled"},
    {"color": "#0B3C5D", "histtype": "step", "linewidth": 2.2},
    {"color": "#C1440E", "histtype": "step", "linewidth": 2.2, "linestyle": (0, (4, 2))},
)
_WHOSE = {  # colour and hatch
    "one identity": ("#DDDDDD", ""),
    "several identities": ("#6A3D9A", "///"),
    "unknown identities": ("#9E9E9E", "..."),
}
_KINDS = {
    "same_bytes": "same\nbytes",
    "same_pixels": "same\npixels",
    "near": "near-\nidentical",
}
_BINS = 24
_SIDE = (9.0, 6.8)  # inches; legible at half of it


def plot(title: str, looks: Mapping[str, Looks], counts: Mapping[str, Mapping[str, int]]) -> bytes:
    """Draws images per identity, bytes, brightness and duplicates.

    Args:
        title: Stands above.
        looks: What was measured, by the name of the split.
        counts: Of duplicates, see `data_prep.stats.count`, by kind.

    Returns:
        A PNG.
    """
    style: dict[Any, Any] = {"font.size": 13, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=_SIDE, layout="constrained")
        (people, size), (light, twice) = figure.subplots(2, 2)
        sizes = {
            name: np.bincount(found.labels[found.labels >= 0]) for name, found in looks.items()
        }
        known = {name: found for name, found in sizes.items() if len(found)}
        _histograms(people, known, "images per identity", "of identities", whole=True)
        kilobytes = {name: found.size / 1000 for name, found in looks.items()}
        _histograms(size, kilobytes, "kB per image", "of images")
        brightness = {name: found.brightness for name, found in looks.items()}
        _histograms(light, brightness, "mean brightness, black 0, white 1", "of images")
        _duplicates(twice, counts)
        figure.suptitle(title, fontsize=15)
        handles, names = size.get_legend_handles_labels()
        if len(names) > 1:
            figure.legend(
                handles, names, loc="outside lower center", ncols=len(names), frameon=False
            )
        sink = io.BytesIO()
        figure.savefig(sink, dpi=120, format="png")
    return sink.getvalue()


def _histograms(
    axis: Axes,
    values: Mapping[str, NDArray[Any]],
    what: str,
    share: str,
    *,
    whole: bool = False,
) -> None:
    """Each split's distribution as shares of its own number: splits differ in size."""
    axis.set_xlabel(what)
    if not values:
        axis.text(0.5, 0.5, "identities unknown", ha="center", transform=axis.transAxes)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    everything = np.concatenate(list(values.values()))
    low, high = float(everything.min()), float(np.percentile(everything, 99.5))
    if whole:
        step = max(1, int(np.ceil((high - low + 1) / _BINS)))
        edges = np.arange(low, high + step + 1, step) - 0.5
        room = max(0.0, 3 - (high - low) / 2)  # a single number is no wide block
        axis.set_xlim(max(edges[0] - room, -0.5), edges[-1] + room)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    else:
        edges = np.linspace(low, high if high > low else low + 1e-3, _BINS + 1)
    for (name, own), look in zip(values.items(), _SPLITS * len(values), strict=False):
        inside = np.clip(own, edges[0], np.nextafter(edges[-1], edges[0]))
        axis.hist(
            inside, edges.tolist(), weights=np.full(len(own), 1 / len(own)), label=name, **look
        )
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.set_ylabel(share)


def _duplicates(axis: Axes, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Images that are in a group of duplicates, by whose they are."""
    shown = [whose for whose in _WHOSE if any(found[whose] for found in counts.values())]
    axis.set_xlabel("images that have a duplicate")
    places = np.arange(len(counts))
    axis.set_yticks(places, [_KINDS[kind] for kind in counts])
    axis.invert_yaxis()
    if not shown:
        axis.set_ylim(len(counts) - 0.5, -0.5)
        axis.set_xticks([])
        axis.text(0.5, 0.5, "none", ha="center", transform=axis.transAxes)
        return
    left = np.zeros(len(counts))
    for whose in shown:
        colour, hatch = _WHOSE[whose]
        width = np.array([found[f"{whose} images"] for found in counts.values()], float)
        axis.barh(
            places, width, 0.6, left, color=colour, hatch=hatch, edgecolor="#222222", label=whose
        )
        left += width
    for place, total in zip(places, left, strict=True):
        axis.text(total, float(place), f" {total:,.0f}", va="center")
    axis.set_xlim(0, max(left.max() * 1.2, 1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axis.legend(fontsize=12, frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2)
