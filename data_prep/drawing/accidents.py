"""What gets between a face and its picture: background, clothes, glasses, masks, hats, hands."""

from __future__ import annotations

import math

import numpy as np

from data_prep.drawing.canvas import Canvas, Colour, cover, mix, rounded_box, spread, tone
from data_prep.drawing.person import Person

_CLOTHS: tuple[Colour, ...] = (
    (0.16, 0.22, 0.36),
    (0.55, 0.18, 0.20),
    (0.90, 0.88, 0.83),
    (0.20, 0.38, 0.33),
    (0.83, 0.62, 0.22),
    (0.36, 0.30, 0.45),
    (0.12, 0.12, 0.14),
    (0.43, 0.60, 0.74),
)
_PAPER: Colour = (0.95, 0.93, 0.88)
_WHITE: Colour = (1.0, 1.0, 1.0)


def background(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fill the canvas with a gradient, shapes out of focus, and shoulders."""
    axis = np.linspace(-1, 1, canvas.image.shape[1], dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    angle, light = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.7)
    first, second = mix(_cloth(rng), _PAPER, light), mix(_cloth(rng), _PAPER, light)
    way = 0.5 + 0.5 * (x * math.cos(angle) + y * math.sin(angle))
    canvas.image[:] = np.array(first, np.float32)[:, None, None]
    canvas.paint(np.clip(way, 0, 1), second)
    for _ in range(int(rng.integers(1, 5))):
        a, b, size = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.15, 0.6)
        if rng.random() < 0.5:
            shape = np.sqrt((x - a) ** 2 + (y - b) ** 2) - size
        else:
            shape = np.maximum(np.abs(x - a) - 0.4 * size, np.abs(y - b) - 1.6 * size)
        alpha = cover(shape, rng.uniform(0.03, 0.25)) * rng.uniform(0.15, 0.6)
        canvas.paint(alpha, mix(_cloth(rng), _WHITE, light))
    low = canvas.patch(0, 60, 90, 16)
    shoulders = 50 - low.q + 0.12 * np.minimum(np.abs(low.p), 60)
    low.paint(cover(shoulders, 1.5 * low.pixel), _cloth(rng))


def put_on(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    """Hide a part of some faces."""
    eyes, middle = rng.random(), rng.random()
    if eyes < 0.22:
        _glasses(canvas, person, rng, dark=eyes < 0.07)
    if middle < 0.06:
        _mask(canvas, person, rng)
    elif middle < 0.11:
        _hand(canvas, person, rng)
    elif middle < 0.15:
        _bar(canvas, rng)
    if rng.random() < 0.10:
        _hat(canvas, person, rng)


def _cloth(rng: np.random.Generator) -> Colour:
    any_colour = (rng.random(), rng.random(), rng.random())
    return mix(_CLOTHS[int(rng.integers(len(_CLOTHS)))], any_colour, 0.25)


def _glasses(canvas: Canvas, person: Person, rng: np.random.Generator, dark: bool) -> None:
    part = canvas.window(0, person.eye_v, 60, 20)
    u, v = np.abs(part.u), part.v - person.eye_v
    width = min(rng.uniform(11, 14.5), person.eye_u - 2.5)
    height, weight = rng.uniform(8, 11.5), rng.uniform(0.5, 1.5)
    corner = rng.uniform(0.35, 0.98) * min(width, height)
    lens = rounded_box(u - person.eye_u - 0.3, v - 1, width, height, corner)
    frame = mix(_cloth(rng), (0.08, 0.07, 0.08), rng.uniform(0.2, 0.9))
    glass = cover(lens, part.pixel)
    glare = cover(np.abs(part.u + 0.9 * v - rng.uniform(-25, 25)) - 2.5, 3)
    if dark:
        fade = np.clip((v + 10) / 30, 0, 1) * rng.uniform(0, 0.4)
        part.paint(glass * (0.96 - fade), mix(frame, (0.05, 0.05, 0.08), 0.8))
    part.paint(glass * glare * rng.uniform(0, 0.35), _WHITE)
    part.shade(cover(np.abs(lens) - weight - 0.8, 2.5) * (part.rho < 1) * 0.15)
    bridge = np.abs(v + 2 - 0.06 * u * u) - weight
    bridge = np.maximum(bridge, u - (person.eye_u - width + 1))
    arms = np.maximum(np.abs(v + 2) - weight, person.eye_u + width - u)
    lines = np.minimum(np.minimum(np.abs(lens) - weight, bridge), np.maximum(arms, part.edge))
    part.paint(cover(lines, part.pixel) * 0.95, frame)


def _mask(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    colour = mix((0.55, 0.74, 0.85), _cloth(rng), rng.uniform(0, 1))
    u, v, wide = np.abs(canvas.u), canvas.v, 0.88 * person.width
    top = person.nose_v - rng.uniform(7, 12) + (16 if rng.random() < 0.2 else 0)  # or too low
    upper, lower = top + 0.006 * u * u, person.mouth_v + 17 - 0.004 * u * u
    shape = np.maximum(np.maximum(upper - v, v - lower), np.maximum(canvas.edge - 1, u - wide))
    for start, slope in ((upper + 2, 0.5), (lower - 4, -0.25)):
        string = np.maximum(np.abs(v - start - slope * (wide - u)) - 0.5, wide - 3 - u)
        string = np.maximum(string, canvas.edge)
        canvas.paint(cover(string, canvas.pixel), mix(colour, _WHITE, 0.5))
    cloth = cover(shape, canvas.pixel)
    canvas.shade(cover(shape - 1.2, 3) * (canvas.rho < 1) * 0.25)
    canvas.paint(cloth, tone(colour, 0.75 + 0.3 * np.maximum(1 - (0.8 * u / wide) ** 2, 0)))
    for fold in (7.0, 13.0, 19.0):
        line = np.abs(v - upper - fold - 0.004 * u * u) - 0.3
        canvas.shade(cloth * cover(line, 1.6) * 0.22, (1.0, 1.0, 0.9))


def _hat(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    colour, u, v = _cloth(rng), canvas.u, canvas.v
    rim = person.eye_v - person.brow_gap - rng.uniform(5, 12) - 0.004 * u * u * rng.uniform(-1, 1)
    body = cover(np.maximum(canvas.edge - 7, v - rim), canvas.pixel)
    canvas.shade(cover(v - rim - 4, 6) * (canvas.rho < 1) * (0.45 - 0.45 * body))
    light = np.clip(1.12 - 0.5 * (canvas.p / 60) ** 2 + canvas.q * 0.003, 0.4, 1.2)
    canvas.paint(body, tone(colour, light))
    if rng.random() < 0.6:  # wool, with a cuff
        cuff = np.maximum(np.maximum(canvas.edge - 8.5, v - rim - 1), rim - 12 - v)
        knit = (0.9 + 0.2 * np.abs((u * 0.42) % 2 - 1)) * light
        canvas.paint(cover(cuff, canvas.pixel), tone(mix(colour, _WHITE, 0.12), knit))
        canvas.shade(cover(np.abs(v - rim + 12.5) - 0.4, 2) * body * 0.3)
    else:  # a cap, with a peak
        peak = (u / (0.95 * person.width)) ** 2 + ((v - rim + 1) / 8.0) ** 2 - 1
        canvas.paint(cover(peak * 4, canvas.pixel), mix(colour, (0, 0, 0), 0.25))
        canvas.shade(spread(u / 40, (v - rim - 4) / 4) * 0.25)


def _hand(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    side = 1.0 if rng.random() < 0.5 else -1.0
    lean = rng.uniform(-0.5, 0.9)
    cos, sin = math.cos(lean), math.sin(lean)
    x, y = canvas.p * side - rng.uniform(4, 34), canvas.q - rng.uniform(8, 44)
    a, b = x * cos + y * sin, y * cos - x * sin
    colour = mix(person.skin, (0.95, 0.6, 0.5), 0.12)
    for finger, reach in enumerate((0.0, -5.0, -4.0, 3.0)):
        off, back = b - (finger - 1.5) * 9.6, np.minimum(a - reach - 6, 0)
        shape = np.sqrt(back * back + off * off) - 5.0
        skin = cover(shape, canvas.pixel)
        canvas.shade(cover(shape - 1.5, 4) * 0.3)
        canvas.paint(skin, colour)
        canvas.shade(skin * (0.11 + 0.022 * off), (0.7, 1.0, 1.0))
        nail = rounded_box(a - reach - 4.6, off, 2.4, 2.2, 1.8)
        canvas.paint(cover(nail, canvas.pixel) * 0.5, (0.98, 0.82, 0.78))


def _bar(canvas: Canvas, rng: np.random.Generator) -> None:
    angle = rng.uniform(-0.6, 0.6) + (math.pi / 2 if rng.random() < 0.5 else 0)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = canvas.p - rng.uniform(-40, 40), canvas.q - rng.uniform(-20, 50)
    length, width, colour = rng.uniform(30, 80), rng.uniform(5, 13), _cloth(rng)
    shape = rounded_box(x * cos + y * sin, y * cos - x * sin, length, width, 3)
    canvas.shade(cover(shape - 2, 5) * 0.3)
    canvas.paint(cover(shape, canvas.pixel), colour)
    canvas.paint(cover(np.abs(shape + 2.5) - 0.5, canvas.pixel) * 0.5, mix(colour, _WHITE, 0.5))
