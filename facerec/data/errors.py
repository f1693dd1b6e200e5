"""What is wrong with data, said with its place."""

from __future__ import annotations

AGAIN = "delete the folder and run the data_prep command that made it again"


class DataError(ValueError):
    """Something is wrong with data; says where, as far as it is known.

    Args:
        message: what is wrong.
        shard: the Parquet file.
        row: row within the shard, from 0.
        key: the source's key or path of the image.
    """

    def __init__(
        self,
        message: str,
        *,
        shard: str | None = None,
        row: int | None = None,
        key: str | None = None,
    ) -> None:
        known = (("", shard), ("row ", row), ("key ", key))
        place = ", ".join(f"{word}{value}" for word, value in known if value is not None)
        super().__init__(f"{place}: {message}" if place else message)
        self.shard, self.row, self.key = shard, row, key


def first_line(error: Exception) -> str:
    """The first line of an error's message; Arrow's have several."""
    return str(error).partition("\n")[0]
