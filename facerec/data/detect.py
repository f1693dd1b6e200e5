"""Faces in photographs: what a detector is, and which one is meant.

`mtcnn` is the house's own (`facerec.data.mtcnn`). Any other fits in by the name of a function that
makes it, `MODULE:FUNCTION`; naming one runs its code.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facerec.data.errors import DataError

Pixels = NDArray[np.uint8]

MTCNN = "mtcnn"
CHOICES = ("largest", "centre")


@dataclass(frozen=True)
class Faces:
    """The faces of one image, n of them, in any order; none is n = 0.

    Args:
        boxes: (n, 4): left, top, right, bottom in pixels.
        points: (n, 5, 2): left eye, right eye, nose, left and right corner of the mouth as we see
            them; pixels, x before y, centres of pixels at whole numbers.
        scores: (n,): the detector's confidence, by its own scale.

    Attributes:
        boxes: as above, float32.
        points: as above, float32.
        scores: as above, float32.

    Raises:
        ValueError: other shapes, or numbers that are not finite.
    """

    boxes: NDArray[np.float32]
    points: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        number = len(np.atleast_1d(self.scores))
        wanted = {"boxes": (number, 4), "points": (number, 5, 2), "scores": (number,)}
        for name, shape in wanted.items():
            values = np.asarray(getattr(self, name), np.float32)
            if values.shape != shape:
                raise ValueError(f"{name} of {number} faces are {values.shape}: {shape} is wanted")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} are not all finite numbers")
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> Faces:
        """Those of an image without a face."""
        shapes = (0, 4), (0, 5, 2), (0,)
        return cls(*(np.empty(shape, np.float32) for shape in shapes))


class Detector(Protocol):
    """Finds faces and their five points."""

    def detect(self, images: Sequence[Pixels]) -> list[Faces]:
        """Looks at RGB images (H, W, 3) of any sizes; gives the faces of each, in their order."""


def open_detector(name: str = MTCNN, smallest: int | None = None) -> Detector:
    """A detector by its name.

    Args:
        name: `mtcnn`, or `MODULE:FUNCTION`: an importable module and a function in it, which is
            called without arguments and returns the detector. This runs that module's code.
        smallest: side in pixels of the smallest face that is looked for; for `mtcnn` alone, whose
            default is 20.

    Raises:
        DataError: no such module or function, it fails or gives no detector, it is asked for a
            smallest face, or the weights of `mtcnn` are missing.
    """
    if name == MTCNN:
        from facerec.data.mtcnn import SMALLEST, Mtcnn

        return Mtcnn(smallest=SMALLEST if smallest is None else smallest)
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise DataError(
            f"detector {name!r}: {MTCNN}, or MODULE:FUNCTION such as my_detectors:retinaface"
        )
    if smallest is not None:
        raise DataError(f"a smallest face is for {MTCNN}: {name} decides that itself")
    try:
        detector = getattr(importlib.import_module(module), function)()
    except Exception as error:  # somebody's code can raise anything
        raise DataError(
            f"detector {name}: {type(error).__name__}: {error} (the module is looked for where "
            "Python does: installed, or below PYTHONPATH)"
        ) from error
    if not callable(getattr(detector, "detect", None)):
        raise DataError(f"detector {name}: gave a {type(detector).__name__} without `detect`")
    return Checked(name, detector)


class Checked:
    """Another's detector, whose failures and strange answers become one clear line.

    Args:
        name: for the line.
        detector: whose it is.
    """

    def __init__(self, name: str, detector: Detector) -> None:
        self.name, self.detector = name, detector

    def detect(self, images: Sequence[Pixels]) -> list[Faces]:
        """The detector's faces.

        Raises:
            DataError: it failed, or gave something else than a `Faces` for each image.
        """
        try:
            found = list(self.detector.detect(list(images)))
        except Exception as error:  # somebody's code can raise anything
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"detector {self.name}: {reason}") from error
        if len(found) != len(images) or not all(isinstance(faces, Faces) for faces in found):
            kinds = ", ".join(sorted({type(faces).__name__ for faces in found}))
            raise DataError(
                f"detector {self.name}: {len(found)} answers ({kinds}) for {len(images)} images: a "
                "Faces for each is wanted"
            )
        return found


def choose(faces: Faces, which: str, height: int, width: int) -> int | None:
    """The face that a photograph is of.

    Args:
        faces: those that were found.
        which: `largest`, by the area of the box, or `centre`: the box whose middle is nearest to
            the photograph's.
        height: of the photograph in pixels.
        width: likewise.

    Returns:
        Its number, the earliest of equal ones; None where there is no face.

    Raises:
        ValueError: another choice.
    """
    if which not in CHOICES:
        raise ValueError(f"{which!r}: one of {', '.join(CHOICES)} is wanted")
    if not len(faces):
        return None
    boxes = faces.boxes.astype(np.float64)
    if which == "largest":
        return int(np.argmax((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)))
    off = (boxes[:, :2] + boxes[:, 2:] - (width - 1, height - 1)) / 2
    return int(np.argmin((off**2).sum(axis=1)))
