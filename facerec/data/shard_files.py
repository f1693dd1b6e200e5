"""How the files of a prepared set are reached: in a folder here, memory-mapped.

`facerec.data.remote` reaches them elsewhere, behind the same methods.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from facerec.data.errors import AGAIN, DataError, first_line

_OPEN_FILES = 64  # handles kept open per split; a large set has thousands of shards


class ShardFiles(Protocol):
    """The files of a prepared set. Picklable, safe to use in threads.

    Attributes:
        place: what messages call it: the folder, or the URL.
        path: the folder of this machine that holds `index.json` and the tables beside the shards.
    """

    place: str
    path: Path

    def footers(self, split: str, files: Sequence[str]) -> Iterator[Any]:
        """The Parquet footers (`pyarrow.parquet.FileMetaData`) of a split's shards, in order."""
        ...

    def group(self, file: str, number: int, columns: Sequence[str]) -> Any:
        """Some columns of one row group of a shard, as a table."""
        ...

    def columns(self, files: Sequence[str], names: Sequence[str]) -> Iterator[Any]:
        """Those of the columns that there are, one table per shard."""
        ...

    def prefetch(self, groups: Sequence[tuple[str, int]]) -> None:
        """Says which row groups (shard, number) will be read next, in order."""
        ...

    def bring(self, entry: Mapping[str, Any]) -> None:
        """Sees to it that a table of the index lies in `path`."""
        ...


class LocalFiles:
    """The files of a prepared set in a folder of this machine.

    Args:
        folder: the folder.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.place = folder, str(folder)
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder of shards; python -m data_prep prepares one "
                f"(recordio, bin, folder, list, templates, megaface, synthetic)"
            )
        self._lock = threading.Lock()
        self._open: OrderedDict[str, pq.ParquetFile] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_open")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _open=OrderedDict())

    def footers(self, split: str, files: Sequence[str]) -> Iterator[Any]:
        """The footers of a split's shards, in order.

        Raises:
            DataError: a shard is missing or damaged.
        """
        for file in files:
            try:
                yield pq.read_metadata(self.path / file)
            except FileNotFoundError as error:
                raise DataError(
                    f"{self.place}: {file} is missing, index.json lists it: {AGAIN}"
                ) from error
            except (OSError, pa.ArrowException) as error:
                raise DataError(
                    f"{self.path / file} cannot be read: {first_line(error)}: {AGAIN}"
                ) from error

    def group(self, file: str, number: int, columns: Sequence[str]) -> Any:
        """Some columns of one row group; its images are views into the mapped file where they can.

        Raises:
            DataError: the shard cannot be read any more.
        """
        return self._read(file, number, columns)

    def columns(self, files: Sequence[str], names: Sequence[str]) -> Iterator[Any]:
        """Those of the columns that there are, one table per shard.

        Raises:
            DataError: a shard cannot be read any more.
        """
        return (self._read(file, None, names) for file in files)

    def prefetch(self, groups: Sequence[tuple[str, int]]) -> None:
        """Nothing to do: the kernel reads ahead."""

    def bring(self, entry: Mapping[str, Any]) -> None:
        """Nothing to do: the tables lie here."""

    def _read(self, file: str, group: int | None, columns: Sequence[str]) -> Any:
        path = self.path / file
        with self._lock:
            try:
                parquet = self._open.pop(file, None)
                if parquet is None:
                    parquet = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
                self._open[file] = parquet
                if len(self._open) > _OPEN_FILES:
                    self._open.popitem(last=False)[1].close()
                if group is None:
                    return parquet.read(list(columns), use_threads=False)
                return parquet.read_row_group(group, list(columns), use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{path} cannot be read: {first_line(error)}") from error
