"""A plot's axis for a searched key: its scale, its ticks, where each trial stands on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from facerec.tuning import priors


def positions(
    axis: Axes, trials: pd.DataFrame, key: str, domain: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Set the axis up, and give each trial's place on it."""
    if domain["kind"] == "choice":
        options = [str(name) for name in domain["options"]]
        place = np.array([options.index(option(value)) for value in trials[key]], np.float64)
        axis.set_xlim(-0.6, len(options) - 0.4)
        turned = sum(map(len, options)) > 40
        axis.set_xticks(
            range(len(options)),
            options,
            rotation=35 if turned else 0,
            ha="right" if turned else "center",
            rotation_mode="anchor",
        )
        # A little apart, so that equal scores of one option are not one dot.
        return place + 0.24 * (np.arange(len(trials), dtype=np.float64) * 0.618 % 1 - 0.5)
    low, high = domain["low"], domain["high"]
    if domain["kind"] == "log_uniform" or domain.get("log"):
        axis.set_xscale("log")
        axis.set_xlim(low / (high / low) ** 0.04, high * (high / low) ** 0.04)
        ticks = _round_ticks(low, high)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
    else:
        axis.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    return np.asarray(trials[key].to_numpy(np.float64))


def option(value: object) -> str:
    """A searched value as text; a column of numbers has NaN for None."""
    return "None" if value is pd.NA or value != value else str(value)


def _round_ticks(low: float, high: float) -> list[float]:
    """Give 3 to 8 round numbers from `low` to `high`, about evenly spaced in the logarithm."""
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(ticks) >= 3:
            break
    return ticks or [low, high]


def draw_least_scale(axis: Axes, begun: Mapping[str, Any]) -> None:
    """Draw the scale under which softmax cannot be sure, for as many classes as a sweep has.

    Args:
        axis: Of the searched scale.
        begun: The sweep's record; its `classes` and `loss.objective` decide.
    """
    least = priors.smallest_scale(begun["base"], begun.get("classes", 0))
    if least is None:
        return
    low, high = sorted(axis.get_xlim())
    if low <= least <= high:
        label = f"least scale for a probability of {priors.POSTERIOR:g}: {least:.3g}"
        axis.axvline(least, color="#555555", linestyle="--", linewidth=1.2, label=label, zorder=1)


def draw_good_region(axis: Axes, key: str, found: Mapping[str, Any]) -> None:
    """Shade the range of a key within which full trials are as good as the best.

    Args:
        axis: Of the searched key.
        key: The key.
        found: `verdict.json`.
    """
    for row in found.get("good_region", ()):
        if row["key"] == key and row["low"] is not None:
            label = "good range"
            axis.axvspan(
                row["low"], row["high"], color="#009E73", alpha=0.15, label=label, zorder=0
            )
