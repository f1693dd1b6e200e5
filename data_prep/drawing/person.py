"""Who is drawn, and what one image adds to it: all the numbers, and how they are chosen.

An identity is a point in a continuous space: every length, angle and colour is drawn around a
common middle, so that some people look much like others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data_prep.drawing.canvas import Colour, Plane, Pose, mix, outline, ramp

SPOTS = 192  # side of the plane of freckles and moles, two cells per pixel of the crop

_SKINS: tuple[Colour, ...] = (
    (1.00, 0.88, 0.79),
    (0.96, 0.79, 0.66),
    (0.89, 0.68, 0.51),
    (0.75, 0.52, 0.36),
    (0.56, 0.37, 0.25),
    (0.38, 0.25, 0.18),
)
_HAIRS: tuple[Colour, ...] = (
    (0.12, 0.10, 0.11),
    (0.24, 0.15, 0.11),
    (0.42, 0.26, 0.16),
    (0.62, 0.44, 0.25),
    (0.87, 0.72, 0.46),
)
_IRISES: tuple[Colour, ...] = (
    (0.25, 0.15, 0.09),
    (0.42, 0.26, 0.12),
    (0.52, 0.43, 0.20),
    (0.36, 0.52, 0.36),
    (0.34, 0.55, 0.74),
)
_ROSE: Colour = (0.95, 0.55, 0.50)
_OLIVE: Colour = (0.80, 0.70, 0.40)
_GINGER: Colour = (0.62, 0.25, 0.10)
_GREY: Colour = (0.78, 0.77, 0.76)
_RED: Colour = (0.72, 0.22, 0.22)


@dataclass(frozen=True)
class Person:
    """What all images of an identity share. Lengths are pixels of a 112 x 112 crop.

    `outline` are the head's radii (`canvas.outline`), `spots` (192, 192) is the darkness of
    freckles and moles over the face, `strands` (256,) the brightness across the hair's strands.
    `length` is how far down long hair falls, 0 for short hair, whose sides end at `sideburn`;
    `hairline` and `sideburn` are heights v; `opening` is the share of the head's width that the
    hair leaves free; beard, moustache, blush, bags and lashes are strengths from 0 to 1.
    """

    outline: Plane
    spots: Plane
    strands: Plane
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    width: float
    eye_u: float
    eye_v: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    iris_size: float
    crease: float
    lashes: float
    bags: float
    brow_gap: float
    brow_length: float
    brow_weight: float
    brow_arch: float
    brow_tilt: float
    nose_width: float
    nose_v: float
    nose_height: float
    mouth_v: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    ear: float
    blush: float
    beard: float
    moustache: float
    hairline: float
    parting: float
    sweep: float
    ragged: float
    opening: float
    sideburn: float
    volume: float
    length: float
    curl: float


@dataclass(frozen=True)
class Moment:
    """What one image adds: expression and light."""

    smile: float = 0.2  # -0.4 sad to 1
    opening: float = 0.0  # of the mouth, pixels
    blink: float = 0.0  # share of the eye that the lid covers
    brow_raise: float = 0.0  # pixels
    gaze: float = 0.0  # pixels
    hair_shift: float = 0.0  # how today's hair falls, pixels
    light: Colour = (0.0, -0.5, 0.85)  # a unit vector: right, down, towards the viewer
    ambient: float = 0.7  # share of the light that comes from everywhere


def draw_person(rng: np.random.Generator) -> Person:
    """Choose an identity."""

    def near(middle: float, deviation: float) -> float:
        return middle + 1.25 * deviation * min(max(rng.standard_normal(), -2.2), 2.2)

    manly, age = rng.random(), rng.random()
    long = rng.random() < 1.1 - 1.3 * manly
    fringe = rng.random() < 0.35
    dark = float(rng.beta(1.2, 1.5))
    skin = ramp(_SKINS, dark)
    skin = mix(skin, _ROSE if rng.random() < 0.5 else _OLIVE, 0.1 * rng.random())
    hair = ramp(_HAIRS, rng.beta(1.0, 1.0 + 3.5 * dark))
    hair = mix(hair, _GINGER, max(0.0, rng.uniform(-1.2, 0.8)) * (1 - dark))
    hair = mix(hair, _GREY, max(0.0, 4.5 * (age - 0.82)))
    lips = mix(skin, _RED, rng.uniform(0.32, 0.55))
    width = near(41.5, 2.4)
    return Person(
        outline=outline(
            width,
            top=near(66, 2),
            bottom=near(55, 2.8),
            jaw=near(0.86, 0.1),
            taper=max(near(0.12, 0.06), 0.0),
        ),
        spots=_spots(rng),
        strands=_strands(rng),
        skin=skin,
        hair=hair,
        iris=ramp(_IRISES, rng.beta(0.9, 1 + 3 * dark)),
        lips=mix(lips, (0.75, 0.12, 0.2), max(0.0, 0.5 - manly) * rng.random()),
        width=width,
        eye_u=near(17.5, 1.0),
        eye_v=near(-6.4, 0.9),
        eye_width=near(9.0, 0.65),
        eye_height=near(4.7, 0.6),
        eye_tilt=near(0.06, 0.07),
        iris_size=near(4.5, 0.25),
        crease=near(2.2, 0.7),
        lashes=(1 - manly) * rng.uniform(0.3, 1),
        bags=rng.random() ** 2,
        brow_gap=near(9.6, 1.1),
        brow_length=near(9.6, 0.9),
        brow_weight=near(1.35 + 0.7 * manly, 0.35),
        brow_arch=near(2.6, 1.2),
        brow_tilt=near(0.0, 0.065),
        nose_width=near(7.4, 1.0),
        nose_v=near(13, 1.5),
        nose_height=near(9, 2),
        mouth_v=near(34, 1.3),
        mouth_width=near(12.6, 1.3),
        upper_lip=near(2.4, 0.6),
        lower_lip=near(3.3, 0.7),
        ear=near(0.5, 1.2),
        blush=rng.random() * (1 - 0.5 * manly),
        beard=_whiskers(rng, manly),
        moustache=_whiskers(rng, manly),
        hairline=near(-39 if fringe else -47, 4),
        parting=near(0, 14),
        sweep=abs(near(0.12 if fringe else 0.25, 0.15)),
        ragged=rng.uniform(2, 9) if fringe else rng.uniform(1, 4),
        opening=near(0.92, 0.04) if long else near(0.96, 0.03),
        sideburn=rng.uniform(-6, 12),
        volume=near(9, 3),
        length=rng.uniform(20, 70) if long else 0.0,
        curl=float(rng.beta(0.8, 1.6)),
    )


def draw_moment(rng: np.random.Generator) -> Moment:
    """Choose an expression and a light."""
    around, aside = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.97)
    below = rng.random() < 0.15
    down = aside * math.sin(around)
    return Moment(
        smile=rng.uniform(-0.35, 1.0),
        opening=max(0.0, rng.uniform(-8, 7.5)),
        blink=1.0 if rng.random() < 0.06 else max(0.0, rng.normal(0.05, 0.14)),
        brow_raise=rng.normal(0, 0.9),
        gaze=rng.normal(0, 0.9),
        hair_shift=rng.normal(0, 1.6),
        light=(aside * math.cos(around), down if below else -abs(down), math.sqrt(1 - aside**2)),
        ambient=rng.uniform(0.35, 0.95),
    )


def draw_pose(rng: np.random.Generator) -> Pose:
    """Choose how the head stands, and how well the crop is aligned."""
    return Pose(
        yaw=min(max(rng.normal(0, 0.2), -0.5), 0.5),
        pitch=min(max(rng.normal(0, 0.12), -0.3), 0.3),
        roll=rng.normal(0, 0.06),
        scale=1 + rng.normal(0, 0.03),
        x=rng.normal(0, 1.5),
        y=rng.normal(0, 1.5),
    )


def _whiskers(rng: np.random.Generator, manly: float) -> float:
    grown = rng.random() < 0.5 and manly > 0.55
    return 0.55 + 0.4 * rng.random() if grown else 0.0


def _strands(rng: np.random.Generator) -> Plane:
    """Return noise around 0, of fine and of broad strands, that joins its ends."""
    noise = rng.standard_normal(256)
    fine, broad = (sum(np.roll(noise, i) for i in range(n)) / math.sqrt(n) for n in (3, 9))
    return np.clip(0.1 * fine + 0.1 * broad, -0.5, 0.5).astype(np.float32)


def _spots(rng: np.random.Generator) -> Plane:
    spots = np.zeros((SPOTS, SPOTS), np.float32)
    for _ in range(int(70 * max(0.0, rng.uniform(-1.4, 1.0)))):  # freckles
        x, y = rng.normal(96, 36), rng.normal(92, 14)
        _dot(spots, x, y, rng.uniform(0.9, 1.8), rng.uniform(0.1, 0.26))
    for _ in range(int(rng.integers(0, 4))):  # moles
        _dot(spots, rng.uniform(36, 156), rng.uniform(54, 170), rng.uniform(1.5, 2.6), 0.6)
    return spots


def _dot(plane: Plane, x: float, y: float, radius: float, depth: float) -> None:
    rows = np.arange(max(int(y) - 4, 0), min(int(y) + 5, SPOTS))[:, None]
    columns = np.arange(max(int(x) - 4, 0), min(int(x) + 5, SPOTS))
    distance = np.sqrt((columns - x) ** 2 + (rows - y) ** 2)
    dot = depth * np.clip(radius + 0.5 - distance, 0, 1)
    plane[rows, columns] = np.maximum(plane[rows, columns], dot)
