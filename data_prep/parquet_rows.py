"""Plain Parquet files with a column of encoded images, as a source.

Parquet is read from front to back, a shuffled set is not. So the rows are read once, in their
order, and kept in a file beside the prepared set that has no name and goes with the process.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import os
import struct
import tempfile
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.lines import repeats
from data_prep.readers import Facts, Place, whole_label
from facerec.data.errors import first_line
from facerec.data.shards import DataError, FaceImage

_BATCH = 64  # images that are in memory at a time
_MANY = 4096  # labels that are
_TRAILER = struct.Struct("<I4s")  # end of a Parquet file: length of its footer, magic
_HEAD = struct.Struct("<iii")  # of a kept row: bytes of its key, path and image; -1: there is none
_Row: TypeAlias = tuple[str | None, str | None, bytes] | str  # key, path, image; or what is wrong


@dataclass(frozen=True)
class Columns:
    """Names of the columns: image (binary, or a struct of `bytes` and `path`), label, key."""

    image: str = "image"
    label: str = "label"
    key: str | None = None


class ParquetRows:
    """The rows of a Parquet file, or of all below a folder, in the byte order of their paths.

    A key is the column asked for, else `file:row`. Identities are numbers from 0 or names.

    Args:
        path: the file, or the folder.
        columns: which columns are read; all others are left behind.
        beside: a folder, or where one will be: the rows are kept there while this object lives.

    Raises:
        DataError: no such file, a file that is no Parquet, or columns that are missing or of
            another type.
    """

    def __init__(self, path: Path, columns: Columns, beside: Path) -> None:
        self._columns, self._beside = columns, beside
        self._files = _files(path)
        root = path if path.is_dir() else path.parent
        self._names = [str(file.relative_to(root)) for file in self._files]
        running = hashlib.sha256(repr(columns).encode())
        self._starts = [0]  # the first row of each file, and the end
        kinds = set()
        for file, name in zip(self._files, self._names, strict=True):
            footer, rows, kind = _footer(file, columns)
            running.update(f"{name!r} {file.stat().st_size}\n".encode() + footer)
            self._starts.append(self._starts[-1] + rows)
            kinds.add(kind)
        if len(kinds) > 1:
            raise DataError(f"{path}: labels are numbers in one file and names in another")
        if not self._starts[-1]:
            raise DataError(f"{path} holds no row")
        self._labels: dict[object, int] = {}
        self._codes = array("i")  # of each row, the number of its label
        self._again = self._read_labels()
        self._kept = _Kept(self._batches(), beside)
        self.facts = Facts(
            kind="parquet",
            name=path.resolve().name,
            fingerprint=running.hexdigest()[:16],
            order=int if kinds == {int} else os.fsencode,
            columns=(("source", pa.string()),),
            place=self._place,
        )
        self._values = list(self._labels)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, position: int) -> FaceImage:
        place = self._place(position)
        row = self._kept[position]
        if isinstance(row, str):
            raise place.error(row)
        given, source, image = row
        key = place.key if self._columns.key is None else given
        if key is None:
            raise place.error(f"the column {self._columns.key} is empty")
        if not image:
            there = f"; its path is {source!r}, files are not followed" if source else ""
            raise place.error(f"the row holds no image (0 bytes){there}", key)
        first = self._again.get(position)
        if first is not None and self._kept.key(first) == key:
            raise place.error(f"{self._where(first)} has this key too", key)
        try:
            identity = _identity(self._values[self._codes[position]])
        except ValueError as error:
            raise place.error(str(error), key) from error
        return FaceImage(image=image, identity=identity, key=key, more={"source": source})

    def _place(self, position: int) -> Place:
        file = bisect.bisect_right(self._starts, position) - 1
        row, name = position - self._starts[file], self._names[file]
        return Place(name, f"{name}:{row}") if self._columns.key is None else Place(name, row=row)

    def _where(self, position: int) -> str:
        file = bisect.bisect_right(self._starts, position) - 1
        return f"row {position - self._starts[file]} of {self._names[file]}"

    def _read_labels(self) -> dict[int, int]:
        """Reads the labels of all rows; gives the rows whose key another row has before them."""
        label, key = self._columns.label, self._columns.key
        keys = array("q")
        for file, path in enumerate(self._files):
            try:
                for batch in _open(path).iter_batches(
                    _MANY, columns=[label, *([key] if key else [])], use_threads=False
                ):
                    for value in batch.column(label).to_pylist():
                        known = math.nan if value != value else value
                        self._codes.append(self._labels.setdefault(known, len(self._labels)))
                    if key:
                        keys.extend(hash(value) for value in batch.column(key).to_pylist())
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{path} cannot be read: {first_line(error)}") from error
            if len(self._codes) != self._starts[file + 1]:
                rows = self._starts[file + 1] - self._starts[file]
                raise DataError(
                    f"{path} promises {rows} rows, it has {len(self._codes) - self._starts[file]}"
                )
        return repeats(keys)

    def _batches(self) -> Iterator[list[_Row]]:
        """All rows in order, some at a time; what cannot be read is the reason, for each row."""
        image, key = self._columns.image, self._columns.key
        for path in self._files:
            parquet = _open(path)
            for group in range(parquet.num_row_groups):
                left = parquet.metadata.row_group(group).num_rows
                try:
                    for batch in parquet.iter_batches(
                        _BATCH,
                        row_groups=[group],
                        columns=[image, *([key] if key else [])],
                        use_threads=False,
                    ):
                        images = batch.column(image).to_pylist()
                        keys = batch.column(key).to_pylist() if key else [None] * len(images)
                        left -= len(images)
                        yield [_row(*both) for both in zip(keys, images, strict=True)]
                except (OSError, pa.ArrowException) as error:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise  # the disk's fault, not the file's
                    yield [f"the row group cannot be read: {first_line(error)}"] * left


class _Kept:
    """Rows in a file without a name, which goes with the process; each is written when asked for.

    Args:
        batches: all rows in order.
        beside: a folder, or where one will be.
    """

    def __init__(self, batches: Iterator[list[_Row]], beside: Path) -> None:
        self._batches, self._beside = batches, beside
        self._ends = array("q")
        self._lock = threading.Lock()
        self._file: Any = None

    def __getitem__(self, position: int) -> _Row:
        with self._lock:
            while len(self._ends) <= position:
                self._write(next(self._batches))
            start = self._ends[position - 1] if position else 0
            data = os.pread(self._file.fileno(), self._ends[position] - start, start)
        sizes = _HEAD.unpack_from(data)
        parts, at = [], _HEAD.size
        for size in sizes:
            parts.append(None if size < 0 else data[at : at + size])
            at += max(size, 0)
        key, source, image = parts
        if image is None:
            return (source or b"").decode()
        words = [None if part is None else part.decode() for part in (key, source)]
        return words[0], words[1], image

    def key(self, position: int) -> str | None:
        """The key of a row; None where it has none."""
        row = self[position]
        return None if isinstance(row, str) else row[0]

    def _write(self, rows: list[_Row]) -> None:
        if self._file is None:
            folder = next(f for f in (self._beside, *self._beside.absolute().parents) if f.is_dir())
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with this
        for row in rows:
            key, source, image = (None, row, None) if isinstance(row, str) else row
            parts = [text if text is None else text.encode() for text in (key, source)]
            sizes = [-1 if part is None else len(part) for part in (*parts, image)]
            self._file.write(_HEAD.pack(*sizes))
            self._file.writelines(part for part in (*parts, image) if part)
            total = _HEAD.size + sum(max(size, 0) for size in sizes)
            self._ends.append((self._ends[-1] if self._ends else 0) + total)
        self._file.flush()


def _row(key: object, image: Any) -> _Row:
    """Key, path and image of a row, as far as it has them; an image that is not there is empty."""
    source = None
    if isinstance(image, dict):
        image, source = image["bytes"], image.get("path")
    return None if key is None else str(key), source, image or b""


def _identity(value: Any) -> str:
    """The identity of a label; `ValueError` where it is none."""
    if value is None or value == "":
        raise ValueError("the label is empty")
    return value if isinstance(value, str) else str(whole_label(value))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = [file for file in path.rglob("*.parquet") if file.is_file()]
    if not found:
        raise DataError(f"{path}: no such file, and no folder with *.parquet in it")
    return sorted(found, key=lambda file: os.fsencode(file.relative_to(path)))


def _open(path: Path) -> Any:
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _footer(path: Path, columns: Columns) -> tuple[bytes, int, type]:
    """The footer's bytes, the number of rows, and whether labels are `int` or `str`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TRAILER.size))
        trailer = file.read().rjust(_TRAILER.size)
        length, magic = _TRAILER.unpack(trailer)
        if magic != b"PAR1" or length > size - _TRAILER.size:
            raise DataError(f"{path} is no whole Parquet file: its last bytes are {trailer!r}")
        file.seek(size - _TRAILER.size - length)
        footer = file.read(length)
    try:
        parquet = _open(path)
        schema = parquet.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    for option, name in (("image", columns.image), ("label", columns.label), ("key", columns.key)):
        if name is not None and name not in schema.names:
            raise DataError(
                f"{path} has no column {name}, only {', '.join(schema.names)}: "
                f"--{option}-column names another"
            )
    if not _is_image(schema.field(columns.image).type):
        raise DataError(
            f"{path}: the column {columns.image} is {schema.field(columns.image).type}; encoded "
            f"images are binary, or a struct of bytes and path"
        )
    if columns.key is not None and _kind(schema.field(columns.key).type) is None:
        raise DataError(f"{path}: the column {columns.key} holds no keys: text or numbers")
    kind = _kind(schema.field(columns.label).type)
    if kind is None:
        raise DataError(
            f"{path}: the column {columns.label} is {schema.field(columns.label).type}; labels are "
            f"whole numbers or text"
        )
    return footer, int(parquet.metadata.num_rows), kind


def _is_image(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in kind.names and _is_image(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _kind(kind: Any) -> type | None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return int
    return str if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None
