"""`python -m data_prep verify`: whether a prepared set is still what was written."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.screen import Screen
from data_prep.shard_rows import RowCheck
from facerec.data.errors import AGAIN, first_line
from facerec.data.index import plain, read_index
from facerec.data.place import url_of
from facerec.data.shard_files import LocalFiles
from facerec.data.shards import DataError, Shards
from facerec.data.writer import sha256


class _File(NamedTuple):
    """What `index.json` says of one file."""

    name: str
    sha256: str
    rows: int


class _Part(NamedTuple):
    """What `index.json` says of one split."""

    rows: int
    classes: int
    shards: list[_File]


class _Faults:
    """Prints faults and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: DataError) -> None:
        self.count += 1
        print(f"error: {error}", file=sys.stderr)


def add(commands: Any) -> None:
    """Adds the command `verify`."""
    command = commands.add_parser(
        "verify",
        help="check every file and image of a prepared set",
        description="Checks a prepared set: SHA-256 and rows of every file, tables, images, "
        "labels and keys. Prints one line per fault; the exit status is 2 where there is one.",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="folder of the prepared set")
    command.add_argument(
        "--quick", action="store_true", help="SHA-256 and rows alone; no image is decoded"
    )


def run(options: argparse.Namespace) -> int:
    """Checks a set; gives 0, or 2 where something is wrong.

    Raises:
        DataError: There is no prepared set, or its `index.json` cannot be understood.
    """
    folder, faults = options.folder, _Faults()
    if url_of(folder):
        raise DataError(
            f"{url_of(folder)}: verify reads every byte of a set, which has to lie in a folder of "
            "this machine"
        )
    index = read_index(LocalFiles(folder).path, str(folder))
    try:
        size = int(index["image_size"][0]), int(index["image_size"][1])
        parts = {"train": _part(index)}
        parts |= {str(name): _part(entry) for name, entry in index["splits"].items()}
        files = list(_files(index))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}/index.json is damaged ({error!r}): {AGAIN}") from error
    with Screen() as screen, ThreadPoolExecutor(os.cpu_count()) as pool:
        screen.start("hashing files", len(files))
        for found in pool.map(lambda file: _check_file(folder, file), files):
            for fault in found:
                faults(fault)
            screen.advance(1)
        for name, part in parts.items():
            _check_rows(name, part, faults)
        if not options.quick:
            screen.start("decoding", sum(part.rows for part in parts.values()))
            rows = RowCheck(folder, size, faults, screen, pool)
            for name, part in parts.items():
                rows.check(name, [s.name for s in part.shards], part.classes)
            if "templates" not in index:  # a face may be in several templates
                rows.check_keys()
    if not faults.count:
        _check_tables(folder, faults)
    done = f"checked {len(files)} files by SHA-256 and rows"
    if not options.quick:
        done += f", {rows.images} images with their labels, keys and sizes"
    number = f"{faults.count} fault{'' if faults.count == 1 else 's'}"
    print(f"{folder}: {number if faults.count else 'good'}; {done}")
    return 2 if faults.count else 0


def _part(entry: Mapping[str, Any]) -> _Part:
    shards = [_file(shard) for shard in entry["shards"]]
    return _Part(int(entry["rows"]), int(entry["classes"]), shards)


def _file(entry: Mapping[str, Any]) -> _File:
    return _File(plain(entry["file"], "file"), str(entry["sha256"]), int(entry["rows"]))


def _files(entry: Any) -> Iterator[_File]:
    """Every file that the index describes, wherever it does."""
    if isinstance(entry, Mapping):
        if "file" in entry and "sha256" in entry:
            yield _file(entry)
        else:
            for value in entry.values():
                yield from _files(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from _files(value)


def _check_file(folder: Path, file: _File) -> list[DataError]:
    path = folder / file.name
    try:
        found = sha256(path)
    except FileNotFoundError:
        return [DataError(f"is missing, index.json lists it: {AGAIN}", shard=file.name)]
    except OSError as error:
        return [DataError(f"cannot be read: {error.strerror}", shard=file.name)]
    faults = []
    if found != file.sha256:
        faults.append(
            DataError(
                f"its SHA-256 is {found[:12]}..., index.json says {file.sha256[:12]}...: it was "
                "changed after it was written",
                shard=file.name,
            )
        )
    if path.suffix == ".parquet":
        try:
            rows = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as error:
            return [*faults, DataError(f"cannot be read: {first_line(error)}", shard=file.name)]
        if rows != file.rows:
            message = f"holds {rows} rows, index.json says {file.rows}"
            faults.append(DataError(message, shard=file.name))
    return faults


def _check_rows(name: str, part: _Part, faults: _Faults) -> None:
    counted = sum(shard.rows for shard in part.shards)
    if counted != part.rows:
        message = f"counts {part.rows} {name} rows, but {counted} in its shards"
        faults(DataError(message, shard="index.json"))


def _check_tables(folder: Path, faults: _Faults) -> None:
    """Whether pairs and templates name images that are there; where all files are good."""
    try:
        shards = Shards(folder)
        shards.pairs()
        shards.templates()
    except DataError as error:
        faults(error)
