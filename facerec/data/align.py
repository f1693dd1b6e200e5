"""Alignment: five points of a face onto ArcFace's template, by a similarity.

A similarity turns, scales and shifts, and never mirrors. With a point x + iy as one complex number
it is z -> a z + b, so that the least squares over five points have a solution of one line; the
minimum is the one that Umeyama's method finds (Least-Squares Estimation of Transformation
Parameters Between Two Point Patterns, 1991). Pixels have their centres at whole numbers, as
OpenCV has them.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from facerec.data import images
from facerec.data.errors import DataError

SIZE = 112  # of the image that the template is for
TEMPLATE = np.array(  # left eye, right eye, nose, left and right corner of the mouth, seen by us
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
TEMPLATE.flags.writeable = False
_ALIGNED = 0.01  # pixels from the template, at most: nothing is gained by sampling again
_NEAR = 1.0  # pixels: five points within them are no face
_SMALLEST = 1e-3  # scale: so large a face is in no image


def similarity(points: ArrayLike) -> NDArray[np.float64]:
    """The similarity that brings five points nearest to the template, by least squares.

    Args:
        points: (5, 2), pixels, x before y; in the order of the template.

    Returns:
        (2, 3): of a point p of the image, `m[:, :2] @ p + m[:, 2]` is its place in a 112 x 112 one.

    Raises:
        ValueError: another shape.
        DataError: points that are not finite, lie at one place, or fit no face.
    """
    found = np.asarray(points, np.float64)
    if found.shape != TEMPLATE.shape:
        raise ValueError(f"points {found.shape}: (5, 2) is wanted")
    if not np.isfinite(found).all():
        raise DataError("the five points are not all finite numbers")
    if np.ptp(found, axis=0).max() < _NEAR:
        raise DataError(f"the five points lie at one place, {found[0, 0]:g} {found[0, 1]:g}")
    source, target = (p[:, 0] + 1j * p[:, 1] for p in (found, TEMPLATE))
    spread = source - source.mean()
    factor = np.vdot(spread, target) / np.vdot(spread, spread)
    shift = target.mean() - factor * source.mean()
    if abs(factor) < _SMALLEST:
        raise DataError(f"the five points are no face's: they fit the template {abs(factor):g} x")
    return np.array(
        [
            (factor.real, -factor.imag, shift.real),
            (factor.imag, factor.real, shift.imag),
        ]
    )


def align(image: bytes, points: ArrayLike, size: int = SIZE) -> bytes:
    """Cuts a face out of an image so that its five points lie where the template has them.

    Sampling is bilinear, black beyond the border, as OpenCV's `warpAffine` does it up to rounding.

    Args:
        image: an encoded image.
        points: (5, 2), pixels, x before y; in the order of the template.
        size: width and height of the result in pixels.

    Returns:
        A PNG; the image itself, byte for byte, where it is 112 x 112 (as `size` is) and its points
        lie within 0.01 pixels of the template.

    Raises:
        ValueError: another shape of the points.
        DataError: the image is damaged, or the points are as `similarity` does not take them.
    """
    similarity(points)
    there = bool((np.abs(np.asarray(points) - TEMPLATE) <= _ALIGNED).all())
    if there and size == SIZE and images.size(image) == (SIZE, SIZE):
        return image
    sink = io.BytesIO()
    Image.fromarray(warp(images.decode(image), points, size)).save(sink, "PNG")
    return sink.getvalue()


def warp(pixels: NDArray[np.uint8], points: ArrayLike, size: int = SIZE) -> NDArray[np.uint8]:
    """As `align`, from pixels to pixels.

    Args:
        pixels: (H, W, 3).
        points: (5, 2), pixels, x before y; in the order of the template.
        size: width and height of the result in pixels.

    Returns:
        (size, size, 3).

    Raises:
        ValueError: another shape of the points.
        DataError: points as `similarity` does not take them.
    """
    back = _inverse(similarity(points) * (size / SIZE))
    last = size - 1
    corners = back[:, :2] @ np.array([(0, last, 0, last), (0, 0, last, last)]) + back[:, 2:]
    start = np.clip(np.floor(corners.min(axis=1)) - 1, 0, pixels.shape[1::-1]).astype(int)
    end = np.clip(np.ceil(corners.max(axis=1)) + 2, start, pixels.shape[1::-1]).astype(int)
    # A photograph is many times as large as its face: nothing beyond the square is touched.
    part = pixels[start[1] : end[1], start[0] : end[0]]
    # Pillow has the centres of pixels at halves; and beyond the outermost centre it repeats the
    # border, where OpenCV fades to black: a black rim of one pixel makes it do the same.
    shifted = back[:, 2] - start + 1.5 - back[:, :2].sum(axis=1) / 2
    data = (*back[0, :2], shifted[0], *back[1, :2], shifted[1])
    planes = []
    for plane in np.moveaxis(part, 2, 0):
        rimmed = Image.fromarray(np.pad(plane, 1).astype(np.float32))  # bytes would be cut off
        sampled = rimmed.transform(
            (size, size), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR
        )
        planes.append(np.rint(np.asarray(sampled)).astype(np.uint8))
    return np.stack(planes, axis=2)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])
