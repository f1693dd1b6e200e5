"""Photographs to aligned faces: decoded upright, detected together, cut out one by one."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from facerec.data import images
from facerec.data.align import SIZE, warp
from facerec.data.detect import Detector, Pixels, choose
from facerec.data.errors import DataError

TOGETHER = 16  # photographs that a detector is given at once
_PIXELS = 1 << 23  # of them together, where there is more than one
_ORIENTATION = 0x0112  # EXIF
NO_FACE, DAMAGED = "no face", "damaged"
# What a viewer does with an orientation mark: turns by 90 degrees to the left, then mirroring.
_TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one photograph.

    Attributes:
        face: (size, size, 3), aligned; None where there is none.
        faces: how many were found; None where nothing was looked for.
        box: (4,), left, top, right, bottom in pixels of the upright photograph, of a detected face.
        points: (5, 2), by which it was aligned.
        score: the detector's.
        status: empty where all is well, `no face`, or `damaged`.
        reason: a sentence where it is not.
    """

    face: Pixels | None = None
    faces: int | None = None
    box: NDArray[np.float64] | None = None
    points: NDArray[np.float64] | None = None
    score: float | None = None
    status: str = ""
    reason: str = ""


def cut_out(
    photographs: Sequence[bytes],
    detector: Detector,
    *,
    which: str = "largest",
    size: int = SIZE,
) -> Iterator[Outcome]:
    """Detects and aligns the face of each photograph, in their order.

    Points are rounded to a thousandth of a pixel before: who aligns by points that were written
    down gets the same face again.

    Args:
        photographs: encoded.
        detector: what finds faces; it is given up to 16 photographs at once, fewer large ones.
        which: of several faces, see `choose`.
        size: width and height of the faces in pixels.

    Raises:
        DataError: the detector failed.
    """
    waiting: list[Pixels | Outcome] = []
    pixels = 0
    for data in photographs:
        try:
            one: Pixels | Outcome = upright(data)
        except DataError as error:
            one = Outcome(status=DAMAGED, reason=error.reason)
        more = 0 if isinstance(one, Outcome) else one[..., 0].size
        if len(waiting) == TOGETHER or (waiting and pixels + more > _PIXELS):
            yield from _detected(waiting, detector, which, size)
            waiting, pixels = [], 0
        waiting.append(one)
        pixels += more
    yield from _detected(waiting, detector, which, size)


def cut_by(photograph: bytes, points: ArrayLike, size: int = SIZE) -> Outcome:
    """Aligns a photograph by points that are known.

    Args:
        photograph: encoded.
        points: (5, 2), pixels of the upright photograph.
        size: width and height of the face in pixels.
    """
    try:
        own = _written(points)
        return Outcome(face=warp(upright(photograph), own, size), points=own)
    except DataError as error:
        return Outcome(status=DAMAGED, reason=error.reason)


def upright(photograph: bytes) -> Pixels:
    """RGB pixels (H, W, 3), turned as the photograph's orientation mark (EXIF) says.

    Raises:
        DataError: as `facerec.data.images.decode`.
    """
    pixels = images.decode(photograph)
    try:
        with Image.open(io.BytesIO(photograph)) as image:
            mark = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF: Pillow raises a dozen kinds, and the pixels are good
        mark = 1
    turns, mirrored = _TURNS.get(mark, (0, False))
    turned = np.rot90(pixels, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def encode(face: Pixels, jpeg: int | None = None) -> bytes:
    """A PNG; with a quality, 1 to 100, a JPEG whose colours are as fine as its light."""
    sink = io.BytesIO()
    if jpeg is None:
        Image.fromarray(face).save(sink, "PNG")
    else:
        Image.fromarray(face).save(sink, "JPEG", quality=jpeg, subsampling=0)
    return sink.getvalue()


def _detected(
    waiting: Sequence[Pixels | Outcome], detector: Detector, which: str, size: int
) -> Iterator[Outcome]:
    good = [one for one in waiting if not isinstance(one, Outcome)]
    found = iter(detector.detect(good) if good else [])
    for one in waiting:
        if isinstance(one, Outcome):
            yield one
            continue
        faces = next(found)
        chosen = choose(faces, which, *one.shape[:2])
        if chosen is None:
            where = f"the detector found no face in {one.shape[1]} x {one.shape[0]} pixels"
            yield Outcome(faces=0, status=NO_FACE, reason=where)
            continue
        points = _written(faces.points[chosen])
        known = Outcome(
            faces=len(faces),
            box=faces.boxes[chosen].astype(np.float64),
            points=points,
            score=float(faces.scores[chosen]),
        )
        try:
            yield replace(known, face=warp(one, points, size))
        except DataError as error:
            yield replace(known, status=DAMAGED, reason=error.reason)


def _written(points: ArrayLike) -> NDArray[np.float64]:
    """Points as a table has them."""
    return np.asarray(np.round(np.asarray(points, np.float64), 3), np.float64)
