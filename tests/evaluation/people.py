"""Simulated people, easy and hard and alike ones, whose true figures are known."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SIZE = 24


class People:
    """So many people in four families; each looks more or less like itself from time to time.

    Args:
        seed: Of everything that is drawn.
        count: How many.
        spread: How much the photographs of one person differ.
    """

    def __init__(self, seed: int, count: int, spread: float) -> None:
        self.draws, self.count = np.random.default_rng(seed), count
        families = 0.35 * np.random.default_rng(4).standard_normal((4, _SIZE))
        centers = self.draws.standard_normal((count, _SIZE))
        self.centers = centers + families[self.draws.integers(4, size=count)]
        self.spreads = 1.6 * spread * np.exp(0.35 * self.draws.standard_normal(count))

    def photographs(self, who: Ints) -> Floats:
        """Embeddings (N, D) of one more photograph of each of `who` (N,)."""
        noise = self.spreads[who][:, None] * self.draws.standard_normal((len(who), _SIZE))
        return self.centers[who] + noise

    def pairs(self, each: int) -> tuple[Ints, Bools]:
        """Ends (P, 2) and whether they are the same: `each` of both kinds per person, mixed."""
        same = np.arange(2 * each * self.count) % 2 == 0
        one = self.draws.integers(self.count, size=len(same))
        one[same] = self.draws.permutation(np.repeat(np.arange(self.count), each))
        other = (one + self.draws.integers(1, self.count, size=len(same))) % self.count
        return np.stack([one, np.where(same, one, other)], axis=1), same


def distances(one: Floats, other: Floats) -> Floats:
    """Squared distances of the rows' directions."""
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other))
    found: Floats = np.square(one - other).sum(axis=1)
    return found


@cache
def true_accuracy(spread: float) -> tuple[float, float]:
    """Accuracy at the best threshold, and that threshold, among 20,000 people."""
    people = People(99, 20_000, spread)
    ends, same = people.pairs(4)
    apart = distances(*(people.photographs(ends[:, k]) for k in (0, 1)))
    mine, others = np.sort(apart[same]), np.sort(apart[~same])
    grid = np.arange(0, 4, 0.01)
    right = (
        np.searchsorted(mine, grid) / len(mine) + 1 - np.searchsorted(others, grid) / len(others)
    )
    return float(right.max() / 2), float(grid[right.argmax()])


@cache
def true_tar(spread: float, far: float) -> float:
    """TAR at a FAR among 30,000 people."""
    people = People(2_000, 30_000, spread)
    everyone = np.arange(people.count)
    one, other = people.photographs(everyone), people.photographs(everyone)
    others = [distances(one, np.roll(other, shift, axis=0)) for shift in range(1, 40)]
    threshold = np.quantile(np.concatenate(others), far)
    return float((distances(one, other) < threshold).mean())
