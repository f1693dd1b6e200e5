"""Image files read like a split of a prepared set, without preparing one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facerec.data.detect import Detector
from facerec.data.images import size
from facerec.data.photographs import NO_FACE, cut_out, encode
from facerec.data.shards import DataError, Rows, Split

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
_GROUP = 256  # files read at once


class ImageFiles(Split):
    """Image files as a split of unknown identities, in the order given.

    Args:
        root: What the keys are relative to.
        paths: The files.

    Attributes:
        paths: The files.
    """

    def __init__(self, root: Path, paths: Sequence[Path]) -> None:
        # The files are the state: there is no index and no shard to open.
        self.name, self.classes = "images", 0
        self.root, self.paths = root, list(paths)
        self.rows = len(self.paths)
        self.group_rows = tuple(
            min(_GROUP, self.rows - first) for first in range(0, self.rows, _GROUP)
        )

    def read(self, group: int) -> Rows:
        """Reads up to 256 files; their keys are their paths below `root`.

        Raises:
            DataError: One of them cannot be read.
        """
        first = group * _GROUP
        paths = self.paths[first : first + self.group_rows[group]]
        return Rows(
            images=[memoryview(_bytes(path)) for path in paths],
            labels=np.full(len(paths), -1, np.int32),
            keys=[_key(path, self.root) for path in paths],
            shard=str(self.root),
            first=first,
        )

    def labels(self) -> NDArray[np.int32]:
        """-1 for every file, (rows,)."""
        return np.full(self.rows, -1, np.int32)

    def sizes(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        """Each file with its width and height in pixels, from its header.

        Raises:
            DataError: One of them is no image, or cannot be read.
        """
        for path in self.paths:
            try:
                yield path, size(_bytes(path))
            except DataError as error:
                raise DataError(f"{path}: {error}") from None


class Photographs(ImageFiles):
    """Photographs as a split of aligned faces, one of each; found and cut out when they are read.

    Args:
        root: What the keys are relative to.
        paths: The files.
        detector: What finds faces.
        size: Width and height of the faces in pixels.
        which: Of several faces in a photograph, see `facerec.data.detect.choose`.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[Path],
        detector: Detector,
        size: int,
        which: str = "largest",
    ) -> None:
        super().__init__(root, paths)
        self._detector, self._size, self._which = detector, size, which

    def read(self, group: int) -> Rows:
        """Reads, detects and aligns up to 256 photographs; the faces are PNGs.

        Raises:
            DataError: One of them cannot be read, or has no face.
        """
        rows = super().read(group)
        photographs = [bytes(image) for image in rows.images]
        found = cut_out(photographs, self._detector, which=self._which, size=self._size)
        faces = []
        for key, outcome in zip(rows.keys, found, strict=True):
            if outcome.face is None:
                more = ""
                if outcome.status == NO_FACE:
                    more = "; python -m data_prep align SRC DST --on-error skip leaves such out"
                raise DataError(f"{outcome.reason}{more}", key=key)
            faces.append(memoryview(encode(outcome.face)))
        return replace(rows, images=faces)


def images_in(folder: Path) -> list[Path]:
    """Every image file below a folder, in the byte order of the paths.

    Raises:
        DataError: No such folder, or none in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images or of prepared shards")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))}) and no shards")
    return sorted(found, key=os.fsencode)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _key(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
