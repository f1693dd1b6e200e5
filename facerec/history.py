"""The history of one run: `metrics.parquet`, a row per epoch, replaced whole each time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facerec.data.writer import write_table

NAME = "metrics.parquet"


class History:
    """Rows of metrics in a run folder; what lies beyond the resumed step is dropped.

    Args:
        run: The run folder.
        step: Steps that the run has behind it; 0 starts an empty history.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / NAME
        rows = read(run) if step else []
        self.rows = [row for row in rows if (row["step"] or 0) <= step]

    def last(self) -> dict[str, float]:
        """Give the numbers of the newest row, empty where there is none."""
        row = self.rows[-1] if self.rows else {}
        return {k: v for k, v in row.items() if isinstance(v, int | float)}

    def append(self, row: Mapping[str, float | str]) -> None:
        """Add a row and write the file, aside and then in place."""
        self.rows.append(dict(row))
        names = dict.fromkeys(name for row in self.rows for name in row)
        table = pa.table({name: [row.get(name) for row in self.rows] for name in names})
        write_table(self.path, table.schema, [table])


def read(run: Path) -> list[dict[str, Any]]:
    """Give the rows of a run folder's history, oldest first; none where there is no file."""
    path = run / NAME
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.exists() else []
    return rows
