"""Scores of single pairs, kept beside the figures: two runs can be compared without their models.

A row of `scores.parquet` is one pair of one set. `first` and `second` are its images' rows in the
set, `score` the cosine of their embeddings; `first_identity` and `second_identity` number who is
drawn for the intervals, by name where `named`, otherwise by what same-pairs join.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facerec.data.shards import DataError
from facerec.data.writer import write_table
from facerec.evaluation.comparison import Comparison, compare
from facerec.evaluation.uncertainty import DRAWS

FILE = "scores.parquet"
SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("first", pa.int64()),
        ("second", pa.int64()),
        ("same", pa.bool_()),
        ("fold", pa.int32()),
        ("score", pa.float64()),
        ("first_identity", pa.int64()),
        ("second_identity", pa.int64()),
        ("named", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Scores:
    """One model's scores on the P pairs of a set.

    Attributes:
        name: The set's name.
        first: (P,), row of the first image.
        second: (P,), row of the second.
        same: (P,) bool.
        fold: (P,), from 0; a fold's pairs stand together.
        score: (P,), cosines.
        identities: (P, 2), numbers of the identities at both ends.
        named: Whether they are known by name.
    """

    name: str
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int32]
    score: NDArray[np.float64]
    identities: NDArray[np.int64]
    named: bool


def write(sets: Sequence[Scores], folder: Path) -> None:
    """Writes `scores.parquet` into a folder, aside and then in place; a row group per set."""
    tables = [
        pa.table(
            [
                pa.array([one.name] * len(one.score)),
                *(one.first, one.second, one.same, one.fold, one.score),
                *(one.identities[:, 0], one.identities[:, 1]),
                np.full(len(one.score), one.named),
            ],
            schema=SCHEMA,
        )
        for one in sets
    ]
    write_table(folder / FILE, SCHEMA, tables)


def read(folder: Path) -> dict[str, Scores]:
    """Reads the `scores.parquet` of a folder, by the sets' names.

    Raises:
        DataError: There is none, or it is damaged.
    """
    path = folder / FILE
    try:
        table = pq.read_table(path, schema=SCHEMA, partitioning=None)
    except FileNotFoundError:
        raise DataError(
            f"{folder} has no {FILE}: facerec evaluate RUN SET --out {folder} writes it, for sets "
            "with pairs"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from error
    found = {}
    for name in table["set"].unique().to_pylist():
        rows = table.filter(pa.compute.equal(table["set"], name))
        column = {key: rows[key].to_numpy() for key in SCHEMA.names[1:]}
        found[name] = Scores(
            name=name,
            first=column["first"],
            second=column["second"],
            same=column["same"],
            fold=column["fold"],
            score=column["score"],
            identities=np.stack([column["first_identity"], column["second_identity"]], axis=1),
            named=bool(column["named"].all()),
        )
    return found


def compare_scores(
    a: Scores, b: Scores, *, draws: int = DRAWS, seed: int = 0
) -> tuple[Comparison, ...]:
    """Compares two models by their kept scores, see `comparison.compare`.

    Raises:
        DataError: The scores are not of the same pairs.
    """
    for what in ("first", "second", "same", "fold", "identities"):
        one, other = getattr(a, what), getattr(b, what)
        if not np.array_equal(one, other):
            raise DataError(
                f"{a.name} of A ({len(a.score)} pairs) and {b.name} of B ({len(b.score)} pairs) "
                f"differ in {what}: only scores of the same pairs can be compared; evaluate both "
                "runs on the same set again"
            )
    folds = int(a.fold.max()) + 1
    return compare(a.score, b.score, a.same, a.identities, folds=folds, draws=draws, seed=seed)
