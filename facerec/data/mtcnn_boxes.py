"""What MTCNN does with boxes and pixels between its networks: NumPy alone.

Boxes are rows of left, top, right, bottom in pixels. The networks were trained on Matlab's pixels,
counted from 1 and with both ends inside; `crops` and the cascade keep to that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Sums = NDArray[np.uint32]

FACTOR = 0.709  # from one size of the pyramid to the next: half the area
CELL, STRIDE = 12, 2  # of P-Net: the square that it judges, and from one to the next
_BLOCK = 256  # boxes that `keep` compares at a time


def scales(height: int, width: int, smallest: float, largest_side: int) -> list[float]:
    """By how much an image is shrunk, or enlarged, for P-Net, from the finest down.

    The first scale makes faces of `smallest` pixels 12 pixels large; it is lowered where the longer
    side of the scaled image would be over `largest_side`.

    Returns:
        Falling by 0.709; none where no square of P-Net fits into the scaled image.
    """
    scale = min(CELL / smallest, largest_side / max(height, width))
    found = []
    while min(height, width) * scale >= CELL:
        found.append(scale)
        scale *= FACTOR
    return found


def sums(pixels: NDArray[np.uint8]) -> Sums:
    """Sums over all that is above and left of each corner between pixels.

    Args:
        pixels: (H, W, 3).

    Returns:
        (H + 1, W + 1, 3); beyond 2 ** 32 they wrap around, and their differences are still right
        for areas below 16 million pixels.
    """
    table = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1, 3), np.uint32)
    inside = table[1:, 1:]
    np.cumsum(pixels, axis=0, dtype=np.uint32, out=inside)
    np.cumsum(inside, axis=1, dtype=np.uint32, out=inside)
    return table


def shrunk(table: Sums, height: int, width: int) -> Floats:
    """The whole image at another size, each pixel the mean over its share of the old ones.

    Returns:
        (height, width, 3), from -1 to 1.
    """
    top, bottom = _shares(np.zeros(1, np.int64), np.array([table.shape[0] - 1]), height)
    left, right = _shares(np.zeros(1, np.int64), np.array([table.shape[1] - 1]), width)
    rows = table[bottom[0]] - table[top[0]]
    total = rows[:, right[0]] - rows[:, left[0]]
    return _normalised(total, (bottom - top)[0][:, None] * (right - left)[0])


def crops(table: Sums, boxes: Floats, side: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Cuts out boxes, as far as they are inside the image, and brings them to one size.

    Args:
        table: of `sums`.
        boxes: (n, 4); cut off to whole pixels, towards zero.
        side: of the squares in pixels.

    Returns:
        (m, side, side, 3), from -1 to 1; and which of the boxes have a pixel inside, (n,), m times
        true.
    """
    whole = np.trunc(np.clip(boxes, -1e9, 1e9)).astype(np.int64)
    start = np.maximum(whole[:, :2], 1) - 1
    end = np.minimum(whole[:, 2:], (table.shape[1] - 1, table.shape[0] - 1))
    inside = np.asarray((end > start).all(axis=1), np.bool_)
    start, end = start[inside], end[inside]
    left, right = _shares(start[:, 0], end[:, 0], side)
    top, bottom = _shares(start[:, 1], end[:, 1], side)
    corners, width = table.reshape(-1, 3), table.shape[1]
    upper, lower = top[:, :, None] * width, bottom[:, :, None] * width
    left, right = left[:, None, :], right[:, None, :]
    total = corners.take(lower + right, axis=0)
    total -= corners.take(lower + left, axis=0)
    total -= corners.take(upper + right, axis=0)
    total += corners.take(upper + left, axis=0)
    return _normalised(total, (lower - upper) // width * (right - left)), inside


def keep(boxes: Floats, scores: Floats, limit: float, *, by_smaller: bool = False) -> Ints:
    """Non-maximum suppression: a box stays unless one of higher score that stays overlaps it.

    Args:
        boxes: (n, 4).
        scores: (n,); of equal ones the earlier goes first.
        limit: overlap from which, exclusively, the lower one goes: the common area by the area of
            both together.
        by_smaller: the common area by the smaller one instead, pixels counted with both ends.

    Returns:
        Those that stay, by falling score.
    """
    order = np.argsort(-scores, kind="stable")
    kept = np.empty(0, np.int64)
    for first in range(0, len(order), _BLOCK):
        block = order[first : first + _BLOCK]
        block = block[~(overlap(boxes[block], boxes[kept], by_smaller) > limit).any(axis=1)]
        over = np.tril(overlap(boxes[block], boxes[block], by_smaller) > limit, -1)
        stays: NDArray[np.bool_] = np.ones(len(block), np.bool_)
        while True:  # settles from the highest score down, in as many rounds as the longest chain
            now = np.asarray(~(over & stays).any(axis=1), np.bool_)
            if np.array_equal(now, stays):
                break
            stays = now
        kept = np.concatenate([kept, block[stays]])
    return kept


def overlap(one: Floats, other: Floats, by_smaller: bool = False) -> Floats:
    """How much of two boxes is common to both, of each with each; see `keep`.

    Returns:
        (n, m), 0 to 1.
    """
    both_ends = 1 if by_smaller else 0
    start = np.maximum(one[:, None, :2], other[:, :2])
    end = np.minimum(one[:, None, 2:], other[:, 2:])
    common = np.maximum(end - start + both_ends, 0).prod(axis=2)
    areas = [(box[:, 2:] - box[:, :2] + both_ends).prod(axis=1) for box in (one, other)]
    whole = np.minimum(areas[0][:, None], areas[1])
    if not by_smaller:
        whole = areas[0][:, None] + areas[1] - common
    return np.asarray(common / np.where(whole > 0, whole, np.float32(np.inf)), np.float32)


def moved(boxes: Floats, offsets: Floats, both_ends: int = 1) -> Floats:
    """Boxes (n, 4) after a network's correction (n, 4), in widths and heights of the box.

    P-Net's is by widths without `both_ends`.
    """
    size = boxes[:, 2:] - boxes[:, :2] + np.float32(both_ends)
    return boxes + offsets * np.tile(size, 2)


def squared(boxes: Floats) -> Floats:
    """Squares (n, 4) of the same middle and of the longer side."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    start = boxes[:, :2] + size * np.float32(0.5) - side * np.float32(0.5)
    return np.concatenate([start, start + side], axis=1)


def coarse(pixels: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """A smaller image (H // times, W // times, 3): means over squares; what is left over goes."""
    height, width = pixels.shape[0] // times, pixels.shape[1] // times
    squares = pixels[: height * times, : width * times].reshape(height, times, width, times, 3)
    total = squares.sum(axis=(1, 3), dtype=np.uint32)
    return np.asarray((total + times**2 // 2) // times**2, np.uint8)


def _shares(start: Ints, end: Ints, parts: int) -> tuple[Ints, Ints]:
    """The pixels from `start` to `end` (n,) in equal parts: where each begins and ends (n, parts).

    Pixels that a border cuts count on both sides.
    """
    length, number = (end - start)[:, None], np.arange(parts)
    first = start[:, None] + number * length // parts
    return first, start[:, None] - (-(number + 1) * length // parts)


def _normalised(total: Sums, area: Ints) -> Floats:
    mean = total / area[..., None].astype(np.float32)
    return np.asarray((mean - 127.5) * 0.0078125, np.float32)
