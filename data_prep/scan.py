"""The first pass: every image is read and decoded once, and what must be known of it is kept."""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from data_prep.damage import Damage, Tell
from data_prep.readers import Source, read
from facerec.data.images import check
from facerec.data.shards import DataError, FaceImage

_CHUNK = 256  # images that a thread checks at a time
_AHEAD = 4  # chunks per thread that are begun before their turn


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


def scan(source: Source, damage: Damage) -> Images:
    """Decodes every image of the source, on all cores.

    The size of the set is the one that the source promises, else the most frequent one; an image
    of another size counts as an error, since the shards hold one size. Of each image 16 bytes are
    kept while this runs.

    Raises:
        DataError: the first image that cannot be used, unless damage is skipped; or none is left.
    """
    damage.tell.start("checking", len(source))
    positions, faces, shapes = array("q"), array("i"), array("i")
    names: dict[str, int] = {}
    sizes: dict[tuple[int, int], int] = {}
    for position, result in enumerate(_results(source, damage.tell)):
        if isinstance(result, DataError):
            damage.refuse(result)
            continue
        identity, size = result
        positions.append(position)
        faces.append(names.setdefault(identity, len(names)))
        shapes.append(sizes.setdefault(size, len(sizes)))
    if not positions:
        raise DataError(f"{source.facts.name}: none of its {len(source)} images can be used")

    shape, known = np.frombuffer(shapes, np.int32), list(sizes)
    wanted = source.facts.image_size or known[int(np.bincount(shape).argmax())]
    fits = shape == sizes.get(wanted, -1)
    cure = "" if damage.skip else "; --on-error skip leaves others out"
    for slot in np.flatnonzero(~fits).tolist():
        (width, height), position = known[shape[slot]], positions[slot]
        message = (
            f"the image is {width} x {height}, the set is {wanted[0]} x {wanted[1]}: all must be "
            f"of one size{cure}"
        )
        key = source[position].key
        damage.refuse(source.facts.at(position, key).error(message, key))
    if not fits.any():
        raise DataError(f"{source.facts.name}: no image is {wanted[0]} x {wanted[1]} as promised")

    used = np.frombuffer(faces, np.int32)[fits]
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
    """What `_check` says of each image, in order; a few chunks ahead of who asks."""
    threads = os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads)
    chunks = (range(n, min(n + _CHUNK, len(source))) for n in range(0, len(source), _CHUNK))
    running: deque[Future[list[tuple[str, tuple[int, int]] | DataError]]] = deque()
    try:
        for chunk in chain(chunks, [None] * _AHEAD * threads):
            if chunk is not None:
                running.append(pool.submit(_check_all, source, chunk))
            if running and (chunk is None or len(running) > _AHEAD * threads):
                results = running.popleft().result()
                yield from results
                tell.advance(len(results))
    finally:
        pool.shutdown(cancel_futures=True)


def _check_all(source: Source, chunk: range) -> list[tuple[str, tuple[int, int]] | DataError]:
    return [_check(source, *pair) for pair in zip(chunk, read(source, chunk), strict=True)]


def _check(
    source: Source, position: int, face: FaceImage | DataError
) -> tuple[str, tuple[int, int]] | DataError:
    """Identity and (width, height) of one image, or what is wrong with it."""
    if isinstance(face, DataError):
        return face
    try:
        return face.identity, check(face.image)
    except DataError as error:
        return source.facts.at(position, face.key).error(error.reason, face.key)
