"""What images look like, in a few numbers each: hashes, brightness, and a coarse shape.

Two images are near-identical when the 64-bit hashes of their coarse shapes differ in at most
`DISTANCE` bits and the shapes themselves correlate by `CORRELATION` or more. The hash alone finds
candidates fast, but aligned faces are alike: among millions of pairs some different people come
within a few bits of each other. docs/data.md has the rates of both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_prep.damage import Tell
from facerec.data.images import decode
from facerec.data.shards import DataError, Rows, Split

DISTANCE = 6  # bits of 64
CORRELATION = 0.95
_SIDE = 32  # the grey image is shrunk to this before the cosine transform
_HASHED = 8  # lowest frequencies each way that make the hash
_SHAPED = 12  # and those that make the shape
_TASK = 16  # images that a thread measures at a time
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_FAINT = 1.0  # a transform whose largest coefficient is below this is that of a flat image

_FREQUENCY = np.hypot(*np.mgrid[:_SHAPED, :_SHAPED])  # 0 for the mean: brightness does not count


@dataclass(frozen=True)
class Looks:
    """Numbers of n images, in the order of their rows.

    Attributes:
        labels: (n,), as the shards have them.
        size: (n,), bytes of the encoded image.
        width: (n,), in pixels, as decoded.
        height: (n,).
        content: (n,), first 64 bits of the SHA-256 of the encoded bytes.
        pixels: (n,), the same of the decoded pixels and their size.
        hashes: (n,), 64-bit perceptual hash.
        shapes: (n, 144), int8: low frequencies, each weighted by its frequency; the largest is 127,
            and a flat image has zeros.
        brightness: (n,), mean grey, 0 to 1.
        contrast: (n,), standard deviation of the grey, 0 to 0.5.
    """

    labels: NDArray[np.int32]
    size: NDArray[np.int64]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    content: NDArray[np.uint64]
    pixels: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    shapes: NDArray[np.int8]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]


def together(parts: Sequence[Looks]) -> Looks:
    """The images of several splits one after the other."""
    names = [field.name for field in fields(Looks)]
    return Looks(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def look(split: Split, tell: Tell) -> Looks:
    """Decodes and measures every image of a split, on all cores; some 200 bytes stay of each.

    Raises:
        DataError: An image cannot be decoded, with shard, row and key; or there is none.
    """
    rows = split.rows
    if not rows:
        raise DataError(f"the {split.name} split has no image")
    looks = Looks(
        labels=np.empty(rows, np.int32),
        size=np.empty(rows, np.int64),
        width=np.empty(rows, np.int32),
        height=np.empty(rows, np.int32),
        content=np.empty(rows, np.uint64),
        pixels=np.empty(rows, np.uint64),
        hashes=np.empty(rows, np.uint64),
        shapes=np.empty((rows, _SHAPED * _SHAPED), np.int8),
        brightness=np.empty(rows, np.float32),
        contrast=np.empty(rows, np.float32),
    )
    first = 0
    tell.start(f"looking at {split.name}", rows)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group in range(len(split.group_rows)):
            read = split.read(group)
            count = len(read.images)
            looks.labels[first : first + count] = read.labels
            tasks = [range(at, min(at + _TASK, count)) for at in range(0, count, _TASK)]
            jobs = [pool.submit(_measure, read, task, looks, first) for task in tasks]
            for job in jobs:
                job.result()
            first += count
            tell.advance(count)
    return looks


def _measure(read: Rows, task: range, looks: Looks, first: int) -> None:
    for row in task:
        data, at = read.images[row], first + row
        try:
            pixels = decode(data)
        except DataError as error:
            raise read.locate(row, error) from None
        grey = pixels @ _LUMA
        looks.size[at] = len(data)
        looks.height[at], looks.width[at] = grey.shape
        looks.content[at] = _digest(data)
        looks.pixels[at] = _digest(repr(pixels.shape).encode(), pixels.data)
        looks.brightness[at] = grey.mean() / 255
        looks.contrast[at] = grey.std() / 255
        looks.hashes[at], looks.shapes[at] = fingerprint(grey)


def fingerprint(grey: NDArray[np.float32]) -> tuple[np.uint64, NDArray[np.int8]]:
    """The 64-bit hash of a grey image (H, W) of 0 to 255, and its coarse shape, (144,).

    The image is shrunk by area to 32 x 32 and transformed by cosines. A bit of the hash says
    whether one of the 8 x 8 lowest coefficients is above their median.
    """
    height, width = grey.shape
    low = _transform(height) @ grey.astype(np.float64) @ _transform(width).T
    low = np.round(low, 3)  # what differs by rounding alone must not tip a bit
    hashed = low[:_HASHED, :_HASHED].ravel()
    bits = np.packbits(hashed > np.median(hashed)).view(np.uint64)[0]
    weighted = low * _FREQUENCY
    largest = np.abs(weighted).max()
    shape = np.rint(weighted * (127 / largest)) if largest >= _FAINT else np.zeros_like(weighted)
    return bits, shape.astype(np.int8).ravel()


@lru_cache(maxsize=64)
def _transform(pixels: int) -> NDArray[np.float64]:
    """From pixels to the lowest frequencies of their 32 means by area: (12, pixels)."""
    edges = np.arange(_SIDE + 1) * pixels / _SIDE
    cells = np.arange(pixels)
    upper = np.minimum(edges[1:, None], cells + 1)
    shrink = np.clip(upper - np.maximum(edges[:-1, None], cells), 0, None) * _SIDE / pixels
    frequency = np.arange(_SHAPED)[:, None]
    waves = np.cos(np.pi * (2 * np.arange(_SIDE) + 1) * frequency / (2 * _SIDE))
    waves *= np.where(frequency, np.sqrt(2 / _SIDE), np.sqrt(1 / _SIDE))
    return np.asarray(waves @ shrink)


def _digest(*parts: bytes | memoryview) -> np.uint64:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return np.uint64(int.from_bytes(found.digest()[:8]))
