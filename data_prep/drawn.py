"""Synthetic faces as a source: drawn when first asked for, kept in a temporary file."""

from __future__ import annotations

import tempfile
import threading

from data_prep.readers import Facts, fingerprint
from data_prep.synthetic import faces
from facerec.data.shards import FaceImage


class Drawn:
    """The faces of `data_prep.synthetic`, each drawn once although it is read twice.

    Args:
        identities: number of people.
        images: images of each.
        size: width and height in pixels.
        seed: of everything that is drawn.
    """

    def __init__(self, identities: int, images: int, size: int, seed: int) -> None:
        self._total = identities * images
        self._faces = faces(identities, images, size, seed)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        self._kept: list[tuple[str, str, int, int]] = []
        self._lock = threading.Lock()
        self.facts = Facts(
            kind="synthetic",
            name="synthetic",
            fingerprint=fingerprint([self[0].image]),  # another way of drawing is another source
            alignment="drawn upright",
        )

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, position: int) -> FaceImage:
        with self._lock:
            while len(self._kept) <= position:
                face = next(self._faces)
                start = self._file.seek(0, 2)
                self._kept.append((face.identity, face.key, start, self._file.write(face.image)))
            identity, key, start, length = self._kept[position]
            self._file.seek(start)
            return FaceImage(image=self._file.read(length), identity=identity, key=key)
