"""Drawn faces: a data set that needs no download and shows nobody.

An identity is a point in a space of some forty shapes and colours; an image adds a pose, a light,
an expression, a background, perhaps glasses, a mask, a hand or a hat, and a camera. The two are
drawn from separate random numbers, so that adding identities or images changes none of the others.
What varies, and how hard the set is to learn from, is shown in docs/synthetic.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_prep.drawing import accidents, camera, features, hair
from data_prep.drawing.canvas import Canvas, Plane, Pose, cover
from data_prep.drawing.person import Moment, Person, draw_moment, draw_person, draw_pose
from facerec.data.shards import FaceImage

_PEOPLE, _IMAGES = 0, 1  # branches of the tree of random numbers


def faces(identities: int, images: int, size: int = 112, seed: int = 1) -> Iterator[FaceImage]:
    """Draw faces, identity by identity.

    Identity i is the same whatever `identities` is, image j of it whatever `images` is. The same
    arguments give the same bytes under the same versions of NumPy and Pillow.

    Args:
        identities: How many people.
        images: How many images of each.
        size: Width and height in pixels. Eyes, nose and mouth lie where ArcFace's alignment puts
            them in a 112 x 112 crop, scaled to `size`.
        seed: Seed of people and images.

    Yields:
        JPEG images with identity `synthetic-00042` and key `synthetic-00042/0003`.
    """
    for i in range(identities):
        person = identity(i, seed)
        for j in range(images):
            rng = _generator(seed, _IMAGES, i, j)
            name = f"synthetic-{i:05d}"
            yield FaceImage(_photo(person, rng, size), name, f"{name}/{j:04d}")


def identity(number: int, seed: int = 1) -> Person:
    """Return the person that `faces` draws under a number."""
    return draw_person(_generator(seed, _PEOPLE, number))


def portrait(
    person: Person, pose: Pose, moment: Moment, size: int, rng: np.random.Generator
) -> Plane:
    """Draw a person before a background: (3, size, size) RGB in about [0, 1]."""
    canvas = Canvas.over(person.outline, pose, size)
    accidents.background(canvas, rng)
    _draw(canvas, person, moment)
    return canvas.image


def _photo(person: Person, rng: np.random.Generator, size: int) -> bytes:
    canvas = Canvas.over(person.outline, draw_pose(rng), size)
    moment = draw_moment(rng)
    accidents.background(canvas, rng)
    _draw(canvas, person, moment)
    accidents.put_on(canvas, person, rng)
    return camera.photograph(canvas.image, rng)


def _draw(canvas: Canvas, person: Person, moment: Moment) -> None:
    dark = features.shadow(canvas, moment)
    head = cover(canvas.edge, canvas.pixel)
    hair.behind(canvas, person)
    features.neck_and_ears(canvas, person, moment)
    features.skin(canvas, person, head)
    features.nose(canvas, person, moment)
    features.mouth(canvas, person, moment)
    hair.whiskers(canvas, person)
    for side in (-1.0, 1.0):
        features.eye(canvas, person, moment, side)
    canvas.shade(head * dark)
    for side in (-1.0, 1.0):
        features.brow(canvas, person, moment, side)
    hair.in_front(canvas, person, moment, dark)


def _generator(seed: int, *branch: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=branch))
