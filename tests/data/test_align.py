"""Alignment against slow loops, known transforms and a drawn face."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep.synthetic import faces
from facerec.data.align import SIZE, TEMPLATE, align, similarity
from facerec.data.images import decode
from facerec.data.shards import DataError
from tests.data_prep.sources import jpeg

Floats = NDArray[np.float64]


def turned(scale: float, degrees: float, x: float, y: float) -> Floats:
    """A similarity (2, 3) by its parts."""
    cos, sin = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return np.array([(cos, -sin, x), (sin, cos, y)])


def moved(matrix: Floats, points: Floats) -> Floats:
    return np.array([matrix[:, :2] @ point + matrix[:, 2] for point in points])


def png(pixels: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def bilinear(pixels: NDArray[np.uint8], x: float, y: float) -> Floats:
    """One sample; centres of pixels at whole numbers, black everywhere beyond them."""
    left, top = math.floor(x), math.floor(y)
    total = np.zeros(3)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]:
            total += (1 - abs(x - column)) * (1 - abs(y - row)) * pixels[row, column]
    return total


@pytest.mark.parametrize("matrix", [turned(0.4, 20, -7, 3), turned(3, -170, 150, 90)])
def test_a_similarity_is_found_again(matrix: Floats) -> None:
    points = moved(matrix, TEMPLATE)
    found = similarity(points)
    np.testing.assert_allclose(moved(found, points), TEMPLATE, atol=1e-9)
    assert np.linalg.det(found[:, :2]) == pytest.approx(np.linalg.det(matrix[:, :2]) ** -1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_least_squares_by_the_normal_equations(mirrored: bool) -> None:
    rng = np.random.default_rng(3)
    points = moved(turned(1.7, 33, 40, 12), TEMPLATE) + rng.normal(0, 4, (5, 2))
    if mirrored:
        points[:, 0] *= -1
    rows, wanted = [], []
    for (x, y), (u, v) in zip(points, TEMPLATE, strict=True):
        rows += [(x, -y, 1, 0), (y, x, 0, 1)]  # u = a x - b y + s, v = b x + a y + t
        wanted += [u, v]
    a, b, s, t = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    found = similarity(points)
    np.testing.assert_allclose(found, [(a, -b, s), (b, a, t)], atol=1e-9)
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("size", [112, 28])
def test_samples_are_those_of_a_slow_loop(size: int) -> None:
    loose = decode(jpeg(5, size=(64, 48), form="PNG"))
    points = moved(turned(0.6, 15, -6, 4), TEMPLATE)  # the corners lie beyond the border
    aligned = decode(align(png(loose), points, size)).astype(int)
    assert aligned.shape == (size, size, 3)
    forth = similarity(points) * (size / 112)
    back = np.linalg.inv(np.vstack([forth, (0, 0, 1)]))
    wanted = np.array(
        [
            [bilinear(loose, *(back @ (column, row, 1))[:2]) for column in range(0, size, 7)]
            for row in range(0, size, 7)
        ]
    )
    off = aligned[::7, ::7] - wanted
    assert np.abs(off).max() < 0.501
    assert (wanted.sum(axis=2) == 0).any()
    assert (wanted > 50).any()


def test_a_face_comes_back_from_a_loose_crop() -> None:
    (face,) = faces(1, 1)
    truth = decode(face.image)
    matrix = turned(1.8, -25, 60, 110)  # from the template into the loose crop
    back = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))
    half = (back[:2, 2] + 0.5) - back[:2, :2].sum(axis=1) / 2
    data = (*back[0, :2], half[0], *back[1, :2], half[1])
    loose = Image.fromarray(truth).transform(
        (320, 300), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC
    )
    aligned = decode(align(png(np.asarray(loose)), moved(matrix, TEMPLATE))).astype(float)
    inner = (slice(8, -8), slice(8, -8))
    off = np.abs(aligned - truth)[inner].mean()
    aside = np.abs(np.roll(aligned, 1, axis=1) - truth)[inner].mean()
    assert off < 2
    assert aside > 1.5 * off


def test_what_is_aligned_stays_as_it_is() -> None:
    image = jpeg(1, size=(SIZE, SIZE))
    assert align(image, TEMPLATE.astype(np.float32)) is image
    assert align(image, TEMPLATE + 0.009) is image
    for points, size in ((TEMPLATE + 0.02, SIZE), (TEMPLATE, 96)):
        other = align(image, points, size)
        assert other[:4] == b"\x89PNG"
        assert decode(other).shape == (size, size, 3)
    larger = align(jpeg(1, size=(SIZE + 8, SIZE)), TEMPLATE)
    assert np.array_equal(decode(larger), decode(jpeg(1, size=(SIZE + 8, SIZE)))[:, :SIZE])


def test_a_flat_colour_is_not_darkened() -> None:
    flat = png(np.full((200, 200, 3), 201, np.uint8))
    aligned = decode(align(flat, moved(turned(1.37, 8, 30, 20), TEMPLATE)))
    assert np.unique(aligned).tolist() == [201]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (TEMPLATE * np.nan, "not all finite"),
        (np.where(TEMPLATE > 92.3, np.inf, TEMPLATE), "not all finite"),
        (np.full((5, 2), 40.5), r"lie at one place, 40\.5 40\.5"),
        (40 + TEMPLATE / 200, "lie at one place"),
        (TEMPLATE * 1e5, r"no face's: they fit the template 1e-05 x"),
    ],
)
def test_points_of_no_face_are_refused(points: Floats, message: str) -> None:
    with pytest.raises(DataError, match=message):
        align(jpeg(0), points)


def test_what_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"points \(4, 2\): \(5, 2\) is wanted"):
        similarity(TEMPLATE[:4])
    with pytest.raises(DataError, match="no readable image"):
        align(b"no image", TEMPLATE + 1)
