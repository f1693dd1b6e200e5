"""Verification sets: insightface's `.bin`, a pickle of `(images, same)`; or a folder of them.

A pickle is a program. This one is given six names, all of them ours: what NumPy's and Python 2's
pickles call to rebuild bytes. No function of NumPy or Python is ever handed to the file.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data_prep.readers import Facts, Place, fingerprint
from facerec.data.shards import DataError, FaceImage

_FOLDS = 10  # that verification is done in
_SHARED = 256  # a pickle may name one image many times, but does not grow beyond so many times
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}
# Never needed here, and hashing a nested key can take for ever.
_TABLES = {"DICT", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET"}


class Verification:
    """The images of a `.bin` in order; images 2k and 2k + 1 are pair k.

    Attributes:
        same: whether pair k shows one person, (N,).

    Raises:
        DataError: no such file, a pickle that is damaged or asks for anything beyond bytes, or
            counts and types that do not fit together.
    """

    def __init__(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        content, offsets = _load(path, data)
        self._images, self.same = _check(path, content, len(data))
        self._name, self._offsets = path.name, offsets
        self.facts = Facts(
            kind="bin",
            name=path.name,
            fingerprint=fingerprint([data]),
            place=self.place,
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> FaceImage:
        return FaceImage(image=bytes(self._images[position]), identity="", key=str(position))

    def place(self, position: int) -> Place:
        """Where an image stands in the file."""
        offset = self._offsets.get(hash(bytes(self._images[position])))
        return Place(self._name, str(position), offset)


class Groups:
    """The `.bin` files of a folder as one set, as RFW is given out: each file is a group of people.

    Pairs stand by folds, and in each fold by groups in the byte order of the files' names: a fold
    of the whole holds that fold of every group, and each group's own folds are those of its file.

    Attributes:
        same: whether pair k shows one person, (N,).
        groups: the group of pair k, its file's name without `.bin`, (N,).

    Raises:
        DataError: no `.bin` in the folder, or one that is none.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("*.bin"), key=lambda path: os.fsencode(path.name))
        if not paths:
            raise DataError(f"{folder}: no *.bin in it; a verification set is such a file, or more")
        self._sets = [Verification(path) for path in paths]
        self._names = [path.stem for path in paths]
        order = [
            (number, int(pair))
            for fold in range(_FOLDS)
            for number, one in enumerate(self._sets)
            for pair in np.array_split(np.arange(len(one.same)), _FOLDS)[fold]
        ]
        self._pairs = order
        self.same = np.array([self._sets[number].same[pair] for number, pair in order], np.bool_)
        self.groups = [self._names[number] for number, _ in order]
        marks = [one.facts.fingerprint.encode() for one in self._sets]
        self.facts = Facts(
            kind="bin",
            name=folder.resolve().name,
            fingerprint=fingerprint([*(os.fsencode(path.name) for path in paths), *marks]),
            place=self._place,
        )

    def __len__(self) -> int:
        return 2 * len(self._pairs)

    def __getitem__(self, position: int) -> FaceImage:
        number, pair = self._pairs[position // 2]
        image = self._sets[number][2 * pair + position % 2]
        return image._replace(key=f"{self._names[number]}/{image.key}")

    def _place(self, position: int) -> Place:
        number, pair = self._pairs[position // 2]
        place = self._sets[number].place(2 * pair + position % 2)
        return replace(place, key=f"{self._names[number]}/{place.key}")


class _Dtype:
    """Stands for `numpy.dtype`; keeps the name, ignores the rest."""

    def __init__(self, name: object, *_: object) -> None:
        text = name.decode("latin-1") if isinstance(name, bytes) else name
        if not isinstance(text, str):
            raise TypeError("the name of a dtype is a string")
        self.name = text.lstrip("|<>=")

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands for `numpy.ndarray`: the bytes of an array of 1-byte items, (n,) or (n, 1)."""

    name = ""
    data: bytes | bytearray = b""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, data = state
        self.fill(data, dtype, shape)

    def fill(self, data: object, dtype: object, shape: object) -> None:
        if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
            raise TypeError("an array is rebuilt from bytes and a dtype")
        axes = shape if isinstance(shape, tuple) and len(shape) < 3 else ()
        # Bounded first: the product of two numbers of a million digits takes hours.
        small = all(type(n) is int and 0 <= n <= len(data) for n in axes)
        if not small or math.prod(axes) != len(data):
            raise ValueError(f"{len(data)} bytes do not fit the shape of their array")
        self.name, self.data = dtype.name, data


def _from_buffer(data: object, dtype: object, shape: object, _: object) -> _Array:
    """Stands for NumPy's `_frombuffer`, which pickle protocol 5 calls."""
    result = _Array()
    result.fill(data, dtype, shape)
    return result


def _scalar(dtype: object, data: object) -> bool:
    """Stands for NumPy's `scalar`; only a bool is wanted."""
    if not isinstance(dtype, _Dtype) or dtype.name != "b1":
        raise TypeError("a scalar that is no bool")
    return data != b"\0"


class _Unpickler(pickle.Unpickler):
    known: ClassVar[dict[tuple[str, str], object]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        **{
            (f"numpy.{core}.{module}", name): stand_in
            for core in ("core", "_core")
            for module, name, stand_in in (
                ("multiarray", "_reconstruct", _Array),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _from_buffer),
            )
        },
    }

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._left = len(data)

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        try:
            return self.known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; images and flags need no such name, and nothing "
                f"of it was run"
            ) from None

    def _encode(self, text: str, codec: object = "latin1") -> bytes:
        """Stands for `_codecs.encode`, by which protocol 2 of Python 3 writes bytes."""
        if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
            raise ValueError("bytes written in another codec than latin1")
        self._left -= len(text)
        if self._left < 0:
            raise ValueError("its texts, written out, are longer than the file")
        return text.encode("latin-1")


def _load(path: Path, data: bytes) -> tuple[Any, dict[int, int]]:
    """What the pickle holds, and by the hash of each string in it the byte where that begins."""
    offsets: dict[int, int] = {}
    try:
        for opcode, argument, offset in pickletools.genops(data):
            if opcode.name in _TABLES:
                raise pickle.UnpicklingError(f"it builds a dict or set ({opcode.name})")
            # The unpickler makes room for every memo number up to the one named.
            if opcode.name in _MEMO and not 0 <= int(argument or 0) <= len(data):
                raise pickle.UnpicklingError(f"memo number {argument} in {len(data)} bytes")
            if isinstance(argument, str):  # bytes, as Python 2 and protocol 2 write them
                argument = argument.encode("latin-1", "replace")
            if isinstance(argument, bytes | bytearray):
                offsets.setdefault(hash(bytes(argument)), int(offset or 0))
        return _Unpickler(data).load(), offsets
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        reason = (str(error) or type(error).__name__).partition("\n")[0][:200]
        raise DataError(f"{path} is no verification set: {reason}") from error


def _check(
    path: Path, content: Any, size: int
) -> tuple[list[bytes | bytearray], NDArray[np.bool_]]:
    match content:
        case (list() | tuple() as items, list() | tuple() | _Array() as flags):
            pass
        case _:
            raise DataError(f"{path} does not hold (images, same), but a {type(content).__name__}")
    same = list(flags.data) if isinstance(flags, _Array) else flags
    if len(items) != 2 * len(same) or not items:
        raise DataError(
            f"{path} holds {len(items)} images for {len(same)} pairs; two images a pair are wanted"
        )
    images: list[bytes | bytearray] = []
    for number, item in enumerate(items):
        image = item.data if isinstance(item, _Array) and item.name == "u1" else item
        if not isinstance(image, bytes | bytearray):
            raise DataError(
                f"{path}: image {number} is a {type(item).__name__.lstrip('_')}, not bytes or an "
                f"array of uint8"
            )
        images.append(image)
    total = sum(map(len, images))
    if total > _SHARED * size:
        raise DataError(
            f"{path} names the same images again and again: {total} bytes of images in a file of "
            f"{size}; at most {_SHARED} times as many are taken"
        )
    for number, flag in enumerate(same):
        if type(flag) not in (bool, int) or flag not in (0, 1):
            raise DataError(
                f"{path}: the flag of pair {number} is of type {type(flag).__name__}, not a bool"
            )
    return images, np.array(same, np.bool_)
