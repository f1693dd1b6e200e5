"""insightface's training folders: `train.rec` (dmlc RecordIO), `train.idx`, `property`.

A record begins with
the header `flag, label, id, id2`; `flag` further float32 labels follow, then the encoded image.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.readers import Facts, Place, fingerprint, whole_label
from data_prep.records import RecordFile
from facerec.data.shards import DataError, FaceImage

_HEADER = struct.Struct("<IfQQ")
_TEXT = 4096  # bytes of `property` that are read
_EXACT = 2**24  # float32 holds whole numbers exactly up to here


class Recordio:
    """The images of a training folder, in the order of their keys.

    Layout A has a header record at key 0 (labels `[a, b]`, no image): images are keys 1 to a - 1,
    identity records a to b - 1. Layout B has none: every record is an image. The header record is
    advice, and above 2^24 it is rounded: a record beyond its `a` is an image when it holds one.

    Args:
        path: the folder, or its `train.rec`.

    Raises:
        DataError: a file is missing or malformed, or the header record contradicts the index.
    """

    def __init__(self, path: Path) -> None:
        rec = path / "train.rec" if path.is_dir() else path
        idx = rec.with_suffix(".idx")
        for file in (rec, idx):
            if not file.is_file():
                raise DataError(
                    f"{file} is missing; recordio reads a folder with train.rec and train.idx"
                )
        self._records = RecordFile(rec, idx)
        faults = []
        rest = self._records.rest()
        if rest:
            faults.append(
                DataError(
                    f"{rest} bytes follow the last record that {idx.name} names: it is cut, or of "
                    f"another file",
                    shard=rec.name,
                    offset=len(self._records) - rest,
                )
            )
        try:
            self.keys, layout = self._image_keys()
        except _Unreadable as error:
            faults.insert(0, error.args[0])
            self.keys, layout = self._images_from(np.array([], np.int64), 1), "unknown"
        if not len(self.keys):
            raise DataError(f"{rec} holds no image")
        self._slots = self._records.slots(self.keys)
        text, size, classes = _read_property(rec.parent / "property")
        self.facts = Facts(
            kind="recordio",
            name=path.resolve().name,
            fingerprint=fingerprint([idx, str(len(self._records)), text]),
            alignment="five points, 112 x 112 (ArcFace)" if size == (112, 112) else "unknown",
            order=int,
            columns=(
                ("id", pa.uint64()),
                ("id2", pa.uint64()),
                ("label_array", pa.list_(pa.float32())),
            ),
            image_size=size,
            classes=classes,
            details={"layout": layout, "property": text},
            place=self._place,
            faults=tuple(faults),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int) -> FaceImage:
        key = int(self.keys[position])
        labels, array_label, numbers, image = self._unpack(key)
        if not image:
            raise self._place(position).error("the record holds no image (0 bytes)")
        try:
            identity = _identity(labels[0])
        except ValueError as error:
            raise self._place(position).error(str(error)) from error
        more = {"id": numbers[0], "id2": numbers[1], "label_array": labels if array_label else None}
        return FaceImage(image=image, identity=identity, key=str(key), more=more)

    def plain(self, positions: Sequence[int]) -> list[FaceImage | None]:
        """Images at a quarter of the time that one by one takes; None where that has to do."""
        faces: list[FaceImage | None] = [None] * len(positions)
        keys = self.keys[positions].tolist()
        for place, payload in self._records.plain(self._slots[positions]):
            if len(payload) > _HEADER.size:
                flag, label, one, two = _HEADER.unpack_from(payload)
                if not flag and 0 <= label <= _EXACT and label.is_integer():
                    image, identity = payload[_HEADER.size :], _identity(label)
                    more = {"id": one, "id2": two, "label_array": None}
                    faces[place] = FaceImage(image, identity, str(keys[place]), None, more)
        return faces

    def _place(self, position: int) -> Place:
        return self._at(int(self.keys[position]))

    def _at(self, key: int) -> Place:
        return Place(self._records.path.name, str(key), self._records.offset(key))

    def _unpack(self, key: int) -> tuple[list[float], bool, tuple[int, int], bytes]:
        """Labels, whether they were an array, (id, id2), encoded image."""
        payload = self._records.read(key)
        flag = label = id1 = id2 = 0
        if len(payload) >= _HEADER.size:
            flag, label, id1, id2 = _HEADER.unpack_from(payload)
        image = _HEADER.size + 4 * flag
        if image > len(payload):
            raise self._at(key).error(
                f"a payload of {len(payload)} bytes cannot hold a header of {image} bytes "
                f"({flag} labels)"
            )
        labels = list(struct.unpack_from(f"<{flag}f", payload, _HEADER.size)) if flag else [label]
        return labels, flag > 0, (id1, id2), payload[image:]

    def _image_keys(self) -> tuple[NDArray[np.int64], str]:
        """Keys of the images in ascending order, and the layout."""
        records = self._records
        if 0 not in records:
            return records.keys, "B"
        try:
            labels, array_label, _, image = self._unpack(0)
        except DataError as error:
            raise _Unreadable(error) from error
        if image or not array_label:
            return records.keys, "B"
        end = labels[0]
        if max(labels) > _EXACT:
            end = 1
        elif not 1 <= end <= 2 * len(records.keys) or end != int(end):
            raise self._at(0).error(
                f"the header record promises images up to key {end - 1:g}, but the index has "
                f"{len(records.keys)} records"
            )
        return self._images_from(np.arange(1, int(end)), int(end)), "A"

    def _images_from(self, known: NDArray[np.int64], end: int) -> NDArray[np.int64]:
        """The keys known, and those from `end` on whose records hold images."""
        keys = self._records.keys
        beyond = array("q")
        for slot in range(int(np.searchsorted(keys, end)), len(keys)):
            if self._holds_image(int(keys[slot]), unreadable=end == 1):
                beyond.append(int(keys[slot]))
        return np.concatenate([known, np.frombuffer(beyond, np.int64)]) if beyond else known

    def _holds_image(self, key: int, unreadable: bool) -> bool:
        """Whether this is no identity record; `unreadable` is the answer for a damaged one."""
        try:
            head = self._records.head(key, _HEADER.size)
            if head is not None and head[1] >= _HEADER.size:  # enough to tell, for any whole record
                flag = _HEADER.unpack(head[0])[0]
                return bool(flag == 0 or head[1] != _HEADER.size + 4 * flag)
            _, array_label, _, image = self._unpack(key)
        except DataError:
            return unreadable
        return bool(image) or not array_label


@lru_cache(maxsize=1 << 16)
def _identity(label: float) -> str:
    return str(whole_label(label))


class _Unreadable(Exception):
    """The record at key 0 is damaged: whether it is the header, nobody knows."""


def _read_property(path: Path) -> tuple[str, tuple[int, int] | None, int | None]:
    """The file's text, (width, height), number of classes; each as far as it is there."""
    try:
        with path.open("rb") as file:
            text = file.read(_TEXT).decode("utf-8", "backslashreplace").strip()
    except OSError:
        return "", None, None
    words = [word.strip() for word in text.partition("\n")[0].split(",")]
    fields = [int(word) for word in words if word.isdecimal() and len(word) < 10]
    return text, (fields[2], fields[1]) if len(fields) >= 3 else None, fields[0] if fields else None
