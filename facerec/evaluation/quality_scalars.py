"""Scalars that may tell an image's quality, and how they are looked at. NumPy and SciPy alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: how bright red, green and blue look


def laplacian_variance(pixels: NDArray[np.uint8]) -> float:
    """Sharpness of an image: the variance of its Laplacian; 0 where it is of one colour.

    Of the grey image, without its outermost pixels, whose neighbours are not all known.

    Args:
        pixels: RGB (H, W, 3), both sides 3 or more.

    Raises:
        ValueError: Another shape.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 3:
        raise ValueError(f"pixels {pixels.shape}: (H, W, 3) is wanted, H and W of 3 or more")
    grey: Floats = pixels @ _LUMA
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * grey[1:-1, 1:-1]).var())


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Spearman's rank correlation of two scalars (N,), over images that have both.

    NaN where fewer than two have, or where one scalar is the same for all.
    """
    both = np.stack([np.asarray(one, np.float64), np.asarray(other, np.float64)])
    both = both[:, np.isfinite(both).all(axis=0)]
    if both.shape[1] < 2 or (np.ptp(both, axis=1) == 0).any():
        return math.nan
    return float(np.corrcoef(stats.rankdata(both, axis=1))[0, 1])


def spread(values: ArrayLike, cells: int) -> tuple[Ints, Ints]:
    """Images from the lowest value to the highest, evenly spaced through the ranks.

    Args:
        values: (N,); images whose value is not finite are left out.
        cells: How many at most.

    Returns:
        Numbers of the images, and their ranks from 1.
    """
    scalar = np.asarray(values, np.float64)
    known = np.flatnonzero(np.isfinite(scalar))
    order = known[np.argsort(scalar[known], kind="stable")]
    ranks = np.linspace(0, len(order) - 1, min(cells, len(order))).round().astype(np.int64)
    return order[ranks], ranks + 1
