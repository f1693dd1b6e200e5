from __future__ import annotations

import math
from itertools import pairwise

import pytest

from facerec.optimizer import learning_rate


def test_step_multiplies_at_each_milestone() -> None:
    rates = [
        learning_rate("step", t, peak=0.1, milestones=(0.5, 0.75)) for t in (0.0, 0.49, 0.5, 0.8)
    ]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_poly_and_cosine_fall_from_the_peak_to_zero_after_the_warm_up() -> None:
    for schedule in ("poly", "cosine"):
        rates = [
            learning_rate(schedule, t, peak=0.4, warmup=0.2, power=2.0)
            for t in (0.0, 0.1, 0.2, 1.0)
        ]
        assert rates == pytest.approx([0.0, 0.2, 0.4, 0.0])
    assert learning_rate("poly", 0.6, peak=1.0, warmup=0.2, power=2.0) == pytest.approx(0.25)
    assert learning_rate("cosine", 0.6, peak=1.0, warmup=0.2) == pytest.approx(0.5)


def test_one_cycle_rises_for_three_tenths_and_is_continuous() -> None:
    rates = [learning_rate("one_cycle", t / 1000, peak=1.0) for t in range(1001)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[300] == pytest.approx(1.0)
    assert rates[1000] == pytest.approx(0.0, abs=1e-12)
    assert max(abs(a - b) for a, b in pairwise(rates)) < 0.006
    assert all(math.isfinite(rate) for rate in rates)


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="one_cycle"):
        learning_rate("linear", 0.5, peak=1.0)
