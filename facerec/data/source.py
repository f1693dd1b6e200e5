"""Rows of a split by number, decoded when they are asked for."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from facerec.data.images import decode
from facerec.data.shards import DataError, Rows, Split

KEPT = 16  # row groups kept: a window of the stream's order
_BUFFERS = 8  # more than the batches on their way at a time


class Taken(NamedTuple):
    """Some rows of a split.

    Attributes:
        images: uint8 RGB, (b, H, W, 3); a tensor where they lie on a device.
        labels: int64, (b,).
        keys: The source's keys or paths, b of them.
    """

    images: NDArray[np.uint8] | Tensor
    labels: NDArray[np.int64]
    keys: list[str]


class Source(Protocol):
    """Where the stream takes its images from."""

    def take(self, rows: NDArray[np.int64]) -> Taken:
        """The images with these row numbers, in this order."""
        ...


class EncodedRows:
    """Rows read group by group and decoded; a context manager, whose end ends its threads.

    Each group is read once per call; the last `KEPT` groups stay in memory.

    Args:
        split: The images.
        image_size: Their (width, height) in pixels.
        decoders: Threads that decode; with 1 the caller's own does.
    """

    def __init__(self, split: Split, image_size: tuple[int, int], decoders: int = 1) -> None:
        self._split = split
        self._width, self._height = image_size
        self._ends = np.cumsum(split.group_rows)
        self._kept: OrderedDict[int, Rows] = OrderedDict()
        self._lock = threading.Lock()
        self._buffers = _Buffers()
        self._pool = ThreadPoolExecutor(decoders, "facerec-decode") if decoders > 1 else None

    def __enter__(self) -> EncodedRows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def take(self, rows: NDArray[np.int64]) -> Taken:
        """The images with these row numbers, in this order.

        Raises:
            DataError: A shard that cannot be read, or a damaged image; names shard, row and key.
        """
        images = self._buffers.take((len(rows), self._height, self._width, 3))
        labels = np.empty(len(rows), np.int64)
        keys = [""] * len(rows)
        owners = np.searchsorted(self._ends, rows, side="right")
        groups, places = np.unique(owners, return_index=True)

        def fill(group: int) -> None:
            part = self._read(group)
            slots = np.flatnonzero(owners == group)
            inside = rows[slots] - (self._ends[group] - len(part.keys))
            labels[slots] = part.labels[inside]
            for slot, row in zip(slots.tolist(), inside.tolist(), strict=True):
                keys[slot] = part.keys[row]
                try:
                    decode(part.images[row], images[slot])
                except DataError as error:
                    raise part.locate(row, error) from None

        # As the order meets them: the groups of a window that ends are done with.
        met = groups[np.argsort(places)].tolist()
        with self._lock:
            missing = [group for group in met if group not in self._kept]
        self._split.prefetch(missing)
        for _ in map(fill, met) if self._pool is None else self._pool.map(fill, met):
            pass
        return Taken(images, labels, keys)

    def _read(self, group: int) -> Rows:
        with self._lock:
            part = self._kept.pop(group, None)
        part = part or self._split.read(group)
        with self._lock:
            self._kept[group] = part
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return part


class _Buffers:
    """Arrays of pixels, used again once nobody else holds one, a view of it or a tensor over it.

    Fresh memory, which the kernel clears, would cost a twentieth of the time of decoding into it.
    """

    def __init__(self) -> None:
        self._made: list[NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        for place in range(len(self._made)):
            array = self._made[place]
            # The list, this function and the call that counts.
            if array.shape == shape and sys.getrefcount(array) == 3:
                return array
        array = np.empty(shape, np.uint8)
        if len(self._made) < _BUFFERS:  # of a caller who keeps more, these are enough
            self._made.append(array)
        return array
