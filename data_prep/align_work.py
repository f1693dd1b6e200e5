"""Aligning by several processes, in the order of the photographs."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.aligned import Row, row
from facerec.data.detect import Detector, open_detector
from facerec.data.errors import DataError
from facerec.data.photographs import DAMAGED, NO_FACE, Outcome, cut_by, cut_out, encode
from facerec.data.writer import write_bytes

_AHEAD = 2  # tasks per process that wait or run
_state: list[Work] = []  # of a process of the pool: what it was started with, and its detector
_detectors: list[Detector | None] = []


class Photograph(NamedTuple):
    """One that is to be done.

    Attributes:
        path: below the source.
        file: of its face, below the destination.
        points: (5, 2) where they are known.
    """

    path: str
    file: str
    points: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Work:
    """What a process needs to know.

    Attributes:
        source: folder of the photographs.
        folder: of the faces.
        detector: its name, see `open_detector`.
        smallest: face in pixels, likewise.
        which: of several faces, see `choose`.
        jpeg: quality; None for PNG.
        landmarks: name of the file that points come from; None: they are detected.
    """

    source: Path
    folder: Path
    detector: str
    smallest: int | None
    which: str
    jpeg: int | None
    landmarks: str | None

    def open(self) -> Detector | None:
        """The detector; None where points are known.

        Raises:
            DataError: as `open_detector`.
        """
        return None if self.landmarks else open_detector(self.detector, self.smallest)


def each(
    work: Work, tasks: Iterable[list[Photograph]], processes: int
) -> Generator[list[Row], None, None]:
    """The rows of each task, in order, their faces written; one process is this one.

    Raises:
        DataError: the detector failed, or a process died.
        OSError: a face cannot be written.
    """
    if processes == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            detector = work.open()
            for task in tasks:
                yield do(work, detector, task)
        finally:
            torch.set_num_threads(threads)
        return
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_start, initargs=(work,)
    )
    try:
        running: deque[Future[list[Row]]] = deque()
        for task in tasks:
            running.append(pool.submit(_do, task))
            if len(running) == _AHEAD * processes:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "a process ended by itself, most likely for want of memory: fewer --processes need "
            "less; the same command again continues"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def do(work: Work, detector: Detector | None, task: list[Photograph]) -> list[Row]:
    """Aligns some photographs and writes their faces.

    Args:
        work: how.
        detector: None where points are known.
        task: the photographs.
    """
    rows = []
    for photograph, outcome in zip(task, _outcomes(work, detector, task), strict=True):
        if outcome.face is not None:
            place = work.folder / photograph.file
            place.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(place, encode(outcome.face, work.jpeg))
        rows.append(row(photograph.path, photograph.file, outcome))
    return rows


def _outcomes(work: Work, detector: Detector | None, task: list[Photograph]) -> list[Outcome]:
    read = [_read(work.source / photograph.path) for photograph in task]
    if detector is None:
        return [
            _by_points(work, one, data) if isinstance(data, bytes) else data
            for one, data in zip(task, read, strict=True)
        ]
    found = cut_out([one for one in read if isinstance(one, bytes)], detector, which=work.which)
    return [next(found) if isinstance(one, bytes) else one for one in read]


def _by_points(work: Work, photograph: Photograph, data: bytes) -> Outcome:
    if photograph.points is None:
        return Outcome(status=NO_FACE, reason=f"{work.landmarks} has no points of it")
    return cut_by(data, photograph.points)


def _read(path: Path) -> bytes | Outcome:
    try:
        return path.read_bytes()
    except OSError as error:
        return Outcome(status=DAMAGED, reason=f"it cannot be read: {error.strerror}")


def _start(work: Work) -> None:
    """A process of the pool begins: one thread, Ctrl-C is its parent's, and it dies with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_follow, daemon=True).start()
    _state.append(work)


def _do(task: list[Photograph]) -> list[Row]:
    if not _detectors:  # here and not at the start, where an error would break the pool
        _detectors.append(_state[0].open())
    return do(_state[0], _detectors[0], task)


def _follow() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # it was killed: nobody would ask for the results, or end this process
