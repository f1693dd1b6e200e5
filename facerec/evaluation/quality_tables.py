"""What `facerec quality` leaves as tables: Parquet, and the same as CSV."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from facerec.data.writer import write_bytes, write_table
from facerec.evaluation.quality import PERCENTS, RejectCurve

CURVES = pa.schema(
    [
        ("set", pa.string()),
        ("quality", pa.string()),
        ("reject", pa.float64()),  # share of the images
        ("error", pa.float64()),  # FNMR
    ]
)
AREAS = pa.schema(
    [
        ("set", pa.string()),
        ("quality", pa.string()),
        ("up_to", pa.float64()),  # share of the images
        ("area", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("difference", pa.float64()),  # area less that of rejecting at random
        ("difference_low", pa.float64()),
        ("difference_high", pa.float64()),
        ("gain", pa.float64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("protocol", pa.string()),
    ]
)


def write_images(
    keys: Sequence[str],
    labels: NDArray[np.int32],
    identities: Sequence[str] | None,
    scalars: Mapping[str, NDArray[np.float64]],
    folder: Path,
) -> Path:
    """Write `quality.parquet` and `quality.csv`: a row per image.

    Args:
        keys: Of the N images.
        labels: (N,), -1 where the identity is unknown, which leaves the cell empty.
        identities: The source's names, where it has them.
        scalars: By name, (N,) each.
        folder: Where to; it exists.
    """
    known = np.asarray(labels) >= 0
    columns = {
        "key": pa.array(keys, pa.string()),
        "label": pa.array(labels, pa.int32(), mask=~known),
        "identity": pa.nulls(len(keys), pa.string()) if identities is None else identities,
        **{name: pa.array(values, pa.float32()) for name, values in scalars.items()},
    }
    return _write(pa.table(columns), folder / "quality.parquet")


def write_curves(
    name: str, curves: Sequence[RejectCurve], protocol: str, folder: Path
) -> tuple[Path, Path]:
    """Write `quality_curves` and `quality_areas`, each as Parquet and CSV.

    Args:
        name: The set's.
        curves: As `error_versus_reject` gives them.
        protocol: Every choice behind the numbers.
        folder: Where to; it exists.
    """
    points = [
        {"set": name, "quality": curve.quality, "reject": percent / 100, "error": error}
        for curve in curves
        for percent, error in zip(PERCENTS.tolist(), curve.errors.tolist(), strict=True)
    ]
    areas = [
        {
            "set": name,
            "quality": curve.quality,
            "up_to": one.up_to / 100,
            "area": one.area.value,
            "low": one.area.low,
            "high": one.area.high,
            "difference": one.difference.value,
            "difference_low": one.difference.low,
            "difference_high": one.difference.high,
            "gain": one.gain,
            "verdict": one.verdict,
            "reason": curve.reason,
            "protocol": protocol,
        }
        for curve in curves
        for one in curve.areas
    ]
    return (
        _write(pa.Table.from_pylist(points, schema=CURVES), folder / "quality_curves.parquet"),
        _write(pa.Table.from_pylist(areas, schema=AREAS), folder / "quality_areas.parquet"),
    )


def _write(table: pa.Table, path: Path) -> Path:
    write_table(path, table.schema, [table])
    text = io.BytesIO()
    pa.csv.write_csv(table, text)
    write_bytes(path.with_suffix(".csv"), text.getvalue())
    return path
