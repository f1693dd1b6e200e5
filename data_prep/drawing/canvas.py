"""The surface of a drawn face: which point of the head each pixel sees, and paint on it.

Shapes are signed distances turned into coverage on the pixel grid, so edges are smooth at any
size. Lengths are pixels of a 112 x 112 crop. (u, v) is a point of the face as seen from the front,
right and down from a point just below the eyes' line; (p, q) is the same in the turned picture.
Planes see sums, products and square roots only, which round alike on every processor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]  # (h, w), float32
Colour = tuple[float, float, float]  # red, green, blue in [0, 1]

DEPTH = 46.0  # from the turning axis to the middle of the face
_CENTER = (56.0, 58.0)  # where (u, v) = (0, 0) of an unmoved frontal face lies in the crop
_FOLLOW = 0.9  # share of a turn that the crop's alignment takes back
_DIRECTIONS = 1024


@dataclass(frozen=True)
class Pose:
    """How the head stands in one image: radians, a factor, and pixels of a 112 x 112 crop."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0


def outline(width: float, top: float, bottom: float, jaw: float, taper: float) -> Plane:
    """Return the head's radius in each of 1,024 directions, from the crown to the chin.

    Directions are diamond angles, q / (|p| + |q|), which need no arc tangent.

    Args:
        width: Half the width of the head, pixels.
        top: From the middle of the head up to the crown, pixels.
        bottom: From there down to the chin, pixels.
        jaw: Below 1 square, above 1 pointed.
        taper: Share of the width that is lost towards the chin.
    """
    angle = np.linspace(-math.pi / 2, math.pi / 2, 2001)
    below = np.sin(np.maximum(angle, 0))
    across = width * np.cos(angle) ** np.where(angle > 0, jaw, 0.9) * (1 - taper * below**2)
    down = np.where(angle > 0, bottom, top) * np.sin(angle)
    diamond = down / (np.abs(across) + np.abs(down))
    radius = np.hypot(across, down)
    radii: Plane = np.interp(np.linspace(-1, 1, _DIRECTIONS), diamond, radius).astype(np.float32)
    return radii


def cover(distance: Plane, width: float) -> Plane:
    """Return how much of each pixel a shape covers.

    Args:
        distance: (h, w) signed distance to the shape's edge, negative inside.
        width: Over which length the edge goes from full to none.
    """
    inside = distance * (-1 / width)
    inside += 0.5
    return np.clip(inside, 0, 1, out=inside)


def spread(x: Plane, y: Plane) -> Plane:
    """Return a soft blob, (h, w): 1 in the middle, 0 from x² + y² = 1 on."""
    inside = np.maximum(1 - x * x - y * y, 0)
    inside *= inside
    return inside


def rounded_box(x: Plane, y: Plane, width: float | Plane, height: float, radius: float) -> Plane:
    """Return the signed distance to a box of half sides `width`, `height` with round corners."""
    return rounded_corner(np.abs(x) - width, np.abs(y) - height, radius)


def rounded_corner(a: Plane, b: Plane, radius: float) -> Plane:
    """Return the distance to where both `a` and `b` are negative, its corner rounded."""
    a, b = a + radius, b + radius
    outside: Plane = np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2)
    outside += np.minimum(np.maximum(a, b), 0) - radius
    return outside


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return the colour that lies a `share` of the way from `a` to `b`."""
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


def ramp(stops: tuple[Colour, ...], where: float) -> Colour:
    """Return the colour at `where` in [0, 1] along evenly spaced stops."""
    place = min(max(where, 0.0), 1.0) * (len(stops) - 1)
    first = min(int(place), len(stops) - 2)
    return mix(stops[first], stops[first + 1], place - first)


def tone(colour: Colour, light: Plane) -> Plane:
    """Return the (3, h, w) picture of a colour under a plane of light."""
    picture = np.array(colour, np.float32)[:, None, None] * light
    return np.minimum(picture, 1, out=picture)


@dataclass
class Canvas:
    """A picture, or a window of one, with the face coordinates of its pixels.

    Attributes:
        image: (3, h, w) the picture; painting writes into it.
        u, v: (h, w) the point of the frontal face that a pixel shows.
        p, q: (h, w) position in the turned picture, from the middle of the head.
        rho: (h, w) radius over the head's outline: below 1 is the head.
        edge: (h, w) distance to the outline, negative on the head.
        diamond: (h, w) direction from the middle of the head, -1 the crown, 1 the chin.
        pixel: Width of a pixel.
        pose: How the head stands.
    """

    image: Plane
    u: Plane
    v: Plane
    p: Plane
    q: Plane
    rho: Plane
    edge: Plane
    diamond: Plane
    pixel: float
    pose: Pose

    @classmethod
    def over(cls, radii: Plane, pose: Pose, size: int) -> Canvas:
        """Return an empty canvas of `size` x `size` pixels over a head with outline `radii`."""
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (112 / size)
        x = (axis[None] - (_CENTER[0] + pose.x)) / pose.scale
        y = (axis[:, None] - (_CENTER[1] + pose.y)) / pose.scale
        cos, sin = math.cos(pose.roll), math.sin(pose.roll)
        turn, nod = math.sin(pose.yaw), math.sin(pose.pitch)
        # A crop is aligned on eyes, nose and mouth, so where a head turns its outline wanders.
        p = x * cos + y * sin + _FOLLOW * DEPTH * turn
        q = y * cos - x * sin + _FOLLOW * DEPTH * nod
        p -= 0.004 * turn * np.maximum(q, 0) ** 2  # the chin leads the turn
        diamond = q / (np.abs(p) + np.abs(q) + 1e-6)
        reach = radii.take(((diamond + 1) * (0.5 * (_DIRECTIONS - 1))).astype(np.intp))
        radius = np.sqrt(p * p + q * q)
        rho = radius / reach
        deep = DEPTH * np.sqrt(np.maximum(1 - rho * rho, 0))
        u = p * math.cos(pose.yaw) - deep * turn
        v = q * math.cos(pose.pitch) - (p * turn + deep * math.cos(pose.yaw)) * nod
        image = np.zeros((3, size, size), np.float32)
        pixel = 112 / size / pose.scale
        return cls(image, u, v, p, q, rho, radius - reach, diamond, pixel, pose)

    def window(self, u: float, v: float, reach_u: float, reach_v: float) -> Canvas:
        """Return the part of the canvas that can show points so far from (u, v) on the face."""
        pose = self.pose
        turn, nod = math.sin(pose.yaw), math.sin(pose.pitch)
        deep = DEPTH * math.sqrt(max(0.0, 1 - (u / 44) ** 2 - (v / 60) ** 2))
        p = u * math.cos(pose.yaw) + deep * turn
        near = deep * math.cos(pose.yaw) - u * turn
        q = v * math.cos(pose.pitch) + near * nod
        return self.patch(p, q, reach_u + 4, reach_v + 4)

    def patch(self, p: float, q: float, reach_p: float, reach_q: float) -> Canvas:
        """Return the part of the canvas that shows points so far from (p, q) in the picture."""
        pose, size = self.pose, self.image.shape[1]
        p -= _FOLLOW * DEPTH * math.sin(pose.yaw)
        q -= _FOLLOW * DEPTH * math.sin(pose.pitch)
        cos, sin = math.cos(pose.roll), math.sin(pose.roll)
        x = (p * cos - q * sin) * pose.scale + _CENTER[0] + pose.x
        y = (q * cos + p * sin) * pose.scale + _CENTER[1] + pose.y
        columns = _cut(x, pose.scale * (reach_p + abs(sin) * reach_q) + 1, size)
        rows = _cut(y, pose.scale * (reach_q + abs(sin) * reach_p) + 1, size)
        return Canvas(
            self.image[:, rows, columns],
            self.u[rows, columns],
            self.v[rows, columns],
            self.p[rows, columns],
            self.q[rows, columns],
            self.rho[rows, columns],
            self.edge[rows, columns],
            self.diamond[rows, columns],
            self.pixel,
            pose,
        )

    def paint(self, alpha: Plane, colour: Colour | Plane) -> None:
        """Lay a colour, or a (3, h, w) picture, over the picture where `alpha` is above 0."""
        if isinstance(colour, tuple):
            colour = np.array(colour, np.float32)[:, None, None]
        change = colour - self.image
        change *= alpha
        self.image += change

    def shade(self, depth: Plane, tint: Colour = (0.8, 1.0, 1.0)) -> None:
        """Darken by `depth` (negative: brighten); the tint keeps the shadows of skin warm."""
        keep = depth * np.array(tint, np.float32)[:, None, None]
        self.image *= np.subtract(1, keep, out=keep)


def _cut(middle: float, reach: float, size: int) -> slice:
    low, high = int((middle - reach) * size / 112), int((middle + reach) * size / 112) + 1
    return slice(min(max(low, 0), size - 1), min(max(high, 1), size))
