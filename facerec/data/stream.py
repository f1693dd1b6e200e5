"""The training stream: order, share of a worker, decode, batch.

Which image is the n-th of an epoch is a function of (seed, epoch, n) alone: row groups are
permuted, and rows are permuted inside windows of a few groups, so that reading stays sequential
and memory stays small (the rows were shuffled once, when the shards were written). A global batch
is `batch_size` images in this order; each worker takes its part of it. To resume is to remember
how many images of the epoch were seen.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facerec.data.augment import DRAWS, Augment
from facerec.data.images import decode
from facerec.data.shards import DataError, Rows, Shards, Split

WINDOW = 16  # row groups shuffled together: 4,096 rows at 256 a group, some 25 MB of JPEG
AHEAD = 3  # batches decoded before they are asked for


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch.

    Attributes:
        images: uint8 RGB, (b, H, W, 3).
        labels: int64, (b,).
        keys: The source's keys or paths, b of them.
        draws: float32 in [0, 1), (b, 20): what `Augment` turns into changes; None without it.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    keys: list[str]
    draws: NDArray[np.float32] | None


class Stream:
    """One epoch of a split, in an order that depends on neither batch size nor workers.

    Iterating gives the batches that are left after `images_seen`; each `iter()` starts anew.

    Args:
        shards: Folder of shards, or the opened set.
        batch_size: Images per global batch, over all workers; a multiple of `world_size`.
        seed: With `epoch`, decides the order and the draws.
        epoch: Number of the epoch, from 0.
        images_seen: Images of this epoch that were already used, over all workers.
        rank: This worker's number, from 0.
        world_size: Number of workers.
        split: `train`, `val` or `confirm`.
        augment: Where given, batches carry the numbers it needs.

    Raises:
        DataError: For shards that cannot be read, fewer images than one batch, a batch that the
            workers cannot share evenly, or (while iterating) an image that cannot be decoded.
    """

    def __init__(
        self,
        shards: str | Path | Shards,
        *,
        batch_size: int,
        seed: int,
        epoch: int = 0,
        images_seen: int = 0,
        rank: int = 0,
        world_size: int = 1,
        split: str = "train",
        augment: Augment | None = None,
    ) -> None:
        self.shards = shards if isinstance(shards, Shards) else Shards(shards)
        self.split = self.shards.split(split)
        if batch_size % world_size:
            raise DataError(
                f"data.batch_size = {batch_size}: {world_size} workers need a multiple of "
                f"{world_size}, such as {-(-batch_size // world_size) * world_size}"
            )
        if self.split.rows < batch_size:
            raise DataError(
                f"data.batch_size = {batch_size}: {self.shards.path} has only {self.split.rows} "
                f"images in {split}; take a batch_size of {max(self.split.rows // 2, 1)} or less"
            )
        self.batch_size, self.seed, self.epoch = batch_size, seed, epoch
        self.images_seen, self.rank, self.world_size = images_seen, rank, world_size
        self.augment = augment

    @property
    def batches(self) -> int:
        """Global batches of a whole epoch; the rest below one batch is dropped."""
        return self.split.rows // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        return _prefetch(self._batches())

    def _batches(self) -> Iterator[Batch]:
        width, height = self.shards.image_size
        share = self.batch_size // self.world_size
        end = self.batches * self.batch_size
        rows = _rows(self.split, self.seed, self.epoch, self.images_seen)
        for first in range(self.images_seen, end, self.batch_size):
            begin = first + self.rank * share
            images = np.empty((share, height, width, 3), np.uint8)
            labels = np.empty(share, np.int64)
            keys: list[str] = []
            for position in range(first, min(first + self.batch_size, end)):
                group, row = next(rows)
                slot = position - begin
                if 0 <= slot < share:
                    try:
                        decode(group.images[row], images[slot])
                    except DataError as error:
                        raise group.locate(row, error) from None
                    labels[slot] = group.labels[row]
                    keys.append(group.keys[row])
            draws = None
            if self.augment is not None:
                draws = draw(self.seed, self.epoch, begin, share)
            yield Batch(images, labels, keys, draws)


def draw(seed: int, epoch: int, first: int, count: int) -> NDArray[np.float32]:
    """Give the uniform numbers of images `first` to `first + count` of an epoch, (count, 20).

    A counter-based generator: the numbers of an image do not depend on what was drawn before.
    """
    # One step of Philox's counter gives four numbers: 8 of DRAWS are two steps an image, the other
    # 12, which came later and leave the 8 as they were, are three steps of another generator.
    early = _generator(seed, epoch, 1, counter=2 * first).random((count, 8))
    late = _generator(seed, epoch, 0, counter=3 * first).random((count, DRAWS - 8))
    return np.hstack([early, late]).astype(np.float32)


def _generator(seed: int, epoch: int, purpose: int, counter: int = 0) -> np.random.Generator:
    words = np.random.SeedSequence([seed, epoch, purpose]).generate_state(2, np.uint64)
    key = int(words[0]) << 64 | int(words[1])
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _rows(split: Split, seed: int, epoch: int, start: int) -> Iterator[tuple[Rows, int]]:
    """Yield (row group, row in it) in the epoch's order, from position `start` on."""
    order = _generator(seed, epoch, 2).permutation(len(split.group_rows))
    windows = [order[i : i + WINDOW] for i in range(0, len(order), WINDOW)]
    begin = 0
    for number, window in enumerate(windows):
        ends = np.cumsum([split.group_rows[group] for group in window])
        size = int(ends[-1])
        if begin + size > start:
            groups = [split.read(int(group)) for group in window]
            shuffled = _generator(seed, epoch, 3 + number).permutation(size)
            shuffled = shuffled[max(start - begin, 0) :]
            owners = np.searchsorted(ends, shuffled, side="right")
            for row, owner in zip(shuffled.tolist(), owners.tolist(), strict=True):
                group = groups[owner]
                yield group, row - int(ends[owner]) + len(group.labels)
        begin += size


def _prefetch(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Make batches in a thread, a few ahead; its errors are raised here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # whatever it is, it belongs to the caller
            put(error)

    thread = threading.Thread(target=work, name="facerec-stream", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
