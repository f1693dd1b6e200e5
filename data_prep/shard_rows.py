"""The rows of shards, checked one by one: images, labels, sizes and keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.damage import Tell
from facerec.data.errors import first_line
from facerec.data.images import check
from facerec.data.shards import DataError
from facerec.data.writer import COLUMNS

_TASK = 16  # images that a thread checks at a time
_REPEATING = "distractors"  # one that is there twice is two distractors
_NEEDED = [name for name, _ in COLUMNS]


class RowCheck:
    """Checks the rows of a set, split by split; faults are told in the order of the rows.

    Args:
        folder: Of the set.
        size: (width, height) that every image has to have.
        fault: Hears of each fault.
        tell: Progress.
        pool: Decodes.

    Attributes:
        images: Rows checked so far.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        fault: Callable[[DataError], None],
        tell: Tell,
        pool: Executor,
    ) -> None:
        self._folder, self._size, self._fault = folder, size, fault
        self._tell, self._pool = tell, pool
        self._keys: list[NDArray[np.uint64]] = []  # 8 bytes of each, by shard
        self._shards: list[str] = []
        self.images = 0

    def check(self, split: str, shards: Sequence[str], classes: int) -> None:
        """Checks the rows of one split.

        Args:
            split: Its name.
            shards: Its files.
            classes: How many identities the index counts; 0 where they are unknown.
        """
        counts, whole = np.zeros(classes, np.int64), True
        for shard in shards:
            keys = []
            for first, table in self._groups(shard):
                if table is None:
                    whole = False
                    continue
                self._check_group(shard, first, table, counts)
                keys.append(_digests(table["key"].to_pylist()))
                self.images += len(table)
                self._tell.advance(len(table))
            if split != _REPEATING:
                self._shards.append(shard)
                self._keys.append(np.concatenate([np.empty(0, np.uint64), *keys]))
        empty = np.flatnonzero(counts == 0)
        if whole and len(empty):
            self._fault(
                DataError(
                    f"{split} has {classes} classes, but {len(empty)} of them have no image, "
                    f"such as {empty[0]}",
                    shard="index.json",
                )
            )

    def check_keys(self) -> None:
        """Names each row whose key has stood in an earlier row of any split."""
        values, counts = np.unique(np.concatenate(self._keys), return_counts=True)
        repeated = values[counts > 1]
        seen: dict[str, tuple[str, int]] = {}
        for shard, digests in zip(self._shards, self._keys, strict=True):
            rows = np.flatnonzero(np.isin(digests, repeated)).tolist()
            if not rows:
                continue
            keys = pq.read_table(self._folder / shard, columns=["key"])["key"]
            for row in rows:
                key = keys[row].as_py()
                if key in seen:
                    other, there = seen[key]
                    message = f"the key is that of {other}, row {there} too"
                    self._fault(DataError(message, shard=shard, row=row, key=key))
                else:
                    seen[key] = shard, row

    def _groups(self, shard: str) -> Iterator[tuple[int, pa.Table | None]]:
        """The row groups with their first rows; None for one that cannot be read."""
        first = 0
        try:
            with pq.ParquetFile(self._folder / shard, memory_map=True) as file:
                self._check_columns(file.schema_arrow)
                for group in range(file.num_row_groups):
                    try:
                        yield first, file.read_row_group(group, _NEEDED)
                    except (OSError, pa.ArrowException) as error:
                        message = f"row group {group} cannot be read: {first_line(error)}"
                        self._fault(DataError(message, shard=shard, row=first))
                        yield first, None
                    first += file.metadata.row_group(group).num_rows
        except (OSError, pa.ArrowException):
            yield first, None  # the files were checked before: it was told
        except DataError as error:
            self._fault(DataError(str(error), shard=shard))
            yield first, None

    def _check_columns(self, schema: pa.Schema) -> None:
        for name, kind in COLUMNS:
            found = schema.field(name).type if name in schema.names else None
            if found != kind:
                raise DataError(f"the column {name} is {found or 'missing'}, {kind} is wanted")

    def _check_group(
        self, shard: str, first: int, table: pa.Table, counts: NDArray[np.int64]
    ) -> None:
        keys, images = table["key"].to_pylist(), table["image"].combine_chunks()
        tasks = [range(at, min(at + _TASK, len(keys))) for at in range(0, len(keys), _TASK)]
        decoded = self._pool.map(lambda task: [self._image(images[row]) for row in task], tasks)
        found = [fault for task in decoded for fault in task]
        labels, widths, heights = (table[name].to_pylist() for name in ("label", "width", "height"))
        for row, faults in enumerate(found):
            faults += self._numbers(labels[row], (widths[row], heights[row]), counts)
            if keys[row] is None:
                faults.append("there is no key")
            for message in faults:
                self._fault(DataError(message, shard=shard, row=first + row, key=keys[row]))

    def _image(self, image: pa.BinaryScalar) -> list[str]:
        data = image.as_buffer()
        if data is None:
            return ["there is no image"]
        try:
            size = check(memoryview(data).cast("B"))
        except DataError as error:
            return [error.reason]
        if size != self._size:
            return [f"the image is of {_by(size)} pixels, the set's are of {_by(self._size)}"]
        return []

    def _numbers(
        self, label: int | None, size: tuple[int | None, int | None], counts: NDArray[np.int64]
    ) -> list[str]:
        """What is wrong with a row's label and its columns `width` and `height`."""
        faults = []
        if size != self._size:
            faults.append(f"its columns say {_by(size)} pixels, the set's are of {_by(self._size)}")
        if not len(counts):
            if label != -1:
                faults.append(f"label {label}, but identities are unknown: -1 is wanted")
        elif label is None or not 0 <= label < len(counts):
            faults.append(f"label {label} is not one of the classes, 0 to {len(counts) - 1}")
        else:
            counts[label] += 1
        return faults


def _by(size: tuple[int | None, int | None]) -> str:
    return f"{size[0]} x {size[1]}"


def _digests(keys: Sequence[str | None]) -> NDArray[np.uint64]:
    joined = b"".join(hashlib.blake2b((key or "").encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(joined, np.uint64)
