"""The files of a folder of aligned faces: the table of them, points from a file, a contact sheet.

`aligning.csv` gets a row per photograph as they are done, and is what an interrupted run goes on
by; `faces.csv`, the same in the order of the paths, takes its place at the end.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from facerec.data.align import SIZE
from facerec.data.errors import DataError
from facerec.data.images import decode
from facerec.data.photographs import Outcome
from facerec.data.writer import write_bytes

TABLE, JOURNAL = "faces.csv", "aligning.csv"
POINTS = tuple(f"{axis}{number}" for number in range(1, 6) for axis in "xy")
BOX = ("left", "top", "right", "bottom")
COLUMNS = ("path", "file", "status", "faces", "score", *BOX, *POINTS, "reason")
ALIGNED = "aligned"
_ACROSS, _DOWN, _WORST = 12, 8, 12  # faces of the contact sheet; and those of the lowest scores
_GAP, _BAND = 2, 24  # pixels


class Row(NamedTuple):
    """A photograph, and what came of it.

    Attributes:
        path: of the photograph, below the source.
        file: of the face, below the destination; empty where there is none.
        status: `aligned`, `no face` or `damaged`.
        cells: what `COLUMNS` has after these, as text.
    """

    path: str
    file: str
    status: str
    cells: tuple[str, ...]

    @property
    def score(self) -> float | None:
        """The detector's, where it was asked."""
        return float(self.cells[1]) if self.cells[1] else None

    @property
    def reason(self) -> str:
        """Why there is no face."""
        return self.cells[-1]


def row(path: str, file: str, outcome: Outcome) -> Row:
    """The row of a photograph."""
    numbers = [
        ("" if outcome.faces is None else str(outcome.faces)),
        ("" if outcome.score is None else f"{outcome.score:.6f}"),
    ]
    for values, number in ((outcome.box, len(BOX)), (outcome.points, len(POINTS))):
        known = [] if values is None else values.ravel().tolist()
        numbers += [f"{value:.3f}" for value in known] or [""] * number
    good = outcome.face is not None
    return Row(path, file if good else "", outcome.status or ALIGNED, (*numbers, outcome.reason))


def read_rows(folder: Path) -> dict[str, Row]:
    """What earlier runs did, by path: of the table and of the journal, whose end may be cut off."""
    found = {}
    for name in (TABLE, JOURNAL):
        try:
            text = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        whole = text[: text.rfind(b"\n") + 1].decode("utf-8", "replace")
        for cells in csv.reader(io.StringIO(whole)):
            if len(cells) == len(COLUMNS) and cells != list(COLUMNS):
                found[cells[0]] = Row(cells[0], cells[1], cells[2], tuple(cells[3:]))
    return found


class Journal:
    """The rows of a run, appended and made durable as they come.

    Args:
        folder: where the faces go.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL
        self._file = self._path.open("ab")

    def append(self, rows: Iterable[Row]) -> None:
        """Adds rows; on a full disk nothing of a half row counts."""
        self._file.write(_lines([*one[:3], *one.cells] for one in rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Writes the table, and takes the journal away."""
    write_bytes(folder / TABLE, _lines([COLUMNS, *([*one[:3], *one.cells] for one in rows)]))
    with contextlib.suppress(FileNotFoundError):
        (folder / JOURNAL).unlink()


def read_points(path: Path) -> dict[str, NDArray[np.float64]]:
    """Points of photographs from a CSV file: `path,x1,y1,...,x5,y5`.

    The first line may name the columns, which then may stand in any order among others; a row
    without numbers is that of a photograph without a face.

    Returns:
        By path, (5, 2) each.

    Raises:
        DataError: the file cannot be read, lacks a column, names a path twice, or a cell is no
            number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read: {reason}") from error
    wanted = ("path", *POINTS)
    places = list(range(len(wanted)))
    headed = bool(lines) and "path" in lines[0]
    if headed:
        missing = [name for name in wanted if name not in lines[0]]
        if missing:
            raise DataError(f"{path}: no column {', '.join(missing)}", line=1)
        places = [lines[0].index(name) for name in wanted]
    found: dict[str, NDArray[np.float64]] = {}
    for number, cells in enumerate(lines[headed:], 1 + headed):
        if not cells:
            continue
        if len(cells) <= max(places):
            raise DataError(
                f"{len(cells)} cells: {max(places) + 1} or more are wanted",
                shard=str(path),
                line=number,
            )
        name, *numbers = (cells[place] for place in places)
        if name in found:
            raise DataError(f"{name} stands there twice", shard=str(path), line=number)
        if any(numbers):
            found[name] = _numbers(numbers, path, number)
    return found


def contact_sheet(folder: Path, rows: Iterable[Row], seed: int) -> bytes:
    """A picture of some aligned faces, drawn at random, and of those of the lowest scores.

    Args:
        folder: where the faces are.
        rows: of all photographs.
        seed: of the draw.

    Returns:
        A PNG.
    """
    good = [one for one in rows if one.status == ALIGNED]
    drawn = np.random.default_rng(seed).permutation(len(good))[: _ACROSS * _DOWN]
    blocks = [(f"{len(drawn)} of {len(good)} faces, at random", [good[at] for at in sorted(drawn)])]
    scored = sorted((one.score, one.path, one) for one in good if one.score is not None)
    if len(good) > len(drawn) and scored:
        worst = [one for _, _, one in scored[:_WORST]]
        lowest, highest = scored[0][0], scored[len(worst) - 1][0]
        blocks.append((f"the lowest scores, {lowest:.4f} to {highest:.4f}", worst))
    step, font = SIZE + _GAP, ImageFont.load_default(14)
    across = min(_ACROSS, max(len(good), 3))
    heights = [_BAND + -(-len(faces) // _ACROSS) * step for _, faces in blocks]
    sheet = Image.new("RGB", (across * step + _GAP, sum(heights) + _GAP), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for (title, faces), height in zip(blocks, heights, strict=True):
        draw.text((_GAP + 2, top + _BAND // 2), title, "black", font, anchor="lm")
        for number, one in enumerate(faces):
            down, right = divmod(number, _ACROSS)
            face = Image.fromarray(decode((folder / one.file).read_bytes()))
            sheet.paste(face, (_GAP + right * step, top + _BAND + down * step))
        top += height
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()


def places(
    paths: Sequence[Path], suffix: str, known: Mapping[str, Row]
) -> Iterator[tuple[str, str]]:
    """The path of each photograph and where its face goes, below source and destination.

    `Ada/1.jpg` becomes `Ada/1.png`; where there is also an `Ada/1.jpeg`, both keep their ending and
    get another one.

    Raises:
        DataError: a name is not UTF-8, or two photographs would go to one file.
    """
    names = [path.as_posix() for path in paths]
    plain = [path.with_suffix(suffix).as_posix() for path in paths]
    often: dict[str, int] = {}
    for name in plain:
        often[name.casefold()] = often.get(name.casefold(), 0) + 1
    taken: dict[str, str] = {}
    for name, short in zip(names, plain, strict=True):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError("the name is not UTF-8: rename it", key=name) from None
        file = short if often[short.casefold()] == 1 else name + suffix
        if name in known and known[name].file:
            file = known[name].file
        other = taken.setdefault(file.casefold(), name)
        if other != name:
            raise DataError(f"its face and that of {other} would be one file: rename it", key=name)
        yield name, file


def _numbers(cells: Sequence[str], path: Path, line: int) -> NDArray[np.float64]:
    try:
        return np.array([float(cell) for cell in cells]).reshape(5, 2)
    except ValueError:
        raise DataError(
            f"{','.join(cells)}: ten numbers are wanted, x1,y1,...,x5,y5",
            shard=str(path),
            line=line,
        ) from None


def _lines(rows: Iterable[Sequence[str]]) -> bytes:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(rows)
    return sink.getvalue().encode()
