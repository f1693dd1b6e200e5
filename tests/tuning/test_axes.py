"""Axes of searched keys: ticks, places, and the line of the least scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from facerec.losses.cosface import least_scale
from facerec.tuning import axes, results


@pytest.mark.parametrize("ends", [(16, 96), (0.001, 10), (0.02, 0.2), (1, 2), (100, 1e6)])
def test_logarithmic_axes_have_round_ticks(ends: tuple[float, float]) -> None:
    ticks = axes._round_ticks(*ends)
    assert 3 <= len(ticks) <= 9
    assert all(ends[0] <= tick <= ends[1] for tick in ticks)
    assert all(len(f"{tick:e}".rstrip("0").split("e")[0].rstrip("0")) <= 3 for tick in ticks)


@pytest.mark.parametrize("options", [(None, 0.0), ("none", "s"), (True, False), (1, 2)])
def test_each_option_has_a_place_of_its_own(options: tuple[Any, ...]) -> None:
    trials = pd.DataFrame({"key": results._column([options[1], options[0], options[1]])})
    domain = {"kind": "choice", "options": list(options)}
    places = axes.positions(Figure().subplots(), trials, "key", domain)
    assert np.abs(places - [1, 0, 1]).max() < 0.3


@pytest.mark.parametrize(("classes", "posterior"), [(5, 0.9), (9, 0.999)])
def test_the_least_scale_reaches_its_probability_and_no_lower_one_does(
    classes: int, posterior: float
) -> None:
    """On the farthest possible centers: a simplex, whose cosines are all -1 / (C - 1)."""

    def probability(scale: float) -> float:
        others = (classes - 1) * math.exp(-scale / (classes - 1))
        return math.exp(scale) / (math.exp(scale) + others)

    least = least_scale(classes, posterior)
    assert probability(least) == pytest.approx(posterior)
    assert probability(0.99 * least) < posterior


def test_the_published_example() -> None:
    assert least_scale(10_572, 0.999) == pytest.approx(16.2, abs=0.05)


@pytest.mark.parametrize(
    ("objective", "classes", "drawn"),
    [("softmax", 10_572, True), ("unified", 10_572, False), ("softmax", 0, False)],
)
def test_the_line_stands_where_softmax_has_a_least_scale(
    objective: str, classes: int, drawn: bool
) -> None:
    axis = Figure().subplots()
    axis.set_xlim(4, 128)
    axes.draw_least_scale(axis, {"base": {"loss.objective": objective}, "classes": classes})
    lines = [line.get_xdata()[0] for line in axis.get_lines()]  # type: ignore[index]
    assert lines == ([pytest.approx(16.17, abs=0.01)] if drawn else [])
    if drawn:
        assert "0.999: 16.2" in str(axis.get_legend_handles_labels()[1][0])


def test_a_line_beyond_the_range_is_not_drawn() -> None:
    axis = Figure().subplots()
    axis.set_xlim(24, 96)
    axes.draw_least_scale(axis, {"base": {"loss.objective": "softmax"}, "classes": 784})
    assert not axis.get_lines()
