"""What is left out of a set, and why: found image by image, then two files beside the shards."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from facerec.data.errors import DataError, one_line
from facerec.data.writer import describe, sha256, write_chunks, write_table

FILES = ("damage.parquet", "damage.csv")
SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
    ]
)
_HELD = 1024  # rows in memory; the others wait in a file


class Tell(Protocol):
    """Where progress and warnings go."""

    def start(self, task: str, total: int) -> None:
        """A task of `total` images begins."""

    def advance(self, images: int) -> None:
        """So many images more are done."""

    def warn(self, message: str) -> None:
        """Something that the user should know."""


class Damage:
    """The damage report of one preparation.

    Args:
        tell: hears of each thing that is left out.
        skip: whether damage is left out; it ends the preparation otherwise.
        folder: where rows wait that are too many for memory, in a file without a name, so that
            nothing of it stays whatever happens; None: the system's folder for such.

    Attributes:
        skip: as above.
        tell: as above.
        rows: things left out so far.
    """

    def __init__(self, tell: Tell, skip: bool = False, folder: Path | None = None) -> None:
        self.tell, self.skip, self.rows = tell, skip, 0
        self._folder = folder
        self._held: list[tuple[str | None, str | None, int | None, str]] = []
        self._file: Any = None
        self._writer: Any = None

    def refuse(self, error: DataError) -> None:
        """Ends the preparation with this error, or leaves out what it is about: one row.

        Raises:
            DataError: the error, unless damage is skipped.
        """
        if not self.skip:
            raise error
        self.tell.warn(f"left out: {error}")
        place = f"line {error.line}: " if error.line is not None else ""
        place = f"row {error.row}: " if error.row is not None else place
        file, key = (text and _text(text) for text in (error.shard, error.key))
        self._held.append((file, key, error.offset, place + error.reason))
        self.rows += 1
        if len(self._held) == _HELD:
            self._spill()

    def write(self, folder: Path) -> list[dict[str, Any]]:
        """Writes `damage.parquet` and `damage.csv`, each aside and renamed; nothing without rows.

        Columns: `file` (the source's file or folder), `key` (of the image or row in it), `offset`
        (byte of the file, empty where unknown), `reason`.

        Returns:
            What `index.json` says of them.
        """
        if not self.rows:
            return []
        parquet, text = (folder / name for name in FILES)
        write_table(parquet, SCHEMA, self._tables())
        write_chunks(text, self._csv())
        return [
            describe(parquet),
            {"file": text.name, "rows": self.rows, "sha256": sha256(text)},
        ]

    def _spill(self) -> None:
        if self._writer is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with this
            self._writer = pa.ipc.new_stream(self._file, SCHEMA)
        self._writer.write_table(_table(self._held))
        self._held.clear()

    def _tables(self) -> Iterator[pa.Table]:
        if self._writer is not None:
            self._writer.close()
            self._file.seek(0)
            for batch in pa.ipc.open_stream(self._file):
                yield pa.Table.from_batches([batch])
        if self._held:
            yield _table(self._held)

    def _csv(self) -> Iterator[bytes]:
        yield _lines([SCHEMA.names])
        for table in self._tables():
            yield _lines([list(row.values()) for row in table.to_pylist()])


def _table(rows: list[tuple[str | None, str | None, int | None, str]]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=SCHEMA)


def _lines(rows: list[list[Any]]) -> bytes:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(rows)
    return sink.getvalue().encode()


def _text(name: str) -> str:
    """The name itself, where it is Unicode: a file name of other bytes is none."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return one_line(name)
    return name
