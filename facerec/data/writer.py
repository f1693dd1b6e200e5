"""How a prepared set gets onto the disk: each file aside, made durable, then under its name.

What stands under its name is whole, so a killed preparation can go on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 256  # small groups: random reads are fast, sequential ones stay far above decoding
COLUMNS = (
    ("image", pa.binary()),
    ("label", pa.int32()),
    ("key", pa.string()),
    ("identity", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
)


def write_table(path: Path, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Writes a Parquet file with one row group per table; `path` is replaced when it exists."""
    with (
        _replacing(path) as aside,
        aside.open("wb") as sink,
        pq.ParquetWriter(
            sink, schema, compression="none", use_dictionary=False, write_statistics=False
        ) as writer,
    ):
        for group in groups:
            writer.write_table(group, row_group_size=max(1, len(group)))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON; `path` is replaced when it exists."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file; `path` is replaced when it exists."""
    write_chunks(path, [content])


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file piece by piece; `path` is replaced when it exists."""
    with _replacing(path) as aside, aside.open("wb") as sink:
        sink.writelines(chunks)


def describe(path: Path) -> dict[str, Any]:
    """What `index.json` says about a finished Parquet file: file, rows, sha256."""
    return {"file": path.name, "rows": pq.read_metadata(path).num_rows, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """The hash of a file of any size, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file aside that takes the place of `path` once it is whole, and goes where that fails."""
    aside = path.with_name(path.name + ".part")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)  # on a full disk, its room is needed
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
