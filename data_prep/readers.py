"""Sources of face images: what a reader promises, and the plainest one, a folder of folders.

A source is a sequence: `source[i]` reads the i-th image when it is asked for and raises
`DataError` when that one is wrong, so that a set of any size is read with little memory and one
damaged image can be left out. Opening one fails at once when the source as a whole is wrong.
"""

from __future__ import annotations

import hashlib
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from facerec.data.errors import one_line
from facerec.data.shards import DataError, FaceImage

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm")
_TOGETHER = 64  # images
_LARGEST_LABEL = 2**31 - 2  # labels are int32


class Source(Protocol):
    """A readable face data set.

    Attributes:
        facts: what `index.json` tells about it.
    """

    facts: Facts

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> FaceImage: ...


@runtime_checkable
class Batched(Protocol):
    """A source that reads many plain images in less time than one by one."""

    def plain(self, positions: Sequence[int]) -> list[FaceImage | None]:
        """The images at these positions; None for each that only `source[i]` can tell of."""


@dataclass(frozen=True)
class Place:
    """Where an image comes from, for errors: file, and what is known of key, byte, line and row."""

    file: str
    key: str | None = None
    offset: int | None = None
    line: int | None = None
    row: int | None = None

    def error(self, message: str, key: str | None = None) -> DataError:
        """An error at this place; `key` where the place has none of its own."""
        return DataError(
            message,
            shard=self.file,
            row=self.row,
            line=self.line,
            key=self.key or key,
            offset=self.offset,
        )


@dataclass(frozen=True)
class Facts:
    """What is known of a source as a whole.

    Attributes:
        kind: the subcommand that reads it.
        name: file or folder name, without the path.
        fingerprint: changes when the source changes; what an interrupted run is compared by.
        alignment: how the faces were aligned, as far as the format says.
        order: sort key of identities; decides which gets label 0.
        columns: extra Parquet columns, filled from `FaceImage.more`.
        image_size: (width, height) that the source promises.
        classes: number of identities that the source promises.
        details: further facts for `index.json`.
        remarks: sentences for the user, such as files that were ignored.
        place: where the n-th image comes from; None where its key says it all.
        faults: what is wrong beside the images, each a thing that is left out or ends the run.
        faulty: what `faults` are counted as.
    """

    kind: str
    name: str
    fingerprint: str
    alignment: str = "unknown"
    order: Callable[[str], Any] = os.fsencode
    columns: tuple[tuple[str, pa.DataType], ...] = ()
    image_size: tuple[int, int] | None = None
    classes: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    place: Callable[[int], Place] | None = None
    faults: tuple[DataError, ...] = ()
    faulty: str = "records"

    def at(self, position: int, key: str | None = None) -> Place:
        """Where the n-th image comes from; `key` is its key where the caller knows it."""
        return Place(self.name, key) if self.place is None else self.place(position)


class Folder:
    """`root/<identity>/<image>`; identities and images in byte order of their UTF-8 names.

    Files that are no images by their suffix, files beside the identities' folders and folders
    inside them are ignored and counted; identities without images are skipped and named.

    Raises:
        DataError: there is no such folder, or no image in it.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; it should hold one folder per identity")
        self.root = root
        self._names, self._ends = bytearray(), array("q")  # a path costs its bytes and 8 more
        ignored, empty, running = 0, list[str](), hashlib.sha256()
        for identity in _sorted(os.scandir(root)):
            if not _leads(identity.is_dir):
                ignored += 1
                continue
            files = _sorted(os.scandir(identity))
            images = [file for file in files if _is_image(file)]
            ignored += len(files) - len(images)
            if not images:
                empty.append(identity.name)
            for image in images:
                path = f"{identity.name}/{image.name}"
                self._names += os.fsencode(path)
                self._ends.append(len(self._names))
                running.update(f"{(path, image.stat().st_size)!r}\n".encode())
        if not self._ends:
            raise DataError(
                f"{root}: no image in it; images ({', '.join(SUFFIXES)}) should lie in one folder "
                f"per identity, such as {root}/Ada/0001.jpg"
            )
        remarks = []
        if ignored:
            remarks.append(
                f"{_count(ignored, 'entry', 'entries')} ignored: no image of an identity"
            )
        if empty:
            remarks.append(
                f"{_count(len(empty), 'identity', 'identities')} without images skipped: "
                f"{_shorten(one_line(printable(name)) for name in empty)}"
            )
        self.facts = Facts(
            kind="folder",
            name=root.resolve().name,
            fingerprint=running.hexdigest()[:16],
            remarks=tuple(remarks),
        )

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> FaceImage:
        start = self._ends[position - 1] if position else 0
        path = os.fsdecode(bytes(self._names[start : self._ends[position]]))
        if printable(path) != path:
            raise self.facts.at(position).error("the name is not UTF-8: rename it", printable(path))
        return FaceImage(
            image=read_bytes(self.root / path, path), identity=path.partition("/")[0], key=path
        )


def read(source: Source, positions: Sequence[int]) -> Iterator[FaceImage | DataError]:
    """The images at these positions, in order; in place of a damaged one, what is wrong with it.

    They are read when they are asked for: one by one, or 64 at a time where the source can.
    """
    for first in range(0, len(positions), _TOGETHER):
        some = positions[first : first + _TOGETHER]
        plain = source.plain(some) if isinstance(source, Batched) else repeat(None)
        for position, face in zip(some, plain, strict=False):
            yield _read_one(source, position) if face is None else face


def _read_one(source: Source, position: int) -> FaceImage | DataError:
    try:
        return source[position]
    except DataError as error:
        if error.shard is not None:
            return error
        return source.facts.at(position, error.key).error(error.reason, error.key)


def whole_label(value: float | str) -> int:
    """A class id as an int.

    Raises:
        ValueError: it is no number, negative, NaN, infinite, fractional, or too large for int32.
    """
    try:
        number = math.nan if isinstance(value, str) and "_" in value else float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _LARGEST_LABEL or number != int(number):
        raise ValueError(f"label {value} is no whole number from 0 to {_LARGEST_LABEL}")
    return int(number)


def fingerprint(parts: Iterable[bytes | str | Path]) -> str:
    """A short hash over all parts, in order; of a path, what the file holds."""
    running = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    running.update(block)
        else:
            running.update(part if isinstance(part, bytes) else os.fsencode(part))
        running.update(b"\n")
    return running.hexdigest()[:16]


def digest(path: Path) -> str:
    """The sha256 of a file of any size; `DataError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def read_bytes(path: Path, key: str) -> bytes:
    """The whole file; `DataError` naming `key` when it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # the latter for a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read: {reason}", key=key) from error


def printable(name: str) -> str:
    """A file name as text that Parquet takes; the same text if it is UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _sorted(entries: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and _leads(entry.is_file)


def _leads(there: Callable[[], bool]) -> bool:
    """The answer of a folder's entry; a link that leads nowhere or in a circle is neither."""
    try:
        return there()
    except OSError:
        return False


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _shorten(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
