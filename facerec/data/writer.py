"""How a prepared set gets onto the disk: each file aside, made durable, then under its name.

What stands under its name is whole, so a killed preparation can go on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
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
    aside = _aside(path)
    with (
        aside.open("wb") as sink,
        pq.ParquetWriter(
            sink, schema, compression="none", use_dictionary=False, write_statistics=False
        ) as writer,
    ):
        for group in groups:
            writer.write_table(group, row_group_size=max(1, len(group)))
    _publish(aside, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON; `path` is replaced when it exists."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file; `path` is replaced when it exists."""
    aside = _aside(path)
    aside.write_bytes(content)
    _publish(aside, path)


def describe(path: Path) -> dict[str, Any]:
    """What `index.json` says about a finished Parquet file: file, rows, sha256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "rows": pq.read_metadata(path).num_rows, "sha256": digest}


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _publish(aside: Path, path: Path) -> None:
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
