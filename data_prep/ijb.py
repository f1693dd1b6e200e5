"""The lists of IJB-B and IJB-C in insightface's layout: `<root>/meta/`, and what is in it.

All files of a set begin with one prefix, such as `ijbc`, which is read off the list of faces.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from facerec.data.shards import DataError
from facerec.data.template_set import Ints, Subjects

_FACES = "_face_tid_mid.txt"
_LANDMARKS = 10  # numbers: x and y of five points


@dataclass(frozen=True)
class Faces:
    """The faces of a set, in the order of its lists.

    Attributes:
        names: Files below `loose_crop`, n of them.
        templates: (n,), the template of each face.
        media: (n,), the medium (a photograph or a video) that it was taken from.
        landmarks: (n, 5, 2), pixels, x before y.
        detector_scores: (n,), the face detector's confidence.
    """

    names: list[str]
    templates: Ints
    media: Ints
    landmarks: NDArray[np.float32]
    detector_scores: NDArray[np.float32]


@dataclass(frozen=True)
class TemplatePairs:
    """The pairs of 1:1: template ids `first` and `second` (N,), `same` (N,)."""

    first: Ints
    second: Ints
    same: NDArray[np.bool_]


class Missing(DataError):
    """A file of the set that is not there."""


def lists(root: Path) -> list[Path]:
    """All files of the set in `<root>/meta`, by name.

    Raises:
        DataError: No list of faces there, or several.
    """
    prefix = _prefix(root)
    return sorted((root / "meta").glob(f"{prefix}_*"))


def read_faces(root: Path) -> Faces:
    """Reads `<prefix>_face_tid_mid.txt` and `<prefix>_name_5pts_score.txt`.

    Raises:
        DataError: A file that is missing, a line that is none of its format, or two lists that do
            not name the same faces.
    """
    members = _meta(root, _FACES)
    points = _meta(root, "_name_5pts_score.txt")
    names: list[str] = []
    ids: list[tuple[int, int]] = []
    for where, words in _lines(members, 3):
        try:
            ids.append((_id(words[1]), _id(words[2])))
        except ValueError:
            raise DataError(f"{where}: `name template_id media_id` is wanted") from None
        names.append(words[0])
    values: list[list[float]] = []
    for where, words in _lines(points, _LANDMARKS + 2):
        if len(values) < len(names) and words[0] != names[len(values)]:
            raise DataError(f"{where}: {words[0]}, where {members.name} has {names[len(values)]}")
        try:
            values.append([float(word) for word in words[1:]])
        except ValueError:
            raise DataError(f"{where}: `name x1 y1 ... x5 y5 score` is wanted") from None
    if len(values) != len(names):
        raise DataError(f"{points} has {len(values)} faces, {members.name} has {len(names)}")
    numbers = np.array(values, np.float32).reshape(-1, _LANDMARKS + 1)
    templates, media = np.array(ids, np.int64).reshape(-1, 2).T
    landmarks = numbers[:, :_LANDMARKS].reshape(-1, 5, 2)
    return Faces(names, templates.copy(), media.copy(), landmarks, numbers[:, -1].copy())


def read_pairs(root: Path) -> TemplatePairs:
    """Reads `<prefix>_template_pair_label.txt`, blank-separated: 15.66 million lines in IJB-C.

    Raises:
        DataError: A file that is missing, a line of another format, or a label beside 0 and 1.
    """
    path = _meta(root, "_template_pair_label.txt")
    names = ["first", "second", "label"]
    try:
        table = pa.csv.read_csv(
            path,
            pa.csv.ReadOptions(column_names=names),
            pa.csv.ParseOptions(delimiter=" "),
            pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64()), null_values=[]),
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: `template_id template_id label` is wanted: {error}") from error
    first, second, label = (table.column(name).to_numpy() for name in names)
    wrong = np.flatnonzero((label != 0) & (label != 1))
    if len(wrong):
        raise DataError(f"{path}, pair {wrong[0] + 1}: label {label[wrong[0]]}: takes 0 or 1")
    return TemplatePairs(first, second, label == 1)


def read_gallery(root: Path) -> Subjects:
    """Reads both galleries of 1:N as one: `_1N_gallery_G1.csv` and `G2` (IJB-B: `S1` and `S2`).

    Raises:
        Missing: One of the two is not there.
        DataError: As `read_probes`.
    """
    letter = "G" if _meta(root, "_1N_gallery_G1.csv", "_1N_gallery_S1.csv").stem[-2] == "G" else "S"
    return _subjects([_meta(root, f"_1N_gallery_{letter}{number}.csv") for number in (1, 2)])


def read_probes(root: Path) -> Subjects:
    """Reads `<prefix>_1N_probe_mixed.csv`.

    Raises:
        Missing: It is not there.
        DataError: A line that does not begin with two integers, or a template of two subjects.
    """
    return _subjects([_meta(root, "_1N_probe_mixed.csv")])


def _meta(root: Path, *endings: str) -> Path:
    """The file of the set with the first of these endings that exists."""
    paths = [root / "meta" / f"{_prefix(root)}{ending}" for ending in endings]
    for path in paths:
        if path.is_file():
            return path
    raise Missing(f"no such file: {' or '.join(map(str, paths))}")


def _prefix(root: Path) -> str:
    folder = root / "meta"
    found = sorted(folder.glob(f"*{_FACES}"))
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} files *{_FACES}; exactly one is wanted")
    return found[0].name.removesuffix(_FACES)


def _id(word: str) -> int:
    """A whole number that fits 64 bits; `ValueError` otherwise."""
    number = int(word)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{word[:80]} does not fit 64 bits")
    return number


def _lines(path: Path, words: int) -> Iterator[tuple[str, list[str]]]:
    """Blank-separated lines, each with its place; empty ones are left out."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                parts = line.split()
                if parts and len(parts) != words:
                    raise DataError(f"{path}, line {number}: {len(parts)} words, not {words}")
                if parts:
                    yield f"{path}, line {number}", parts
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _subjects(paths: list[Path]) -> Subjects:
    """Columns 0 and 1 of CSV files with a heading: one line per image of a template."""
    known: dict[int, int] = {}
    for path in paths:
        number = 0
        try:
            with path.open(encoding="utf-8", newline="") as file:
                for number, row in enumerate(csv.reader(file), 1):
                    if number == 1 or not row:
                        continue
                    template, subject = _id(row[0]), _id(row[1])
                    if known.setdefault(template, subject) != subject:
                        raise DataError(
                            f"{path}, line {number}: template {template} is of subject "
                            f"{subject}, and of {known[template]} before"
                        )
        except DataError:
            raise
        except (ValueError, IndexError, csv.Error):
            raise DataError(
                f"{path}, line {number}: `template_id,subject_id,...` is wanted"
            ) from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
    items = np.array(sorted(known.items()), np.int64).reshape(-1, 2)
    return Subjects(items[:, 0].copy(), items[:, 1].copy())
