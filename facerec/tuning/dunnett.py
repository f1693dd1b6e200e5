"""How far apart chance takes several settings from one that all are compared with.

Who looks at k differences and names the largest has had k chances. Dunnett's quantile takes the
place of Student's: the largest of k absolute t values, which share the control and the estimate of
the noise, stays below it with the confidence asked for (C. Dunnett, A multiple comparison procedure
for comparing several treatments with a control, JASA 50, 1955). NumPy and SciPy alone.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import interpolate, optimize, special, stats

MOST_CORRELATED = 0.9  # beyond it the sums over nodes are not exact, and little is gained

_STEP = 0.05  # correlations are rounded down to it: towards a wider interval
_FREEDOMS = (1.0, 1.15, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0, 15.0, 30.0, 100.0, math.inf)


def quantile(comparisons: int, freedom: float, correlation: float, confidence: float) -> float:
    """Give what the largest of several absolute t values stays below.

    Args:
        comparisons: How many settings are compared with one; 1 is Student's t.
        freedom: Degrees of freedom of the noise, 1 or more.
        correlation: The lowest between any two of the differences, 0 to 1: 0.5 where all settings
            are measured equally often. One below the true one makes the quantile too large.
        confidence: Such as 0.95.

    Raises:
        ValueError: For values out of these ranges.
    """
    if comparisons < 1 or not freedom >= 1 or not 0 < confidence < 1 or not 0 <= correlation <= 1:
        raise ValueError(
            f"{comparisons} comparisons, {freedom} degrees of freedom, correlation {correlation}, "
            f"confidence {confidence}: takes 1 or more, 1 or more, 0 to 1, and between 0 and 1"
        )
    if comparisons == 1:
        return float(stats.t.isf((1 - confidence) / 2, freedom))
    steps = math.floor(min(correlation, MOST_CORRELATED) / _STEP + 1e-9)
    return float(math.exp(_curve(comparisons, steps, confidence)(1 / freedom)))


@functools.lru_cache(maxsize=256)
def _curve(comparisons: int, steps: int, confidence: float) -> interpolate.PchipInterpolator:
    """The quantile's logarithm over one by the degrees of freedom, along which it is smooth."""
    exact = [math.log(_exact(comparisons, f, steps * _STEP, confidence)) for f in _FREEDOMS]
    places = [1 / freedom for freedom in _FREEDOMS]
    return interpolate.PchipInterpolator(places[::-1], exact[::-1])


def _exact(comparisons: int, freedom: float, correlation: float, confidence: float) -> float:
    """The limit that all of them stay below with this confidence.

    Given what they share (the control's own deviation, the estimate of the noise) the differences
    are independent; the shared ones are summed over.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    weights = weights / weights.sum()
    share, tail = np.polynomial.legendre.leggauss(48)
    noise = np.ones_like(share)
    if math.isfinite(freedom):
        noise = np.sqrt(stats.chi2.ppf((share + 1) / 2, freedom) / freedom)
    middle = (math.sqrt(correlation) * nodes)[:, None]
    own = math.sqrt(1 - correlation)

    def lacking(limit: float) -> float:
        reach = limit * noise
        inside = special.ndtr((reach - middle) / own) - special.ndtr((-reach - middle) / own)
        return float(weights @ inside**comparisons @ (tail / 2)) - confidence

    outside = (1 - confidence) / 2
    low = float(stats.t.isf(outside, freedom))  # of a single one
    high = float(stats.t.isf(outside / comparisons, freedom))  # Bonferroni's
    return float(optimize.brentq(lacking, 0.99 * low, 1.01 * high, rtol=1e-6))
