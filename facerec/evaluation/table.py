"""Evaluations as a table: Parquet, and the same as CSV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from facerec.data.writer import write_bytes, write_table
from facerec.evaluation import scores
from facerec.evaluation.figures.measure import Evaluation

SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),  # the interval's ends: empty where none was asked for, or can be
        ("high", pa.float64()),
        ("threshold", pa.float64()),
        ("fold", pa.int32()),  # empty in the row over all folds
        ("group", pa.string()),
        ("protocol", pa.string()),
    ]
)


def write(evaluations: Sequence[Evaluation], folder: Path) -> None:
    """Write `evaluation.parquet` and `evaluation.csv` into a folder, aside and then in place.

    Beside them `scores.parquet`, where there are scores of single pairs.
    """
    rows = [
        {
            "set": evaluation.name,
            "metric": one.metric,
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "threshold": one.threshold,
            "fold": one.fold,
            "group": one.group,
            "protocol": part.protocol,
        }
        for evaluation in evaluations
        for part in evaluation.parts
        for one in part.measures
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_table(folder / "evaluation.parquet", SCHEMA, [table])
    text = io.BytesIO()
    pa.csv.write_csv(table, text)
    write_bytes(folder / "evaluation.csv", text.getvalue())
    kept = [evaluation.scores for evaluation in evaluations if evaluation.scores is not None]
    if kept:
        scores.write(kept, folder)
