"""Records by key: dmlc's RecordIO, as MXNet writes it, and its index.

A record file is a row of parts: magic word, a word with cflag (upper 3 bits) and length (lower 29),
payload, zeros up to a multiple of 4. A record that holds the magic word at an offset divisible by 4
is split there (cflag 1, 2..., 3) and the word dropped; reading puts it back.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facerec.data.errors import DataError

_MAGIC = 0xCED7230A
_PART = struct.Struct("<II")
_LONGEST = 1 << 16  # bytes of a line of the index; two numbers need 40
_AT_ONCE = 1 << 20  # bytes that are read before the record's own length is known


class RecordFile:
    """Records by key, through the index; nothing is read before it is asked for.

    Attributes:
        keys: all keys in ascending order, int64.

    Raises:
        DataError: a file is missing or empty, or the index is malformed or names a key twice.
    """

    def __init__(self, rec: Path, idx: Path) -> None:
        self.path = rec
        self.keys, self._offsets = _read_index(idx)
        try:
            # Read, not mapped: pages of a map count as memory of this process.
            self._file = rec.open("rb")
            self._bytes = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise DataError(f"{rec} cannot be read: {error.strerror}") from error
        if not self._bytes:
            raise DataError(f"{rec} is empty (0 bytes)")
        order = np.argsort(self._offsets)
        ends = np.append(self._offsets[order][1:], self._bytes)
        self._spans = np.zeros_like(ends)  # bytes up to the next record, or to the end
        self._spans[order] = ends - self._offsets[order]

    def __len__(self) -> int:
        return self._bytes

    def __contains__(self, key: int) -> bool:
        slot = int(np.searchsorted(self.keys, key))
        return slot < len(self.keys) and int(self.keys[slot]) == key

    def slots(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where keys stand in `keys`, -1 where the index does not know them."""
        slots = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[slots] == keys, slots, -1)

    def offset(self, key: int) -> int | None:
        """Where the record begins in the file; None where the index does not know it."""
        slot = int(np.searchsorted(self.keys, key))
        return int(self._offsets[slot]) if key in self else None

    def read(self, key: int) -> bytes:
        """The record's payload, whole.

        Raises:
            DataError: the key is unknown, the offset or a length runs past the end of the file, a
                magic word is damaged, or the parts do not follow each other as they must.
        """
        offset = self._first(key)
        parts: list[bytes] = []
        while True:
            cflag, length = self._part(key, offset, len(parts))
            start = offset + _PART.size
            parts.append(os.pread(self._file.fileno(), length, start))
            if cflag in (0, 3):
                return _PART.pack(_MAGIC, 0)[:4].join(parts)
            offset = start + (length + 3) // 4 * 4

    def plain(self, slots: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        """The payloads of records that are one part and whole; neighbours are read together.

        Args:
            slots: Where their keys stand in `keys`; below 0 is none.

        Yields:
            Place in `slots`, payload, in the order of the file. Of every record that is left out
            `read` has the payload, or says what is wrong.
        """
        spans = np.where(slots >= 0, self._spans[slots], 0)
        known = np.flatnonzero((spans >= _PART.size) & (spans <= _AT_ONCE))
        known = known[self._offsets[slots[known]].argsort()]
        offsets, spans = self._offsets[slots[known]], spans[known]
        apart = np.diff(spans.cumsum() // _AT_ONCE).astype(bool)
        apart |= offsets[1:] != (offsets + spans)[:-1]
        edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(known)]
        places = list(zip(known.tolist(), offsets.tolist(), spans.tolist(), strict=True))
        for low, high in pairwise(edges if places else []):
            start, end = places[low][1], places[high - 1][1] + places[high - 1][2]
            data = os.pread(self._file.fileno(), end - start, start)
            if len(data) < end - start:  # the file was cut since
                continue
            for place, offset, span in places[low:high]:
                begin = offset - start
                magic, word = _PART.unpack_from(data, begin)
                # The word of a split record, whose mark is its upper bits, is beyond any span.
                if magic == _MAGIC and word <= span - _PART.size:
                    yield place, data[begin + _PART.size : begin + _PART.size + word]

    def head(self, key: int, size: int) -> tuple[bytes, int] | None:
        """The first bytes of a record, at most `size`, and its length; None where it is split.

        Raises:
            DataError: as `read`.
        """
        offset = self._first(key)
        cflag, length = self._part(key, offset, 0)
        if cflag:
            return None
        first = os.pread(self._file.fileno(), min(length, size), offset + _PART.size)
        return first, length

    def rest(self) -> int:
        """Bytes behind the record that lies last of those in the index; 0 where it is damaged."""
        slot = int(self._offsets.argmax())
        key, offset = int(self.keys[slot]), int(self._offsets[slot])
        cflag = parts = 0
        try:
            while parts == 0 or cflag in (1, 2):
                cflag, length = self._part(key, offset, parts)
                offset += _PART.size + (length + 3) // 4 * 4
                parts += 1
        except DataError:
            return 0
        return max(0, len(self) - offset)

    def _first(self, key: int) -> int:
        offset = self.offset(key)
        if offset is None:
            raise DataError("the index has no such key", shard=self.path.name, key=str(key))
        return offset

    def _part(self, key: int, offset: int, number: int) -> tuple[int, int]:
        """Mark and length of the part at `offset`, the `number`-th of its record, from 0."""
        left = len(self) - offset - _PART.size
        if left < 0:
            raise self._error(key, offset, f"it lies past the file's {len(self)} bytes")
        head = os.pread(self._file.fileno(), _PART.size, offset)
        magic, word = _PART.unpack(head.ljust(_PART.size, b"\0"))  # short: the file was cut since
        if magic != _MAGIC:
            raise self._error(key, offset, f"magic word 0x{magic:08x} instead of 0x{_MAGIC:08x}")
        cflag, length = word >> 29, word & (1 << 29) - 1
        if length > left:
            raise self._error(
                key, offset, f"{length} bytes are promised, the file ends after {left} of them"
            )
        if cflag not in ((2, 3) if number else (0, 1)):
            raise self._error(key, offset, f"part {number + 1} of the record is marked {cflag}")
        return cflag, length

    def _error(self, key: int, offset: int, message: str) -> DataError:
        return DataError(message, shard=self.path.name, key=str(key), offset=offset)


def _read_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys in ascending order and the offsets that belong to them."""
    keys, offsets = array("q"), array("q")
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
            if not line.strip():
                continue
            try:
                key, offset = line.strip(b"\r\n").split(b"\t")
                if not (key.isdigit() and offset.isdigit()):  # int() takes blanks, signs and _ too
                    raise ValueError
                keys.append(int(key))
                offsets.append(int(offset))
            except (ValueError, OverflowError) as error:
                raise DataError(
                    f"{path}, line {number}: {line[:60]!r} is not 'key<TAB>offset'"
                ) from error
    if not keys:
        raise DataError(f"{path} names no record")
    order = np.argsort(keys, kind="stable")
    sorted_keys = np.array(keys, np.int64)[order]
    twice = np.flatnonzero(np.diff(sorted_keys) == 0)
    if len(twice):
        raise DataError(f"{path}: key {sorted_keys[twice[0]]} stands there twice")
    places = np.array(offsets, np.int64)[order]
    by_place = np.argsort(places, kind="stable")
    shared = np.flatnonzero(np.diff(places[by_place]) == 0)
    if len(shared):
        one, other = sorted_keys[by_place[shared[0] :][:2]]
        raise DataError(
            f"{path}: keys {one} and {other} both lie at offset {places[by_place[shared[0]]]}"
        )
    return sorted_keys, places
