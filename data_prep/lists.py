"""Lists of images with class ids, as a source."""

from __future__ import annotations

import os
from array import array
from itertools import chain
from pathlib import Path

import pyarrow as pa

from data_prep.lines import Lines, Root, repeats
from data_prep.readers import Facts, Place, fingerprint, read_bytes, whole_label
from facerec.data.shards import DataError, FaceImage


class List:
    """A list of images with class ids: MagFace's, or the `.lst` of MXNet's im2rec.

    MagFace: `path 0 id 0`, blank-separated, read from the right, since a path may hold blanks.
    im2rec: `index<TAB>label[<TAB>more labels]<TAB>path`. Empty lines are passed over. Paths stay
    below `root`; each may stand there once.

    Args:
        path: the list.
        root: the folder that the paths in it are relative to.

    Raises:
        DataError: the list or `root` is missing, or names no image.
    """

    def __init__(self, path: Path, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"--root {root}: no such folder")
        self._lines, self._root = Lines(path), Root(root)
        if not len(self._lines):
            raise DataError(f"{path} names no image: it has no line that is not empty")
        hashes = array("q", (hash(self._name(n)) for n in range(len(self._lines))))
        self._again = repeats(hashes)
        self.facts = Facts(
            kind="list",
            name=path.name,
            fingerprint=fingerprint(chain([str(root.resolve())], self._lines.contents())),
            order=int,
            columns=(("source", pa.string()),),
            place=self._place,
        )

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, position: int) -> FaceImage:
        text = self._lines[position].text
        try:
            name, label = _columns(text)
            identity = whole_label(label)
        except ValueError as error:
            raise self._error(
                position,
                f"{error} in {text[:80]!r}; a line reads 'path 0 id 0' (MagFace) or "
                f"'index<TAB>label<TAB>path' (im2rec), ids are whole numbers from 0",
            ) from error
        first = self._again.get(position)
        if first is not None and self._name(first) == name:
            raise self._error(
                position, f"line {self._lines[first].number} names this image before", name
            )
        try:
            image = self._root.find(name)
        except DataError as error:
            cure = "; --root / takes absolute paths" if os.path.isabs(name) else ""
            raise self._error(position, error.reason + cure, name) from error
        if not os.path.isfile(image):
            folder = self._lines.path.parent
            there = os.path.isfile(folder / name)
            hint = f"; it is there with --root {folder}" if there else ""
            raise self._error(position, f"{os.path.abspath(image)} is missing{hint}", name)
        data = read_bytes(image, name)
        return FaceImage(image=data, identity=str(identity), key=name, more={"source": text})

    def _name(self, position: int) -> str | int:
        """The path in a line; its position where it names none."""
        try:
            return _columns(self._lines[position].text)[0]
        except ValueError:
            return position

    def _place(self, position: int) -> Place:
        line = self._lines[position]
        return Place(self._lines.path.name, offset=line.offset, line=line.number)

    def _error(self, position: int, message: str, key: str | None = None) -> DataError:
        return self._place(position).error(message, key)


def _columns(line: str) -> tuple[str, str]:
    """Path and label of a line; `ValueError` where it is of neither format."""
    if line.partition("\t")[0].isdecimal():
        _, label, *_, name = _at_least(3, line.split("\t"))
    else:
        name, _, label, _ = _at_least(4, line.strip().rsplit(maxsplit=3))
    return name, label


def _at_least(number: int, fields: list[str]) -> list[str]:
    if len(fields) < number:
        raise ValueError(f"{len(fields)} columns instead of {number}")
    return fields
