"""The shard format, written and read in one place.

A prepared set is a folder of Parquet files and one `index.json`, written last: a folder without it
is half-written. A row is one image: `image` (the source's encoded bytes, untouched), `label`
(0 to classes - 1 within its split, -1 where the identity is unknown), `key` (the source's key or
path), `identity` (the source's name of the person), `width`, `height`, and what else the source
had. Row groups of 256 rows, uncompressed, without dictionary or statistics: one group is the unit
of reading, memory-mapped.

A set lies in a folder of this machine (`shard_files`) or below a URL (`remote`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facerec.data.errors import AGAIN, first_line
from facerec.data.errors import DataError as DataError
from facerec.data.index import VERSION as VERSION
from facerec.data.index import open_files, plain, read_index
from facerec.data.shard_files import ShardFiles
from facerec.data.template_set import FACES, read_templates
from facerec.data.template_set import Subjects as Subjects
from facerec.data.template_set import TemplateSet as TemplateSet

_SEQUENTIAL = 16  # row groups asked for ahead where a reader goes through them one after the other
_ENDS = ("first", "second")


class FaceImage(NamedTuple):
    """One image of a source: encoded bytes, whose face it is, and where it came from.

    `landmarks` are five points (5, 2) in pixels, x before y; `more` holds the source's further
    values, one per extra column.
    """

    image: bytes
    identity: str
    key: str
    landmarks: NDArray[np.float32] | None = None
    more: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Rows:
    """One row group: n encoded images with their labels (n,) and keys."""

    images: list[memoryview]
    labels: NDArray[np.int32]
    keys: list[str]
    shard: str
    first: int

    def locate(self, row: int, error: DataError) -> DataError:
        """The same error, naming shard, row and key of the `row`-th image of this group."""
        return DataError(str(error), shard=self.shard, row=self.first + row, key=self.keys[row])


@dataclass(frozen=True)
class Pairs:
    """Pairs of a verification set: rows `first`, `second` (N,), `same` (N,), `fold` (N,)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int32] | None


class Split:
    """One part of a prepared set, such as `train`. Picklable, safe to use in threads.

    Attributes:
        name: which part.
        rows: number of images.
        classes: number of identities; 0 where they are unknown.
        group_rows: rows of each Parquet row group, over all shards in order.
        column_names: the columns that every shard has.
    """

    def __init__(self, name: str, files: ShardFiles, entry: Mapping[str, Any]) -> None:
        self.name = name
        self.rows = int(entry["rows"])
        self.classes = int(entry["classes"])
        self._source = files
        self._files = [plain(shard["file"], "file") for shard in entry["shards"]]
        self._groups: list[tuple[int, int, int]] = []  # file, group in it, first row in the file
        self._next = 0  # the group after the one read last
        rows: list[int] = []
        names: list[str] = []
        footers = files.footers(plain(name, "split"), self._files)
        for file, (shard, footer) in enumerate(zip(entry["shards"], footers, strict=True)):
            path = f"{files.place}/{shard['file']}"
            own = footer.schema.to_arrow_schema().names
            names = [name for name in names if name in own] if file else own
            first = 0
            for group, count in enumerate(_group_rows(path, footer, own, int(shard["rows"]))):
                self._groups.append((file, group, first))
                rows.append(count)
                first += count
        self.group_rows, self.column_names = tuple(rows), tuple(names)
        if sum(rows) != self.rows:
            raise DataError(
                f"{files.place}: index.json counts {self.rows} {name} rows, but its shards hold "
                f"{sum(rows)}: prepare the set again into an empty folder"
            )

    def read(self, group: int) -> Rows:
        """Reads one row group; the images are views into one buffer, not copies.

        Raises:
            DataError: the shard cannot be read any more.
        """
        if group == self._next > 0:
            self.prefetch(range(group, min(group + _SEQUENTIAL, len(self._groups))))
        self._next = group + 1
        file, number, first = self._groups[group]
        table = self._source.group(self._files[file], number, ["image", "label", "key"])
        return Rows(
            images=[view for chunk in table["image"].chunks for view in _views(chunk)],
            labels=table["label"].to_numpy(),
            keys=table["key"].to_pylist(),
            shard=self._files[file],
            first=first,
        )

    def prefetch(self, groups: Sequence[int]) -> None:
        """Says which row groups will be read next, in order; does nothing for a local set.

        A set elsewhere fetches them meanwhile. Whoever reads the groups one after the other need
        not say so.
        """
        asked = (self._groups[group] for group in groups)
        self._source.prefetch([(self._files[file], number) for file, number, _ in asked])

    def labels(self) -> NDArray[np.int32]:
        """Labels of all rows in order, (rows,); reads no image."""
        return self.columns(["label"])["label"]

    def tables(self, names: Sequence[str]) -> Iterator[Any]:
        """Those of the columns that there are, an Arrow table per shard; reads no image.

        Raises:
            DataError: the shards cannot be read any more.
        """
        return self._source.columns(self._files, list(names))

    def columns(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Columns of all rows in order, (rows,) each; reads no image.

        Raises:
            DataError: the shards have no such column, or cannot be read any more.
        """
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        tables = self._source.columns(self._files, list(parts))
        for shard, table in zip(self._files, tables, strict=True):
            for name, arrays in parts.items():
                if name not in table.column_names:
                    raise DataError(f"{self._source.place}/{shard} has no column {name}")
                arrays.append(table[name].to_numpy())
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}


class Shards:
    """A prepared set, opened by its place. Picklable, safe to use in threads.

    Args:
        place: the folder that `python -m data_prep` wrote, or an fsspec URL of it such as
            `s3://bucket/faces` or `https://host/faces`.

    Attributes:
        place: the folder or URL, as messages call it.
        path: the folder; for a URL the one in the cache, with `index.json` and the tables.
        index: `index.json` as it stands.
        image_size: (width, height) of every image in pixels.

    Raises:
        DataError: there is no such set, it is half-written, of another version, or one of its
            files is missing or shorter than the index says; a URL cannot be reached.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self._source = open_files(place)
        self.place, self.path = self._source.place, self._source.path
        self.index = read_index(self.path, self.place)
        try:
            width, height = self.index["image_size"]
            self.image_size = (int(width), int(height))
            entries = {"train": self.index, **self.index["splits"]}
            self._splits = {name: Split(name, self._source, entries[name]) for name in entries}
            beside = self.index.get("templates") or {}
            for table in (self.index.get("pairs"), *beside.values()):
                if table is not None:
                    plain(table["file"], "file")
                    self._source.bring(table)
        except DataError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise DataError(f"{self.place}/index.json is damaged ({error!r}): {AGAIN}") from error

    def split(self, name: str = "train") -> Split:
        """One part of the set: `train`, `val`, `confirm` or `distractors`.

        Raises:
            DataError: the set has no such part.
        """
        if name not in self._splits:
            cure = f"prepare it again into another folder with --{name}-identities N, N above 0"
            if name == "distractors":
                cure = "sets of `python -m data_prep megaface` have one"
            raise DataError(
                f"{self.place} has no {name} split, only {', '.join(self._splits)}: {cure}"
            )
        return self._splits[name]

    def pairs(self) -> Pairs | None:
        """The pairs of a verification set; None for any other.

        Raises:
            DataError: the table is missing, short, or names rows that do not exist.
        """
        entry = self.index.get("pairs")
        if entry is None:
            return None
        path = self.path / entry["file"]
        try:
            table = pq.read_table(path, memory_map=True, partitioning=None)
            first, second = (table[name].to_numpy().astype(np.int64) for name in _ENDS)
            same = table["same"].to_numpy().astype(np.bool_)
            fold = table["fold"].to_numpy() if "fold" in table.column_names else None
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read: {first_line(error)}: {AGAIN}") from error
        rows = self.split().rows
        ends = np.concatenate([first, second])
        if len(first) != entry["rows"] or len(ends) == 0 or ends.min() < 0 or ends.max() >= rows:
            raise DataError(f"{path} does not fit the {rows} images of the set: {AGAIN}")
        return Pairs(first, second, same, fold)

    def templates(self) -> TemplateSet | None:
        """The templates of a set made by `data_prep templates`; None for any other.

        Raises:
            DataError: a table or column is missing, short, or names templates without an image.
        """
        entry = self.index.get("templates")
        if entry is None:
            return None
        faces = self.split().columns([name for name, _ in FACES])
        return read_templates(self.path, entry, faces)


def _group_rows(path: str, footer: Any, names: Sequence[str], rows: int) -> list[int]:
    """Rows of each group of one shard, from its footer; the index must agree on their sum."""
    if footer.num_rows != rows:
        raise DataError(f"{path} holds {footer.num_rows} rows, index.json says {rows}: {AGAIN}")
    lacking = {"image", "label", "key"} - set(names)
    if lacking:
        raise DataError(f"{path} has no column {sorted(lacking)[0]}: {AGAIN}")
    return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]


def _views(column: pa.BinaryArray) -> Iterator[memoryview]:
    """The items of one Arrow array as views; Arrow's own memoryview is of signed bytes."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset :][: len(column) + 1].tolist()
    view = memoryview(data).cast("B") if data is not None else memoryview(b"")
    return (view[start:end] for start, end in pairwise(ends))
