"""Lists of images: their lines, the files that they name, and names that come twice."""

from __future__ import annotations

import functools
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facerec.data.errors import DataError

_LONGEST = 1 << 16  # bytes of a line; a longer one is no line of text
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A line of a text file: its number from 1, the byte where it begins, its text."""

    number: int
    offset: int
    text: str


class Lines:
    """The lines with something on them; each is read again from the file when it is asked for.

    Of each line 20 bytes are kept, so that a list of any length is read with little memory.

    Args:
        path: the file, UTF-8.

    Attributes:
        path: the file.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or has a line of over 65,536 bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
            self._offsets, self._lengths, self._numbers = array("q"), array("i"), array("q")
            for number, (offset, raw) in enumerate(self._raw(), 1):
                if self._decoded(raw, offset).strip():
                    self._offsets.append(offset)
                    self._lengths.append(len(raw))
                    self._numbers.append(number)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, position: int) -> Line:
        offset = self._offsets[position]
        raw = os.pread(self._file.fileno(), self._lengths[position], offset)
        return Line(self._numbers[position], offset, self._decoded(raw, offset))

    def contents(self) -> Iterator[bytes]:
        """Every line without its end, empty ones too: what the list is told from others by."""
        raw = b""
        for _, raw in self._raw():
            yield raw.removesuffix(b"\n").rstrip(b"\r")
        if not raw or raw.endswith(b"\n"):
            yield b""

    def _raw(self) -> Iterator[tuple[int, bytes]]:
        """Where each line begins, and its bytes with the end."""
        self._file.seek(0)
        offset, number = 0, 0
        while raw := self._file.readline(_LONGEST + 1):
            number += 1
            if len(raw) > _LONGEST:
                raise DataError(f"{self.path}, line {number} has over {_LONGEST} bytes")
            start = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
            yield offset + start, raw[start:]
            offset += len(raw)

    def _decoded(self, raw: bytes, offset: int) -> str:
        try:
            return raw.removesuffix(b"\n").rstrip(b"\r").decode()
        except UnicodeDecodeError as error:
            byte = offset + error.start
            raise DataError(f"{self.path} is not UTF-8: byte {byte} is no text") from error


class Root:
    """A folder that names in a list are relative to, and that none of them leads out of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._real = os.path.realpath(path)
        self._folder = functools.lru_cache(maxsize=4096)(os.path.realpath)

    def find(self, name: str) -> Path:
        """The file of that name.

        Raises:
            DataError: the name leads out of the folder: by `..`, as an absolute path, by a link.
        """
        try:
            real = self._resolve(os.path.join(self.path, name))
        except ValueError as error:  # a name that no file can have
            raise DataError(f"{name[:80]!r} is no file name: {error}") from error
        if not real.startswith(os.path.join(self._real, "")):
            raise DataError(f"{name[:80]!r} leads out of {self._real}: names stay below it")
        return self.path / name

    def _resolve(self, path: str) -> str:
        folder, last = os.path.split(path)
        real = os.path.join(self._folder(folder), last)
        if last in ("", ".", "..") or os.path.islink(real):
            return os.path.realpath(path)
        return real


def repeats(hashes: array[int]) -> dict[int, int]:
    """Positions of values that stood there before, each with the first position of its value."""
    values = np.frombuffer(hashes, np.int64)
    order = np.argsort(values, kind="stable")
    again = np.zeros(len(values), bool)
    again[1:] = values[order[1:]] == values[order[:-1]]
    starts = np.maximum.accumulate(np.where(again, 0, np.arange(len(values))))
    return dict(zip(order[again].tolist(), order[starts[again]].tolist(), strict=True))
