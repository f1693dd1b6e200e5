"""insightface's training folders: `train.rec` (dmlc RecordIO), `train.idx`, `property`.

A record file is a row of parts: magic word, a word with cflag (upper 3 bits) and length (lower 29),
payload, zeros up to a multiple of 4. A record that holds the magic word at an offset divisible by 4
is split there (cflag 1, 2..., 3) and the word dropped; reading puts it back. A record begins with
the header `flag, label, id, id2`; `flag` further float32 labels follow, then the encoded image.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.readers import Facts, fingerprint, whole_label
from facerec.data.shards import DataError, FaceImage

_MAGIC = 0xCED7230A
_PART = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_EXACT = 2**24  # float32 holds whole numbers exactly up to here


class RecordFile:
    """Records by key, through the index; nothing is read before it is asked for.

    Attributes:
        keys: all keys in ascending order, int64.

    Raises:
        DataError: a file is missing or empty, or the index is malformed or names a key twice.
    """

    def __init__(self, rec: Path, idx: Path) -> None:
        self.path = rec
        self.keys, self._offsets = _read_index(idx)
        try:
            with rec.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DataError(f"{rec} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{rec} is empty (0 bytes)") from error

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: int) -> bool:
        slot = int(np.searchsorted(self.keys, key))
        return slot < len(self.keys) and int(self.keys[slot]) == key

    def read(self, key: int) -> bytes:
        """The record's payload, whole.

        Raises:
            DataError: the key is unknown, the offset or a length runs past the end of the file, a
                magic word is damaged, or the parts do not follow each other as they must.
        """
        if key not in self:
            raise DataError("the index has no such key", shard=self.path.name, key=str(key))
        offset = int(self._offsets[np.searchsorted(self.keys, key)])
        parts: list[bytes] = []
        while True:
            where = f"offset {offset}"
            left = len(self._data) - offset - _PART.size
            if left < 0:
                raise self._error(key, f"{where} lies past the file's {len(self)} bytes")
            magic, word = _PART.unpack_from(self._data, offset)
            if magic != _MAGIC:
                raise self._error(
                    key, f"{where}: magic word 0x{magic:08x} instead of 0x{_MAGIC:08x}"
                )
            cflag, length = word >> 29, word & (1 << 29) - 1
            if length > left:
                raise self._error(
                    key, f"{where}: {length} bytes are promised, the file ends after {left} of them"
                )
            if cflag not in ((2, 3) if parts else (0, 1)):
                raise self._error(
                    key, f"{where}: part {len(parts) + 1} of the record is marked {cflag}"
                )
            start = offset + _PART.size
            parts.append(self._data[start : start + length])
            if cflag in (0, 3):
                return _PART.pack(_MAGIC, 0)[:4].join(parts)
            offset = start + (length + 3) // 4 * 4

    def _error(self, key: int, message: str) -> DataError:
        return DataError(message, shard=self.path.name, key=str(key))


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
        self.keys, layout = self._image_keys()
        if not len(self.keys):
            raise DataError(f"{rec} holds no image")
        text, size, classes = _read_property(rec.parent / "property")
        self.facts = Facts(
            kind="recordio",
            name=path.resolve().name,
            fingerprint=fingerprint([idx.read_bytes(), str(len(self._records)), text]),
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
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int) -> FaceImage:
        key = int(self.keys[position])
        labels, array_label, numbers, image = self._unpack(key)
        if not image:
            raise DataError(
                "the record holds no image (0 bytes)", shard=self._records.path.name, key=str(key)
            )
        try:
            identity = whole_label(labels[0])
        except ValueError as error:
            raise DataError(str(error), shard=self._records.path.name, key=str(key)) from error
        more = {"id": numbers[0], "id2": numbers[1], "label_array": labels if array_label else None}
        return FaceImage(image=image, identity=str(identity), key=str(key), more=more)

    def _unpack(self, key: int) -> tuple[list[float], bool, tuple[int, int], bytes]:
        """Labels, whether they were an array, (id, id2), encoded image."""
        payload = self._records.read(key)
        flag = label = id1 = id2 = 0
        if len(payload) >= _HEADER.size:
            flag, label, id1, id2 = _HEADER.unpack_from(payload)
        image = _HEADER.size + 4 * flag
        if image > len(payload):
            raise DataError(
                f"a payload of {len(payload)} bytes cannot hold a header of {image} bytes "
                f"({flag} labels)",
                shard=self._records.path.name,
                key=str(key),
            )
        labels = list(struct.unpack_from(f"<{flag}f", payload, _HEADER.size)) if flag else [label]
        return labels, flag > 0, (id1, id2), payload[image:]

    def _image_keys(self) -> tuple[NDArray[np.int64], str]:
        """Keys of the images in ascending order, and the layout."""
        records = self._records
        if 0 not in records:
            return records.keys, "B"
        labels, array_label, _, image = self._unpack(0)
        if image or not array_label:
            return records.keys, "B"
        end = labels[0]
        if max(labels) > _EXACT:
            end = 1
        elif not 1 <= end <= 2 * len(records.keys) or end != int(end):
            raise DataError(
                f"the header record promises images up to key {end - 1:g}, but the index has "
                f"{len(records.keys)} records",
                shard=records.path.name,
                key="0",
            )
        rest = records.keys[records.keys >= end]
        beyond = [key for key in rest.tolist() if self._holds_image(key, unreadable=end == 1)]
        return np.concatenate([np.arange(1, int(end)), np.array(beyond, np.int64)]), "A"

    def _holds_image(self, key: int, unreadable: bool) -> bool:
        """Whether this is no identity record; `unreadable` is the answer for a damaged one."""
        try:
            _, array_label, _, image = self._unpack(key)
        except DataError:
            return unreadable
        return bool(image) or not array_label


def _read_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys in ascending order and the offsets that belong to them."""
    keys, offsets = array("q"), array("q")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                key, offset = map(int, line.split(b"\t"))
                if key < 0 or offset < 0:
                    raise ValueError
                keys.append(key)
                offsets.append(offset)
            except (ValueError, OverflowError) as error:
                raise DataError(
                    f"{path}, line {number}: {line[:60]!r} is not 'key<TAB>offset'"
                ) from error
    if not keys:
        raise DataError(f"{path} names no record")
    order = np.argsort(keys, kind="stable")
    sorted_keys = np.array(keys, np.int64)[order]
    twice = np.flatnonzero(np.diff(sorted_keys) == 0)
    if len(twice):
        raise DataError(f"{path}: key {sorted_keys[twice[0]]} stands there twice")
    return sorted_keys, np.array(offsets, np.int64)[order]


def _read_property(path: Path) -> tuple[str, tuple[int, int] | None, int | None]:
    """The file's text, (width, height), number of classes; each as far as it is there."""
    try:
        text = path.read_text(encoding="utf-8", errors="backslashreplace").strip()
    except OSError:
        return "", None, None
    fields = [
        int(field) for field in text.partition("\n")[0].split(",") if field.strip().isdecimal()
    ]
    return text, (fields[2], fields[1]) if len(fields) >= 3 else None, fields[0] if fields else None
