"""Quantiles of the largest of several differences: published ones, and draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from facerec.tuning import dunnett


@pytest.mark.parametrize(
    ("comparisons", "freedom", "published"),
    # Dunnett's table of two-sided 5 % points, equally many observations of all.
    [(1, 6, 2.45), (2, 5, 3.03), (3, 6, 3.10), (4, 10, 2.89), (9, 20, 2.95), (3, 1e9, 2.35)],
)
def test_quantiles_are_dunnett_s(comparisons: int, freedom: float, published: float) -> None:
    found = dunnett.quantile(comparisons, freedom, 0.5, 0.95)
    assert found == pytest.approx(published, abs=0.006)


@pytest.mark.parametrize(("freedom", "correlation"), [(2.0, 0.9), (7.3, 0.0), (40.0, 0.7)])
def test_the_largest_stays_below_in_draws(freedom: float, correlation: float) -> None:
    draws, generator = 200_000, np.random.default_rng(5)
    shared, own = generator.standard_normal((draws, 1)), generator.standard_normal((draws, 3))
    together = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    noise = np.sqrt(generator.chisquare(freedom, draws) / freedom)
    below = np.abs(together).max(axis=1) / noise < dunnett.quantile(3, freedom, correlation, 0.9)
    assert below.mean() == pytest.approx(0.9, abs=0.003)


def test_one_comparison_is_student_s_t() -> None:
    assert dunnett.quantile(1, 2, 0.5, 0.95) == pytest.approx(stats.t.ppf(0.975, 2))
    alone, with_others = (dunnett.quantile(k, 2.2, 0.5, 0.95) for k in (1, 2))
    assert alone < with_others


@pytest.mark.parametrize("wrong", [(0, 3, 0.5, 0.95), (2, 0.5, 0.5, 0.95), (2, 3, 1.5, 0.95)])
def test_what_there_is_no_quantile_for(wrong: tuple[int, float, float, float]) -> None:
    with pytest.raises(ValueError, match="takes 1 or more"):
        dunnett.quantile(*wrong)
