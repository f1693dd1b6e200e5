"""Hair, long or short, straight or curly, and beards."""

from __future__ import annotations

import numpy as np

from data_prep.drawing.canvas import (
    Canvas,
    Plane,
    cover,
    mix,
    rounded_box,
    rounded_corner,
    spread,
    tone,
)
from data_prep.drawing.features import INK
from data_prep.drawing.person import Moment, Person


def behind(canvas: Canvas, person: Person) -> None:
    """Paint the part of long hair that lies behind the neck."""
    if person.length > 0:
        dark = mix(person.hair, (0.05, 0.03, 0.05), 0.4)
        canvas.paint(cover(_fall(canvas, person), 1.5 * canvas.pixel), dark)


def in_front(canvas: Canvas, person: Person, moment: Moment, dark: Plane) -> None:
    """Paint the hair over the forehead and around the head, whose shadow is `dark` (h, w)."""
    u, v = canvas.u, canvas.v
    away = np.abs(u - person.parting - 0.3 * moment.hair_shift)
    wave = np.abs((v * 0.09) % 2 - 1)
    across = (canvas.diamond + 1) * 260 + (away + 12 * person.curl * wave) * 1.7
    grain = _strands(person, across)
    low = person.hairline + moment.hair_shift + away * person.sweep + person.ragged * grain
    side = np.abs(u) - person.opening * person.width + 5 * person.curl * grain
    face = rounded_corner(low - v, side, 20)
    swell = person.volume * (1 + 0.9 * person.curl * _strands(person, canvas.diamond * 130))
    if person.length > 0:
        outer = np.minimum(canvas.edge - swell, _fall(canvas, person))
        throat = 60 * np.clip((v - 4) / 12, 0, 1)  # below the ears long hair leaves the neck free
        face = np.maximum(face, canvas.edge - throat)
    else:
        thin = np.clip(0.35 - 1.3 * canvas.diamond, 0, 1)
        outer = np.maximum(canvas.edge - swell * thin, v - person.sideburn - 2 * grain)
        face = np.maximum(face, canvas.edge)
    hair = cover(np.maximum(-face, outer), 1.6 * canvas.pixel)
    canvas.shade(cover(-face - 3, 6) * (canvas.rho < 1) * (0.3 - 0.3 * hair))
    shine = spread(
        (canvas.p - 14 * moment.light[0]) / 50, (canvas.q + 40 - 0.006 * canvas.p**2) / 12
    )
    light = (1 + 0.6 * grain) * (1.06 - 0.75 * dark) + shine * (0.36 + 0.7 * grain)
    canvas.paint(hair, tone(person.hair, light))


def whiskers(canvas: Canvas, person: Person) -> None:
    """Paint beard and moustache, thin enough to let the skin through."""
    if not person.beard and not person.moustache:
        return
    part = canvas.window(0, 28, 58, 46)
    u, v = np.abs(part.u), part.v
    texture = 0.86 + 0.9 * _strands(person, part.u * 5.1 + v * 3.7)
    texture *= cover(part.edge, part.pixel)
    ink = mix(person.hair, INK, 0.25)
    if person.beard:
        lips = spread(u / (person.mouth_width + 1.5), (v - person.mouth_v - 1) / 6.5)
        edge = person.mouth_v + 8 - np.minimum(u, 11) * 0.9 - np.maximum(u - 26, 0) * 2.6
        chin = cover(edge - v, 8.0) * (1 - np.minimum(lips * 3, 1))
        part.paint(np.minimum(chin * texture, 1) * person.beard, ink)
    if person.moustache:
        middle = person.mouth_v - person.upper_lip - 3.4 + u * u * 0.022
        hairy = np.maximum(np.abs(v - middle) - 2.9 + 0.012 * u * u, u - person.mouth_width - 1)
        part.paint(np.minimum(cover(hairy, 2.0) * texture, 1) * person.moustache, ink)


def _fall(canvas: Canvas, person: Person) -> Plane:
    """Return the signed distance to hair that hangs down at the sides."""
    wave = _strands(person, canvas.q * 1.9 + canvas.p * 0.3)
    half = person.width + 0.7 * person.volume + 4 * person.curl * wave
    box = rounded_box(canvas.p, canvas.q - person.length + 80, half, 80.0, 16.0)
    return np.maximum(box, -6 - canvas.q)


def _strands(person: Person, across: Plane) -> Plane:
    """Return the brightness of the hair, -0.5 to 0.5, at a place across its strands."""
    return person.strands.take(across.astype(np.intp) & 255)
