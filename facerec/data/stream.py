"""The training stream: order, share of a worker, decode, batch.

Which image is the n-th of an epoch is a function of (seed, epoch, n) alone (`facerec.data.sampling`
has the two orders). A global batch is `batch_size` images in this order; each worker takes its part
of it. To resume is to remember how many images of the epoch were seen.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facerec.data.augment import DRAWS, Augment
from facerec.data.sampling import SAMPLING, IdentityOrder, ImageOrder, Order, generator
from facerec.data.shards import DataError, Shards
from facerec.data.source import EncodedRows, Source

AHEAD = 3  # batches decoded before they are asked for

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch.

    Attributes:
        images: uint8 RGB, (b, H, W, 3): an array, or a tensor on the device where the stream was
            given images that lie there.
        labels: int64, (b,).
        keys: The source's keys or paths, b of them.
        draws: float32 in [0, 1), (b, 25): what `Augment` turns into changes; None without it.
    """

    images: NDArray[np.uint8] | Tensor
    labels: NDArray[np.int64]
    keys: list[str]
    draws: NDArray[np.float32] | None


class Stream:
    """One epoch of a split, in an order that does not depend on the workers.

    Iterating gives the batches that are left after `images_seen`; each `iter()` starts anew.
    An epoch is as many whole batches as the split has images for, with either sampling.

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
        sampling: `images`: each image once, in an order that does not depend on the batch size
            either. `identities`: each batch has `images_per_identity` images of each of its
            identities, drawn anew in each epoch; images of unknown identity are left out.
        images_per_identity: K, for `identities` alone; divides `batch_size`.
        decoders: Threads that decode; batches are the same for any number.
        cache: Images of this split that `facerec.data.cache` keeps decoded; batches are the same
            with and without.

    Raises:
        DataError: For shards that cannot be read, fewer images than one batch, a batch that the
            workers cannot share evenly or that has more identities than there are, or (while
            iterating) an image that cannot be decoded.
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
        sampling: str = "images",
        images_per_identity: int = 4,
        decoders: int = 1,
        cache: Source | None = None,
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
                f"data.batch_size = {batch_size}: {self.shards.place} has only {self.split.rows} "
                f"images in {split}; take a batch_size of {max(self.split.rows // 2, 1)} or less"
            )
        self.batch_size, self.seed, self.epoch = batch_size, seed, epoch
        self.images_seen, self.rank, self.world_size = images_seen, rank, world_size
        self.augment, self.decoders, self.cache = augment, decoders, cache
        if sampling not in SAMPLING:
            raise DataError(f"data.sampling = {sampling!r}: takes {', '.join(SAMPLING)}")
        self._order: Order = (
            ImageOrder(self.split.group_rows, seed, epoch)
            if sampling == "images"
            else IdentityOrder(
                self.split.labels(),
                batch_size=batch_size,
                images_per_identity=images_per_identity,
                seed=seed,
                epoch=epoch,
            )
        )

    @property
    def batches(self) -> int:
        """Global batches of a whole epoch; the rest below one batch is dropped."""
        return self.split.rows // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        return prefetch(self.made())

    def made(self) -> Generator[Batch]:
        """The same batches, made one by one when they are asked for."""
        share = self.batch_size // self.world_size
        source = (
            EncodedRows(self.split, self.shards.image_size, self.decoders)
            if self.cache is None
            else nullcontext(self.cache)
        )
        asked: list[int] = []
        with source as images:
            end = self.batches * self.batch_size
            for first in range(self.images_seen, end, self.batch_size):
                begin = first + self.rank * share
                if self.cache is None and (coming := self._order.coming(begin)) != asked:
                    self.split.prefetch([group for group in coming if group not in asked])
                    asked = coming
                taken = images.take(self._order.rows(begin, begin + share))
                draws = None
                if self.augment is not None:
                    draws = draw(self.seed, self.epoch, begin, share)
                yield Batch(*taken, draws)


def draw(seed: int, epoch: int, first: int, count: int) -> NDArray[np.float32]:
    """Give the uniform numbers of images `first` to `first + count` of an epoch, (count, 25).

    A counter-based generator: the numbers of an image do not depend on what was drawn before.
    """
    # One step of Philox's counter gives four numbers. An image has two steps of one generator for
    # the first 8 of DRAWS, three of another for the next 12, and two of a third for those of
    # `occlusion`: what came later leaves the earlier ones as they were.
    first_8 = generator(seed, epoch, 1, counter=2 * first).random((count, 8))
    next_12 = generator(seed, epoch, 0, counter=3 * first).random((count, 12))
    last = generator(seed, epoch, 0, 1, counter=2 * first).random((count, 8))[:, : DRAWS - 20]
    return np.hstack([first_8, next_12, last]).astype(np.float32)


def prefetch(batches: Generator[T]) -> Iterator[T]:
    """Make batches in a thread, `AHEAD` of them early; its errors are raised here."""
    ready: queue.Queue[T | BaseException | None] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def put(item: T | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            with closing(batches):
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
