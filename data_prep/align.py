"""`python -m data_prep align`: photographs to aligned faces, as `data_prep folder` takes them.

Several processes each take 16 photographs at a time, so that the detector sees them together. What
is done is written down as it comes; a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.align_work import Photograph, Work, each
from data_prep.aligned import (
    ALIGNED,
    TABLE,
    Journal,
    Row,
    contact_sheet,
    places,
    read_points,
    read_rows,
    write_rows,
)
from data_prep.screen import Screen
from facerec.data.detect import CHOICES, MTCNN
from facerec.data.errors import DataError
from facerec.data.folder import images_in
from facerec.data.photographs import NO_FACE, TOGETHER
from facerec.data.writer import sha256, write_bytes, write_json

SHEET, WITHOUT, BEGUN = "contact_sheet.png", "without_a_face.txt", "align.json"
SMALLEST = 12  # pixels: what P-Net sees
_LEFT_OUT = 3  # exit status


def add(commands: Any) -> None:
    """Adds the command `align`."""
    command = commands.add_parser(
        "align",
        help="find, align and cut out the faces of photographs",
        description="Finds the face in each photograph below SRC and writes it below DST, aligned, "
        f"112 x 112 pixels, under the same path. Beside them: {TABLE}, {WITHOUT}, {SHEET}. The "
        "same command again continues, and takes up new photographs. python -m data_prep folder "
        "DST goes on from there.",
    )
    command.add_argument("src", type=Path, metavar="SRC", help="folder of folders of photographs")
    command.add_argument("dst", type=Path, metavar="DST", help="folder of the aligned faces")
    command.add_argument(
        "--detector",
        default=MTCNN,
        metavar="NAME",
        help=f"{MTCNN}, whose weights make detect brings, or MODULE:FUNCTION, which gives a "
        "detector of yours; this runs that module's code (default: %(default)s)",
    )
    command.add_argument(
        "--landmarks",
        type=Path,
        metavar="FILE",
        help="CSV of path,x1,y1,...,x5,y5, paths below SRC: nothing is detected",
    )
    command.add_argument(
        "--processes",
        type=_whole(1),
        default=os.cpu_count() or 1,
        metavar="N",
        help="each with one thread (default: the cores, %(default)s)",
    )
    command.add_argument(
        "--min-face",
        type=_whole(SMALLEST),
        metavar="PIXELS",
        help=f"smallest face that {MTCNN} looks for; larger is faster (default: 20)",
    )
    command.add_argument(
        "--face",
        choices=CHOICES,
        default=CHOICES[0],
        help="which of several faces in a photograph (default: %(default)s)",
    )
    command.add_argument(
        "--jpeg",
        type=_whole(1, 100),
        metavar="QUALITY",
        help="write JPEGs; 95 is a good quality (default: PNG, without loss)",
    )
    command.add_argument(
        "--seed", type=_whole(0), default=1, metavar="N", help=f"of {SHEET} (default: %(default)s)"
    )
    command.add_argument(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="what a photograph without a face, or a damaged one, does: end the run, or be left "
        "out (default: fail)",
    )


def run(options: argparse.Namespace) -> int:
    """Aligns; gives 0, or 3 where photographs were left out."""
    source, folder = options.src.resolve(), options.dst.resolve()
    if not source.is_dir():
        raise DataError(f"{options.src}: no such folder; it should hold folders of photographs")
    if folder == source or source in folder.parents or folder in source.parents:
        raise DataError(f"{options.dst}: DST must lie outside of SRC, and SRC outside of DST")
    listed: Path | None = options.landmarks
    if listed is not None and (options.detector != MTCNN or options.min_face):
        raise DataError("--landmarks detects nothing: --detector and --min-face do not go with it")
    work = Work(
        source,
        folder,
        options.detector,
        options.min_face,
        options.face,
        options.jpeg,
        None if listed is None else listed.name,
    )
    points = {} if listed is None else read_points(listed)
    work.open()  # a mistake is said before anything is made
    paths = [path.relative_to(source) for path in images_in(source)]
    with _claim(folder), Screen() as screen:
        _compare(folder, _said(work, listed))
        known = read_rows(folder)
        pairs = list(places(paths, ".jpg" if options.jpeg else ".png", known))
        beyond = sorted(points.keys() - {name for name, _ in pairs})
        if beyond:
            screen.warn(f"{listed}: {len(beyond)} of its paths are not in SRC, such as {beyond[0]}")
        skip = options.on_error == "skip"
        known = {name: one for name, one in known.items() if _done(one, folder, skip)}
        todo = [Photograph(*pair, points.get(pair[0])) for pair in pairs if pair[0] not in known]
        screen.start("aligning", len(todo))
        tasks = (todo[at : at + TOGETHER] for at in range(0, len(todo), TOGETHER))
        done = each(work, tasks, min(options.processes, -(-len(todo) // TOGETHER) or 1))
        with contextlib.closing(done), contextlib.closing(Journal(folder)) as journal:
            for rows in done:
                bad = [one for one in rows if one.status != ALIGNED and not skip]
                journal.append(one for one in rows if one not in bad)
                if bad:
                    reason = f"{bad[0].reason}; --on-error skip leaves such out"
                    raise DataError(reason, key=bad[0].path)
                known |= {one.path: one for one in rows}
                screen.advance(len(rows))
        every = [known[name] for name in sorted(known)]
        write_rows(folder, every)
        alone = [f"{one.path}\n" for one in every if one.status == NO_FACE]
        write_bytes(folder / WITHOUT, "".join(alone).encode())
        write_bytes(folder / SHEET, contact_sheet(folder, every, options.seed))
    return _summary(options.dst, every, len(todo))


def _summary(folder: Path, rows: list[Row], new: int) -> int:
    counts = Counter(one.status for one in rows)
    state = f"{new} photographs done now" if new else "already aligned"
    print(f"{folder}: {counts[ALIGNED]} aligned faces; {state}; {SHEET} shows some of them")
    left = len(rows) - counts[ALIGNED]
    if not left:
        return 0
    reasons = ", ".join(
        f"{counts[status]} {status}" for status in sorted(counts.keys() - {ALIGNED})
    )
    print(f"{left} of {len(rows)} photographs left out ({reasons}): {folder / TABLE} says which")
    return _LEFT_OUT


def _said(work: Work, landmarks: Path | None) -> dict[str, Any]:
    """What the faces depend on."""
    return {
        "source": work.source.name,
        "detector": None if landmarks else work.detector,
        "landmarks": None if landmarks is None else sha256(landmarks)[:16],
        "min_face": work.smallest,
        "face": work.which,
        "jpeg": work.jpeg,
    }


def _done(one: Row, folder: Path, skip: bool) -> bool:
    """Whether a photograph need not be done again; one that failed is, unless it is skipped."""
    return (folder / one.file).is_file() if one.status == ALIGNED else skip


def _compare(folder: Path, said: Mapping[str, Any]) -> None:
    """Notes down what the faces depend on, or compares it with what was noted.

    Raises:
        DataError: the folder holds something else, or was begun otherwise.
    """
    try:
        old = json.loads((folder / BEGUN).read_text(encoding="utf-8"))
        changed = [
            f"{key} was {old.get(key)!r} and is {value!r}"
            for key, value in said.items()
            if old.get(key) != value
        ]
    except FileNotFoundError:
        if any(path.name != f"{BEGUN}.part" for path in folder.iterdir()):
            raise DataError(
                f"{folder} is not empty and holds no aligned faces: name another folder"
            ) from None
        write_json(folder / BEGUN, said)
        return
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{folder / BEGUN} is damaged: delete the folder") from error
    if changed:
        raise DataError(
            f"{folder} holds faces that were aligned otherwise: {', '.join(changed)}; delete it or "
            "name another folder"
        )


@contextlib.contextmanager
def _claim(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no such lock
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"another data_prep align writes to {folder}") from None
        yield
    finally:
        os.close(handle)


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option: a whole number within limits."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            limit = f"from {least}" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number {limit}")
        return int(text)

    return read
