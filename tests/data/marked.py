"""Photographs whose five points are spots of colour on grey, and a detector that knows them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facerec.data.align import TEMPLATE
from facerec.data.detect import Faces, Pixels

MARKS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (250, 250, 20), (250, 20, 250)]
_RADIUS = 5


def encoded(pixels: Pixels, mark: int = 1) -> bytes:
    """A PNG, with an orientation mark."""
    exif, sink = Image.Exif(), io.BytesIO()
    exif[0x0112] = mark
    Image.fromarray(pixels).save(sink, "PNG", exif=exif)
    return sink.getvalue()


def places(seed: int) -> NDArray[np.float64]:
    """Where the five spots are: the template turned, enlarged and moved, in whole pixels."""
    rng = np.random.default_rng(seed)
    turn, scale = math.radians(rng.uniform(-15, 15)), rng.uniform(1, 1.4)
    matrix = scale * np.array([(math.cos(turn), -math.sin(turn)), (math.sin(turn), math.cos(turn))])
    return np.rint((TEMPLATE - TEMPLATE.mean(axis=0)) @ matrix.T + (90, 70) + rng.uniform(0, 9, 2))


def pixels(seed: int) -> Pixels:
    """A photograph of 180 x 150 pixels."""
    rng = np.random.default_rng([seed, 1])
    image = rng.integers(90, 160, (150, 180, 1), dtype=np.uint8).repeat(3, axis=2)
    for (x, y), colour in zip(places(seed).astype(int), MARKS, strict=True):
        image[y - _RADIUS : y + _RADIUS + 1, x - _RADIUS : x + _RADIUS + 1] = colour
    return image


def photograph(seed: int) -> bytes:
    """The same as a file."""
    return encoded(pixels(seed))


class Marked:
    """Finds the spots; a detector as a user may have it."""

    def detect(self, images: Sequence[Pixels]) -> list[Faces]:
        return [_look(image) for image in images]


def _look(image: Pixels) -> Faces:
    found = []
    for colour in MARKS:
        y, x = np.nonzero((np.abs(image.astype(int) - colour) < 30).all(axis=2))
        if not len(x):
            return Faces.none()
        found.append((x.mean(), y.mean()))
    points = np.array([found], np.float32)
    box = np.concatenate([points[0].min(axis=0) - 20, points[0].max(axis=0) + 20])
    return Faces(box[None], points, np.array([0.5], np.float32))
