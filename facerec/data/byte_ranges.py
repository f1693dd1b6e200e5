"""A Parquet file of which only some byte ranges are at hand."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

_NEAR = 65_536  # ranges with no more bytes between them are one request


class Pieces(io.RawIOBase):
    """A file of which some ranges are there.

    Args:
        size: Of the whole file, in bytes.
        pieces: Offset -> the bytes from there on.
    """

    def __init__(self, size: int, pieces: Mapping[int, bytes]) -> None:
        self._size, self._pieces, self._at = size, pieces, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The place that is read next."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves there, and says where that is."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes.

        Raises:
            OSError: They are in no piece.
        """
        for first, piece in self._pieces.items():
            if first <= self._at and self._at + size <= first + len(piece) and size >= 0:
                self._at += size
                return piece[self._at - size - first : self._at - first]
        raise OSError(f"its footer names no bytes {self._at} to {self._at + size}")


def ranges(group: Any, names: Sequence[str] | None) -> list[tuple[int, int]]:
    """Byte ranges [first, last) of a row group's columns; near ones are one.

    Args:
        group: The row group's part of the footer (`pyarrow.parquet.RowGroupMetaData`).
        names: The columns; None is all.
    """
    chunks = [group.column(i) for i in range(group.num_columns)]
    found: list[tuple[int, int]] = []
    for first, last in sorted(
        (first, first + chunk.total_compressed_size)
        for chunk in chunks
        if names is None or chunk.path_in_schema.partition(".")[0] in names
        for first in [chunk.dictionary_page_offset or chunk.data_page_offset]
    ):
        if found and first - found[-1][1] <= _NEAR:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found
