"""Exact search for the highest dot products, in blocks. Pure NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]

BLOCK = 4096  # rows of either side: 64 MB of scores in single precision


def search(
    queries: ArrayLike, base: ArrayLike, k: int, block: int = BLOCK
) -> tuple[NDArray[Any], Ints]:
    """The k rows of `base` with the highest dot product with each query: exact, in blocks.

    Args:
        queries: (Q, D).
        base: (N, D), possibly mapped from a file: it is read in blocks of rows.
        k: How many, 1 to N.
        block: Rows of each side that are multiplied at once; memory is some 30 bytes per score of
            a block at worst, and k results per query.

    Returns:
        Scores (Q, k), descending, in single precision where both sides are, and row numbers (Q, k);
        of equal scores the first row comes first.

    Raises:
        ValueError: Shapes that do not fit each other, or more rows wanted than there are.
    """
    vectors, others = floating(queries), np.asanyarray(base)
    if vectors.ndim != 2 or others.ndim != 2 or vectors.shape[1] != others.shape[1]:
        raise ValueError(f"queries {vectors.shape} and base {others.shape}: (Q, D), (N, D) wanted")
    if not 1 <= k <= len(others):
        raise ValueError(f"k = {k}: takes 1 to {len(others)}, the rows of the base")
    parts = []
    for start in range(0, max(len(vectors), 1), block):
        few = vectors[start : start + block]
        best = Best(len(few), k, np.result_type(few, floating(others[:1])))
        for first, rows in blocks(others, block):
            best.add(first, few @ rows.T)
        parts.append(best)
    scores = np.concatenate([best.scores for best in parts])
    return scores, np.concatenate([best.rows for best in parts])


def floating(values: ArrayLike) -> NDArray[Any]:
    """In single precision where it was, otherwise in double."""
    vectors = np.asanyarray(values)
    return vectors if vectors.dtype == np.float32 else np.asarray(vectors, np.float64)


def blocks(base: NDArray[Any], block: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """The number of a block's first row, and its rows."""
    for first in range(0, len(base), block):
        yield first, floating(base[first : first + block])


class Best:
    """The k highest scores of each query so far, descending; of equal ones the first row first.

    Attributes:
        scores: (Q, k); -inf where there are not so many. Scores that are NaN are never among them.
        rows: (Q, k), -1 there.
    """

    def __init__(self, queries: int, k: int, dtype: np.dtype[Any]) -> None:
        self.scores = np.full((queries, k), -math.inf, dtype)
        self.rows = np.full((queries, k), -1, np.int64)

    def add(self, first: int, tile: NDArray[Any]) -> None:
        """Takes the scores of the next rows.

        Args:
            first: The number of the first of them, above all that were taken before.
            tile: (Q, n).
        """
        k, floor = self.scores.shape[1], self.scores[:, -1:]
        mask = tile > floor
        if tile.shape[1] > k and np.isneginf(floor).any():  # without a floor all would be sorted
            known = np.where(np.isnan(tile), -math.inf, tile)
            mask &= tile >= np.partition(known, -k, axis=1)[:, -k, None]
        owners, columns = np.divmod(np.flatnonzero(mask), tile.shape[1])
        touched, found = np.unique(owners, return_counts=True)
        if not len(touched):
            return
        scores = np.concatenate([self.scores[touched].ravel(), tile[owners, columns]])
        rows = np.concatenate([self.rows[touched].ravel(), columns + first])
        order = np.lexsort((rows, -scores, np.concatenate([np.repeat(touched, k), owners])))
        begins = np.cumsum(found + k) - found - k
        kept = order[(begins[:, None] + np.arange(k)).ravel()]
        self.scores[touched] = scores[kept].reshape(-1, k)
        self.rows[touched] = rows[kept].reshape(-1, k)


class Highest:
    """The highest of many scores, and the rows that they stand in.

    Args:
        keep: How many; memory is twice that, and a tile.
    """

    def __init__(self, keep: int) -> None:
        self._keep, self._floor = keep, -math.inf
        self._pool: list[tuple[NDArray[Any], Ints]] = []
        self._pooled = 0

    def add(self, first: int, tile: NDArray[Any]) -> None:
        """Takes the scores of some rows; -inf and NaN do not count.

        Args:
            first: The number of the first of them.
            tile: (rows, n).
        """
        mask = tile > self._floor
        if np.count_nonzero(mask) > 2 * self._keep:  # without a floor: row numbers of few, not all
            self._floor = float(np.partition(tile[mask], -self._keep)[-self._keep])
            mask = tile >= self._floor
        places = np.flatnonzero(mask)
        self._pool.append((tile.ravel()[places], first + places // max(tile.shape[1], 1)))
        self._pooled += len(places)
        if self._pooled > 2 * self._keep:
            self._pool = [self._highest()]
            self._pooled, self._floor = self._keep, float(self._pool[0][0].min())

    def descending(self) -> tuple[NDArray[Any], Ints]:
        """Scores, and their rows: `keep` of them, or all where there were fewer."""
        scores, rows = self._highest()
        order = np.lexsort((rows, -scores))
        return scores[order], rows[order]

    def _highest(self) -> tuple[NDArray[Any], Ints]:
        """The `keep` highest of the pool, in no order."""
        if not self._pool:
            return np.empty(0), np.empty(0, np.int64)
        scores, rows = (np.concatenate(part) for part in zip(*self._pool, strict=True))
        if len(scores) > self._keep:
            kept = np.argpartition(scores, -self._keep)[-self._keep :]
            scores, rows = scores[kept], rows[kept]
        return scores, rows
