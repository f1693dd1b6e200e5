"""Which image is the n-th of an epoch: arithmetic in (seed, epoch, n), without state.

`ImageOrder` shows every image once: row groups are permuted, and rows are permuted inside windows
of a few groups, so that reading stays sequential and memory stays small (the rows were shuffled
once, when the shards were written). `IdentityOrder` shows every identity equally often: each batch
is P identities with K images each, as losses that compare images within a batch want it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facerec.data.shards import DataError

SAMPLING = ("images", "identities")
WINDOW = 16  # row groups shuffled together: 4,096 rows at 256 a group, some 25 MB of JPEG


class Order(Protocol):
    """The order of one epoch."""

    def rows(self, first: int, last: int) -> NDArray[np.int64]:
        """Row numbers in the split of the images at positions `first` to `last` - 1."""

    def coming(self, position: int) -> list[int]:
        """Row groups worth fetching ahead of a position, soonest first; few at a time."""


class ImageOrder:
    """Every image once, in an order that depends on neither batch size nor workers.

    Args:
        group_rows: Rows of each row group.
        seed: With `epoch`, decides the order.
        epoch: Number of the epoch, from 0.
    """

    def __init__(self, group_rows: Sequence[int], seed: int, epoch: int) -> None:
        self._seed, self._epoch = seed, epoch
        self._sizes = np.asarray(group_rows, np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._order = generator(seed, epoch, 2).permutation(len(self._sizes))
        ends = np.cumsum(self._sizes[self._order])
        self._ends = np.append(ends[WINDOW - 1 : -1 : WINDOW], ends[-1])  # of the windows
        self._last = -1, np.empty(0, np.int64)  # the window that was shuffled last

    def rows(self, first: int, last: int) -> NDArray[np.int64]:
        """Row numbers in the split of the images at positions `first` to `last` - 1."""
        parts = [np.empty(0, np.int64)]
        while first < last:
            number = int(np.searchsorted(self._ends, first, side="right"))
            window = self._shuffled(number)
            begin = int(self._ends[number]) - len(window)
            parts.append(window[first - begin : last - begin])
            first += len(parts[-1])
        return np.concatenate(parts)

    def coming(self, position: int) -> list[int]:
        """The row groups of the window at a position, and of the next window."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        found: list[int] = self._order[number * WINDOW : (number + 2) * WINDOW].tolist()
        return found

    def _shuffled(self, number: int) -> NDArray[np.int64]:
        if self._last[0] != number:
            groups = self._order[number * WINDOW : (number + 1) * WINDOW]
            spans = zip(self._starts[groups], self._sizes[groups], strict=True)
            rows = np.concatenate([np.arange(start, start + size) for start, size in spans])
            shuffled = generator(self._seed, self._epoch, 3 + number).permutation(len(rows))
            self._last = number, rows[shuffled]
        return self._last[1]


class IdentityOrder:
    """Batches of P identities with K images each; rows of unknown identity (-1) are left out.

    The identities are permuted, and each batch takes the next P of them; where fewer than P are
    left, they are permuted anew: no batch has one twice, and all are drawn equally often, but for
    those left. An identity's K images are drawn without replacement; once all of them were taken,
    from all of them again. Images of one identity stand side by side.

    Args:
        labels: Identity of each row (N,).
        batch_size: Images per global batch, P x K.
        images_per_identity: K.
        seed: With `epoch`, decides the order.
        epoch: Number of the epoch, from 0.

    Raises:
        DataError: `batch_size` is no multiple of `images_per_identity`, or the split has fewer than
            P identities.
    """

    def __init__(
        self,
        labels: NDArray[np.int32],
        *,
        batch_size: int,
        images_per_identity: int,
        seed: int,
        epoch: int,
    ) -> None:
        self._seed, self._epoch = seed, epoch
        self._batch, self._each = batch_size, images_per_identity
        self._count = batch_size // images_per_identity  # P
        rows = np.argsort(labels, kind="stable")
        self._by_identity = rows[np.searchsorted(labels, 0, sorter=rows) :]
        found, starts = np.unique(labels[self._by_identity], return_index=True)
        self._edges = np.append(starts, len(self._by_identity))
        if images_per_identity < 1 or batch_size % images_per_identity:
            raise DataError(
                f"data.images_per_identity = {images_per_identity}: takes a divisor of "
                f"data.batch_size = {batch_size}"
            )
        if self._count > len(found):
            most = len(found) * images_per_identity
            raise DataError(
                f"data.batch_size = {batch_size}: with {images_per_identity} images per identity "
                f"a batch has {self._count} identities, and there are {len(found)}; take a "
                f"batch_size of {most} or less, or more data.images_per_identity"
            )
        self._last = -1, np.empty(0, np.int64)  # the permutation that was drawn last

    def rows(self, first: int, last: int) -> NDArray[np.int64]:
        """Row numbers in the split of the images at positions `first` to `last` - 1."""
        begin, end = first // self._batch, -(-last // self._batch)
        parts = [np.empty(0, np.int64), *(self._step(step) for step in range(begin, end))]
        skipped = begin * self._batch
        return np.concatenate(parts)[first - skipped : last - skipped]

    def coming(self, position: int) -> list[int]:
        """None: a batch's images lie all over the split."""
        return []

    def _step(self, step: int) -> NDArray[np.int64]:
        turn, place = divmod(step, (len(self._edges) - 1) // self._count)
        if self._last[0] != turn:
            draws = generator(self._seed, self._epoch, 2, turn + 1)
            self._last = turn, draws.permutation(len(self._edges) - 1)
        chosen = self._last[1][place * self._count : (place + 1) * self._count]
        # Four numbers a step of the generator's counter: those of a batch begin at its own.
        start = -(-self._batch // 4) * step
        uniform = generator(self._seed, self._epoch, 3, counter=start).random(self._batch)
        picked: list[int] = []
        for number, identity in enumerate(chosen.tolist()):
            begin, end = self._edges[identity], self._edges[identity + 1]
            left: list[int] = []
            for draw in uniform[number * self._each : (number + 1) * self._each].tolist():
                left = left or self._by_identity[begin:end].tolist()
                picked.append(left.pop(int(draw * len(left))))
        return np.array(picked, np.int64)


def generator(seed: int, epoch: int, *purpose: int, counter: int = 0) -> np.random.Generator:
    """A counter-based generator: its numbers are a function of the arguments alone."""
    words = np.random.SeedSequence([seed, epoch, *purpose]).generate_state(2, np.uint64)
    key = int(words[0]) << 64 | int(words[1])
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
