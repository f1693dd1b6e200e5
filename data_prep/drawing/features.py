"""The parts of a face: skin, nose, mouth, eyes, brows, ears, and the light that falls on them."""

from __future__ import annotations

import math

import numpy as np

from data_prep.drawing.canvas import DEPTH, Canvas, Colour, Plane, cover, mix, spread
from data_prep.drawing.person import SPOTS, Moment, Person

INK: Colour = (0.13, 0.08, 0.07)
_BLOOD: Colour = (0.30, 0.09, 0.08)
_SKIN_SHADOW: Colour = (0.72, 1.0, 1.0)


def shadow(canvas: Canvas, moment: Moment) -> Plane:
    """Return how dark (h, w) each point of a ball-like head is in the moment's light."""
    right, down, front = moment.light
    facing = np.sqrt(np.maximum(1 - canvas.rho * canvas.rho, 0))
    facing *= 0.5 * front
    facing += canvas.p * (0.5 * right / DEPTH)
    facing += canvas.q * (0.5 * down / 62) + 0.5
    np.clip(facing, 0, 1, out=facing)
    return (1 - moment.ambient) * (1 - facing * facing * (1.5 - 0.5 * facing))


def neck_and_ears(canvas: Canvas, person: Person, moment: Moment) -> None:
    """Paint what the head covers."""
    low = canvas.patch(0, 60, 90, 34)
    p, q = low.p, low.q
    neck = np.maximum(np.abs(p) - 0.6 * person.width - 0.1 * np.maximum(q - 44, 0), 30 - q)
    low.paint(cover(neck, low.pixel), mix(person.skin, _BLOOD, 0.34))
    turn = math.sin(canvas.pose.yaw)
    for side in (-1.0, 1.0):
        middle = side * (person.width + person.ear - 9 * max(0.0, side * turn))
        ear = canvas.patch(middle, 3, 7, 13)
        x, y = (ear.p - middle) / 5.5, (ear.q - 3) / 11
        whole = cover((x * x + y * y - 1) * 3.5, ear.pixel)
        ear.paint(whole, mix(person.skin, (0.75, 0.3, 0.25), 0.18))
        ear.shade(0.35 * spread((ear.p - middle + side) / 4.5, (ear.q - 3) / 8), (0.6, 1, 1))
        ear.shade(whole * shadow(ear, moment))


def skin(canvas: Canvas, person: Person, head: Plane) -> None:
    """Paint the face's relief: rim, cheeks, eye sockets, freckles and moles."""
    rim = np.maximum(canvas.rho - 0.72, 0)
    canvas.paint(head, person.skin)
    canvas.shade(head * np.minimum(rim * rim * 3.2, 0.4), _SKIN_SHADOW)
    for side in (-1.0, 1.0):
        part = canvas.window(side * 23, 15, 15, 12)
        cheek = spread((part.u - side * 23) / 15, (part.v - 15) / 12)
        part.paint(cheek * (0.5 * person.blush) * (part.rho < 1), person.lips)
        part = canvas.window(side * person.eye_u, person.eye_v - 3, 14, 12)
        socket = spread((part.u - side * person.eye_u) / 14, (part.v - person.eye_v + 3) / 12)
        part.shade(socket * (0.16 + 0.1 * person.bags) * (part.rho < 1), _SKIN_SHADOW)
    rows = np.clip((canvas.v + 38) * 2, 0, SPOTS - 1).astype(np.intp)
    columns = np.clip((canvas.u + 48) * 2, 0, SPOTS - 1).astype(np.intp)
    canvas.shade(person.spots.ravel().take(rows * SPOTS + columns) * head, (0.6, 0.95, 1.0))


def nose(canvas: Canvas, person: Person, moment: Moment) -> None:
    """Paint a nose that stands out of the face, so that it leads every turn of the head."""
    lead = person.nose_height * math.sin(canvas.pose.yaw)
    tip = person.nose_v + person.nose_height * math.sin(canvas.pose.pitch)
    bridge = person.eye_v - 4
    part = canvas.window(lead / 2, (tip + bridge) / 2, 24, 0.5 * (tip - bridge) + 12)
    down = (part.v - bridge) / (tip - bridge)  # 0 at the bridge, 1 at the tip
    along = np.clip(down, 0, 1)
    x, y = part.u - lead * along, part.v - tip
    wide, right = person.nose_width, moment.light[0]
    away = -1 if right > 0 else 1  # the side that the light does not reach
    flank = spread((x - away * 0.85 * wide) / (1.2 * wide), (down - 0.6) / 0.62)
    part.shade(flank * (0.1 + 0.22 * abs(right)), _SKIN_SHADOW)
    back = spread(x / (0.35 * wide + 2 + 0.6 * wide * along), (down - 0.62) / 0.62)
    part.paint(back * 0.16, (1.0, 0.93, 0.85))
    part.shade(0.34 * spread(x / (1.15 * wide), (y - 4.5) / 4.5), _SKIN_SHADOW)
    ball = spread(x / (0.62 * wide), (y + 0.5) / 4.6)
    part.paint(ball * 0.5, mix(person.skin, (1.0, 0.72, 0.62), 0.3))
    shine = spread((x - 1.5 * right) / 2.2, (y + 1.5) / 2.6)
    part.paint(shine * 0.42, (1.0, 0.97, 0.93))
    ink = mix(person.skin, _BLOOD, 0.8)
    half = np.abs(x)
    a, b = (half - 0.45 * wide) / (0.24 * wide), (y - 3.0) / 1.25
    part.paint(cover(a * a + b * b - 1, 0.8 * part.pixel) * 0.75, ink)
    a, b = (half - 0.62 * wide) / (0.38 * wide), (y - 0.6) / 3.4
    wing = cover(3 * np.abs(np.sqrt(a * a + b * b) - 1) - 0.25, 1.4 * part.pixel)
    part.paint(wing * np.clip(1.4 * a, 0, 0.45), ink)


def mouth(canvas: Canvas, person: Person, moment: Moment) -> None:
    """Paint lips around a mouth that may smile or stand open."""
    gap = moment.opening
    part = canvas.window(0, person.mouth_v - 1, 38, 16 + gap)
    wide = person.mouth_width * (1 + 0.16 * moment.smile - 0.015 * gap)
    x, y = np.abs(part.u), part.v - person.mouth_v
    t2 = (x / wide) ** 2
    arch, ends = 1 - t2, x - wide
    line = moment.smile * (1.6 - 4.2 * t2)
    top, low = line - 0.2 * gap * arch, line + 0.85 * gap * arch
    bow = np.maximum(0, 1 - x / 3.2) * (0.36 * person.upper_lip)
    upper = top - person.upper_lip * arch * (1.25 - 0.25 * t2) + bow
    lower = low + 1.1 * person.lower_lip * arch
    part.shade(0.22 * spread(x / (0.8 * wide), (y - lower - 3) / 4), _SKIN_SHADOW)
    lips = cover(np.maximum(np.maximum(upper - y, y - lower), ends), part.pixel)
    part.paint(lips * 0.92, person.lips)
    part.shade(lips * cover(y - top, part.pixel) * 0.16)
    shine = spread(x / (0.55 * wide), (y - low - 0.45 * person.lower_lip) / 1.5)
    part.paint(shine * lips * 0.3, (1.0, 0.9, 0.88))
    if gap > 0.7:
        inside = cover(np.maximum(np.maximum(top - y, y - low), ends), part.pixel)
        part.paint(inside, (0.34, 0.07, 0.09))
        tongue = spread(x / (0.7 * wide), (y - low) / (0.6 * gap + 0.5))
        part.paint(inside * tongue, (0.85, 0.42, 0.42))
        teeth = cover(y - top - min(2.6, 0.55 * gap), part.pixel)
        part.paint(inside * teeth, (0.97, 0.96, 0.94))
    else:
        closed = np.maximum(np.abs(y - line) - 0.35 - 0.35 * arch, ends)
        part.paint(cover(closed, part.pixel) * 0.8, mix(person.lips, INK, 0.65))
    part.shade(0.4 * spread(ends / 2.2, (y + 2.6 * moment.smile) / 2.4))
    if moment.smile > 0.25:  # the folds from nose to mouth
        fold = ends - 4.5 + 0.045 * (y + 4) ** 2
        near = spread((ends - 3) / 6, (y + 4) / 10)
        part.shade(cover(np.abs(fold) - 0.3, 1.6) * near * (0.3 * moment.smile))


def eye(canvas: Canvas, person: Person, moment: Moment, side: float) -> None:
    """Paint one eye (side -1 left, 1 right): white, iris, pupil, spark, lashes and lids."""
    part = canvas.window(side * person.eye_u, person.eye_v, 14, 9)
    x = (part.u - side * person.eye_u) * side
    y = part.v - person.eye_v + person.eye_tilt * x
    wide, tall, size = person.eye_width, person.eye_height, person.iris_size
    t = x / wide
    arch, within = 1 - t * t, np.abs(x) - 1.06 * wide
    lower = tall * (0.62 - 0.28 * max(moment.smile, 0.0)) * arch
    upper = -tall * arch * (1.06 - 0.1 * t)
    upper += (lower - upper) * moment.blink
    ball = cover(np.maximum(np.maximum(upper - y, y - lower), within), part.pixel)
    part.paint(ball, (0.95, 0.93, 0.92))
    part.shade(ball * (0.3 * np.maximum(1 - (y - upper) / 3.2, 0) + 0.2 * t * t))
    a, b = x - side * moment.gaze, y + 0.25 * tall
    r = np.sqrt(a * a + b * b)
    iris = cover(r - size, part.pixel) * ball
    part.paint(iris, mix(person.iris, INK, 0.45))
    part.paint(cover(r - 0.82 * size, part.pixel) * ball, person.iris)
    glow = spread(a / size, (b - 0.5 * size) / size) * iris * 0.4
    part.paint(glow, mix(person.iris, (1, 0.95, 0.8), 0.6))
    part.paint(cover(r - 0.46 * size, part.pixel) * ball, (0.04, 0.03, 0.04))
    a, b = x * side - moment.gaze + 0.36 * size, b + 0.36 * size
    part.paint(cover(np.sqrt(a * a + b * b) - 0.28 * size, part.pixel) * ball, (1, 1, 1))
    weight = (0.4 + 0.75 * person.lashes) * (0.75 + 0.35 * t)
    lash = np.maximum(np.abs(y - upper) - weight, within)
    part.paint(cover(lash, part.pixel) * 0.95, mix(INK, person.hair, 0.15))
    wing = np.maximum(np.abs(y + 0.6 * (x - wide)) - 0.5, np.abs(x - wide - 1) - 1.6)
    part.paint(cover(wing, part.pixel) * person.lashes, INK)
    ink = mix(person.skin, _BLOOD, 0.55)
    lid = np.abs(y - upper + person.crease * (0.4 + 0.6 * arch)) - 0.3
    lines = np.minimum(lid, np.abs(y - lower) - 0.25)
    part.paint(cover(np.maximum(lines, within), part.pixel) * 0.58, ink)
    bag = np.maximum(np.abs(y - lower - 2.6) - 0.3, np.abs(x) - 0.7 * wide)
    part.paint(cover(bag, 1.4 * part.pixel) * (0.45 * person.bags), ink)


def brow(canvas: Canvas, person: Person, moment: Moment, side: float) -> None:
    """Paint one eyebrow (side -1 left, 1 right), thick at the nose and thin outside."""
    middle = person.eye_v - person.brow_gap - moment.brow_raise
    part = canvas.window(side * (person.eye_u + 1), middle, 16, 9)
    x = (part.u - side * (person.eye_u + 1)) * side
    t = x / person.brow_length
    y = part.v - middle + person.brow_tilt * x
    half = person.brow_weight * (1 - t**4) * (1.1 - 0.35 * t)
    line = np.abs(y - person.brow_arch * (t * t - 0.45 + 0.25 * t)) - half
    line = np.maximum(line, np.abs(x) - person.brow_length)
    part.paint(cover(line, 1.5 * part.pixel) * 0.9, mix(person.hair, INK, 0.4))
