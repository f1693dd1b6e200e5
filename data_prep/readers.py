"""Sources of face images: what a reader promises, and the two plain ones, folders and lists.

A source is a sequence: `source[i]` reads the i-th image when it is asked for and raises
`DataError` when that one is wrong, so that a set of any size is read with little memory and one
damaged image can be left out. Opening one fails at once when the source as a whole is wrong.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from facerec.data.shards import DataError, FaceImage

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm")
_LARGEST_LABEL = 2**31 - 2  # labels are int32


class Source(Protocol):
    """A readable face data set.

    Attributes:
        facts: what `index.json` tells about it.
    """

    facts: Facts

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> FaceImage: ...


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
        self._paths: list[str] = []
        ignored, empty, sizes = 0, list[str](), list[int]()
        for identity in _sorted(os.scandir(root)):
            if not identity.is_dir():
                ignored += 1
                continue
            files = _sorted(os.scandir(identity))
            images = [file for file in files if _is_image(file)]
            ignored += len(files) - len(images)
            if not images:
                empty.append(identity.name)
            self._paths += [f"{identity.name}/{image.name}" for image in images]
            sizes += [image.stat().st_size for image in images]
        if not self._paths:
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
                f"{_shorten(map(printable, empty))}"
            )
        self.facts = Facts(
            kind="folder",
            name=root.resolve().name,
            fingerprint=fingerprint(map(repr, zip(self._paths, sizes, strict=True))),
            remarks=tuple(remarks),
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> FaceImage:
        path = self._paths[position]
        if printable(path) != path:
            raise DataError("the name is not UTF-8: rename it", key=printable(path))
        return FaceImage(
            image=read_bytes(self.root / path, path), identity=path.partition("/")[0], key=path
        )


class List:
    """A list of images with class ids: MagFace's, or the `.lst` of MXNet's im2rec.

    MagFace: `path 0 id 0`, blank-separated, read from the right, since a path may hold blanks.
    im2rec: `index<TAB>label[<TAB>more labels]<TAB>path`. Empty lines are passed over.

    Args:
        path: the list.
        root: the folder that the paths in it are relative to.

    Raises:
        DataError: the list or `root` is missing, or names no image.
    """

    def __init__(self, path: Path, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"--root {root}: no such folder")
        try:
            lines = path.read_bytes().decode("utf-8-sig").split("\n")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: byte {error.start} is no text") from error
        lines = [line.rstrip("\r") for line in lines]
        self.path, self.root = path, root
        self._lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if not self._lines:
            raise DataError(f"{path} names no image: it has no line that is not empty")
        self.facts = Facts(
            kind="list",
            name=path.name,
            fingerprint=fingerprint([str(root.resolve()), *lines]),
            order=int,
            columns=(("source", pa.string()),),
        )

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, position: int) -> FaceImage:
        number, line = self._lines[position]
        where = f"{self.path.name}, line {number}"
        try:
            if line.partition("\t")[0].isdecimal():
                _, label, *_, name = _at_least(3, line.split("\t"))
            else:
                name, _, label, _ = _at_least(4, line.strip().rsplit(maxsplit=3))
            identity = whole_label(label)
        except ValueError as error:
            raise DataError(
                f"{where}: {error} in {line[:80]!r}; a line reads 'path 0 id 0' (MagFace) or "
                f"'index<TAB>label<TAB>path' (im2rec), ids are whole numbers from 0"
            ) from error
        image = self.root / name
        if not os.path.isfile(image):  # unlike Path's, false for a name that no file can have
            beside = self.path.parent / name
            hint = f"; it is there with --root {self.path.parent}" if os.path.isfile(beside) else ""
            raise DataError(f"{where}: {os.path.abspath(image)} is missing{hint}")
        return FaceImage(
            image=read_bytes(image, name), identity=str(identity), key=name, more={"source": line}
        )


def whole_label(value: float | str) -> int:
    """A class id as an int.

    Raises:
        ValueError: it is no number, negative, NaN, infinite, fractional, or too large for int32.
    """
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _LARGEST_LABEL or number != int(number):
        raise ValueError(f"label {value} is no whole number from 0 to {_LARGEST_LABEL}")
    return int(number)


def fingerprint(parts: Iterable[bytes | str]) -> str:
    """A short hash over all parts, in order."""
    running = hashlib.sha256()
    for part in parts:
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
    """A file name as text that any terminal and Parquet take; the same text if it is UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _sorted(entries: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and entry.is_file()


def _at_least(number: int, fields: list[str]) -> list[str]:
    if len(fields) < number:
        raise ValueError(f"{len(fields)} columns instead of {number}")
    return fields


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _shorten(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
