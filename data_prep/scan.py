"""The first pass: every image is read and decoded once, and what must be known of it is kept."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.readers import Source
from facerec.data.images import decode
from facerec.data.shards import DataError

_CHUNK = 256  # images that a thread checks at a time


class Tell(Protocol):
    """Where progress and warnings go."""

    def start(self, task: str, total: int) -> None:
        """A task of `total` images begins."""

    def advance(self, images: int) -> None:
        """So many images more are done."""

    def warn(self, message: str) -> None:
        """Something that the user should know."""


@dataclass(frozen=True)
class Images:
    """What is known of the n images that can be used.

    Attributes:
        positions: where each stands in the source, (n,), ascending.
        codes: of each, the number of its identity in `identities`, (n,).
        identities: in the order of the source.
        size: (width, height), the same for all.
        total: images in the source, also those that cannot be used.
    """

    positions: NDArray[np.int64]
    codes: NDArray[np.int64]
    identities: list[str]
    size: tuple[int, int]
    total: int


def scan(source: Source, skip_errors: bool, tell: Tell) -> Images:
    """Decodes every image of the source, on all cores.

    The size of the set is the one that the source promises, else the most frequent one; an image
    of another size counts as an error, since the shards hold one size.

    Raises:
        DataError: the first image that cannot be used, unless `skip_errors`; or none is left.
    """
    tell.start("checking", len(source))
    positions, faces, shapes = array("q"), array("q"), array("q")
    names: dict[str, int] = {}
    sizes: dict[tuple[int, int], int] = {}
    for position, result in enumerate(_results(source, tell)):
        if isinstance(result, DataError):
            _refuse(result, skip_errors, tell)
            continue
        identity, size = result
        positions.append(position)
        faces.append(names.setdefault(identity, len(names)))
        shapes.append(sizes.setdefault(size, len(sizes)))
    if not positions:
        raise DataError(f"{source.facts.name}: none of its {len(source)} images can be used")

    shape = np.frombuffer(shapes, np.int64)
    wanted = source.facts.image_size or list(sizes)[int(np.bincount(shape).argmax())]
    fits = shape == sizes.get(wanted, -1)
    for slot in np.flatnonzero(~fits):
        width, height = list(sizes)[shape[slot]]
        error = DataError(
            f"the image is {width} x {height}, the set is {wanted[0]} x {wanted[1]}: all must be "
            f"of one size; --on-error skip leaves others out",
            shard=source.facts.name,
            key=source[positions[slot]].key,
        )
        _refuse(error, skip_errors, tell)
    if not fits.any():
        raise DataError(f"{source.facts.name}: no image is {wanted[0]} x {wanted[1]} as promised")

    used = np.frombuffer(faces, np.int64)[fits]
    present = set(np.unique(used).tolist())
    identities = sorted((n for n in names if names[n] in present), key=source.facts.order)
    code_of = np.zeros(len(names), np.int64)
    code_of[[names[name] for name in identities]] = np.arange(len(identities))
    return Images(
        positions=np.frombuffer(positions, np.int64)[fits],
        codes=code_of[used],
        identities=identities,
        size=wanted,
        total=len(source),
    )


def _results(source: Source, tell: Tell) -> Iterator[tuple[str, tuple[int, int]] | DataError]:
    """What `_check` says of each image, in order."""
    chunks = [range(n, min(n + _CHUNK, len(source))) for n in range(0, len(source), _CHUNK)]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for results in pool.map(lambda chunk: [_check(source, n) for n in chunk], chunks):
            yield from results
            tell.advance(len(results))
    finally:
        pool.shutdown(cancel_futures=True)


def _check(source: Source, position: int) -> tuple[str, tuple[int, int]] | DataError:
    """Identity and (width, height) of one image, or what is wrong with it."""
    try:
        face = source[position]
    except DataError as error:
        return error
    try:
        height, width, _ = decode(face.image).shape
    except DataError as error:
        return DataError(str(error), shard=source.facts.name, key=face.key)
    return face.identity, (width, height)


def _refuse(error: DataError, skip_errors: bool, tell: Tell) -> None:
    if not skip_errors:
        raise error
    tell.warn(f"left out: {error}")
