"""Feature files for MegaFace's development kit, one per image.

`<folder>/facescrub/<identity>/<file>_<algorithm>.bin`, `<folder>/megaface/<a>/<b>/<file>_...`: four
int32 (numbers, 1, 4, 5: rows, columns, bytes and OpenCV's name of float32), then the numbers, all
little-endian. Cleaned features have one number more: 0, or for a noisy distractor 100, which takes
it away from everything; a noisy probe is replaced by its person's centre.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence, Sized
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

_OPENCV_FLOAT = 5
_FAR_AWAY = 100.0
_SPREAD = 0.001  # of a centre that stands for a noisy probe, on either side


def clean_probes(
    names: Sequence[str], features: ArrayLike, noisy: ArrayLike, seed: int = 0
) -> Floats:
    """Features of probes with one number more; a noisy one becomes its person's centre.

    The centre is the sum of the person's clean features plus noise, drawn anew for each image from
    -0.001 to 0.001, and of length 1.

    Args:
        names: `identity/file`, n of them.
        features: (n, D).
        noisy: (n,) bool, which show somebody else.
        seed: Of the noise.

    Returns:
        (n, D + 1).

    Raises:
        ValueError: Counts that differ, or a person without a clean image.
    """
    result, bad = _longer(features), _mask(noisy, names)
    draws = np.random.default_rng(seed)
    people = [name.rpartition("/")[0] for name in names]
    centers: dict[str, Floats] = {}
    for row in np.flatnonzero(~bad):
        centers[people[row]] = centers.get(people[row], np.float32(0)) + result[row]
    for row in np.flatnonzero(bad):
        if people[row] not in centers:
            raise ValueError(f"all images of {people[row]} are noisy: there is no centre")
        center = centers[people[row]].copy()
        center[:-1] += draws.uniform(-_SPREAD, _SPREAD, len(center) - 1).astype(np.float32)
        result[row] = center / np.linalg.norm(center)
    return result


def clean_distractors(features: ArrayLike, noisy: ArrayLike) -> Floats:
    """Features of distractors with one number more: 0, or 100 for a noisy one.

    Args:
        features: (n, D).
        noisy: (n,) bool, which show somebody among the probes.

    Returns:
        (n, D + 1).

    Raises:
        ValueError: Counts that differ.
    """
    result = _longer(features)
    result[_mask(noisy, result), -1] = _FAR_AWAY
    return result


def write_features(
    folder: Path, names: Sequence[str], features: ArrayLike, algorithm: str = "facerec"
) -> None:
    """Writes one file per image: `<folder>/<name>_<algorithm>.bin`.

    What stands under its name is whole. Files are made durable together, at the end.

    Args:
        folder: Such as `<out>/facescrub` or `<out>/megaface`.
        names: `identity/file` or `a/b/file`, n of them.
        features: (n, D), written as they are: L2-normalised is what insightface writes.
        algorithm: The end of the files' names.

    Raises:
        ValueError: Counts that differ, or a name that leads out of the folder.
        OSError: A file that cannot be written.
    """
    vectors = np.asarray(features, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise ValueError(f"features {vectors.shape} for {len(names)} images: (n, D) is wanted")
    header = struct.pack("<4i", vectors.shape[1], 1, 4, _OPENCV_FLOAT)
    made: set[Path] = set()
    for name, vector in zip(names, vectors, strict=True):
        if not all(name.split("/")) or {".", ".."} & set(name.split("/")):
            raise ValueError(f"{name!r}: names are relative paths such as `identity/file`")
        path = folder / f"{name}_{algorithm}.bin"
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        aside = path.with_name(path.name + ".part")
        aside.write_bytes(header + vector.astype("<f4").tobytes())
        aside.replace(path)
    os.sync()  # once, instead of twice for each of a million files


def _mask(noisy: ArrayLike, images: Sized) -> NDArray[np.bool_]:
    mask = np.asarray(noisy, np.bool_)
    if mask.shape != (len(images),):
        raise ValueError(f"noisy {mask.shape} for {len(images)} images: one of each is wanted")
    return mask


def _longer(features: ArrayLike) -> Floats:
    return np.pad(np.asarray(features, dtype=np.float32), ((0, 0), (0, 1)))
