"""Templates of a prepared set: many images of one person that are compared as one, as in IJB.

Beside the shards, whose rows have the columns `template`, `medium` and `detector_score`, stand
`template_pairs.parquet` for 1:1 and, where the source has 1:N, `gallery.parquet` and
`probes.parquet`. All speak of templates by their ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facerec.data.errors import AGAIN, DataError, first_line

Ints = NDArray[np.int64]

# Columns of the shards, and of each table beside them.
FACES = (("template", pa.int64()), ("medium", pa.int64()), ("detector_score", pa.float32()))
PAIRS = (("first", pa.int64()), ("second", pa.int64()), ("same", pa.bool_()))
SUBJECTS = (("template", pa.int64()), ("subject", pa.int64()))


@dataclass(frozen=True)
class Subjects:
    """Templates in ascending order of their ids, `templates` (T,), and whose they are, (T,)."""

    templates: Ints
    subjects: Ints


@dataclass(frozen=True)
class TemplateSet:
    """The templates of a set, and what is compared with what.

    Attributes:
        templates: (rows,), the template of each image.
        media: (rows,), the medium (a photograph or a video) of each image.
        detector_scores: (rows,), the face detector's confidence.
        first: (P,), 1:1: ids of templates.
        second: (P,), the other one of each pair.
        same: (P,), whether the pair shows one person.
        gallery: 1:N: who is known; None where the set has 1:1 alone.
        probes: 1:N: who is looked for; None where the set has 1:1 alone.
    """

    templates: Ints
    media: Ints
    detector_scores: NDArray[np.float32]
    first: Ints
    second: Ints
    same: NDArray[np.bool_]
    gallery: Subjects | None
    probes: Subjects | None


def read_templates(
    folder: Path, entry: Mapping[str, Any], faces: Mapping[str, NDArray[Any]]
) -> TemplateSet:
    """Reads the tables that `index.json` names under `templates`.

    Args:
        folder: of the prepared set.
        entry: the index's `templates`.
        faces: the columns `template`, `medium` and `detector_score` of all rows, (rows,) each.

    Raises:
        DataError: a table is missing, damaged or short, or names a template without an image.
    """
    known = np.unique(faces["template"])
    try:
        pairs = _read(folder, entry["pairs"], PAIRS)
        subjects = {
            name: _read(folder, entry[name], SUBJECTS)
            for name in ("gallery", "probes")
            if name in entry
        }
        named = [
            (entry["pairs"]["file"], pairs["first"]),
            (entry["pairs"]["file"], pairs["second"]),
        ]
        named += [(entry[name]["file"], table["template"]) for name, table in subjects.items()]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder}/index.json is damaged ({error!r}): {AGAIN}") from error
    for file, ids in named:
        alone = ids[~np.isin(ids, known)]
        if len(alone):
            raise DataError(f"{folder / file}: template {alone[0]} has no image: {AGAIN}")
    people = {name: Subjects(t["template"], t["subject"]) for name, t in subjects.items()}
    return TemplateSet(
        templates=faces["template"],
        media=faces["medium"],
        detector_scores=faces["detector_score"],
        **pairs,
        gallery=people.get("gallery"),
        probes=people.get("probes"),
    )


def _read(
    folder: Path, entry: Mapping[str, Any], columns: tuple[tuple[str, pa.DataType], ...]
) -> dict[str, NDArray[Any]]:
    path = folder / entry["file"]
    try:
        table = pq.read_table(path, memory_map=True, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}: {AGAIN}") from error
    if table.num_rows != entry["rows"]:
        raise DataError(
            f"{path} holds {table.num_rows} rows, index.json says {entry['rows']}: {AGAIN}"
        )
    if table.schema != pa.schema(columns):
        names = ", ".join(f"{name} {kind}" for name, kind in columns)
        raise DataError(f"{path} has other columns than {names}: {AGAIN}")
    return {name: table[name].to_numpy() for name, _ in columns}
