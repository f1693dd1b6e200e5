"""What is wrong with data, said with its place."""

from __future__ import annotations

AGAIN = "delete the folder and run the data_prep command that made it again"


class DataError(ValueError):
    """Something is wrong with data; says where, as far as it is known, in one line.

    Args:
        message: what is wrong.
        shard: the file: a Parquet file, or the source's `train.rec`, `.bin` or list.
        row: row within the file, from 0.
        line: line of a text file, from 1.
        key: the source's key or path of the image.
        offset: byte of the file where the damaged part begins.

    Attributes:
        reason: the message without its place.
    """

    def __init__(
        self,
        message: str,
        *,
        shard: str | None = None,
        row: int | None = None,
        line: int | None = None,
        key: str | None = None,
        offset: int | None = None,
    ) -> None:
        known = (("", shard), ("row ", row), ("line ", line), ("key ", key), ("offset ", offset))
        place = ", ".join(f"{word}{value}" for word, value in known if value is not None)
        super().__init__(one_line(f"{place}: {message}" if place else message))
        self.reason = one_line(message)
        self.shard, self.row, self.line, self.key, self.offset = shard, row, line, key, offset


def first_line(error: Exception) -> str:
    """The first line of an error's message; Arrow's have several."""
    return str(error).partition("\n")[0]


def one_line(text: str) -> str:
    """Text that a terminal shows as one line: what is not printable is escaped, as in a literal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
