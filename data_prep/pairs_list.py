"""LFW's `pairs.txt` over a folder of images: a verification set."""

from __future__ import annotations

import os
import string
from array import array
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.cuts import Options, Plan, Table, unlabelled
from data_prep.damage import Damage
from data_prep.lines import Lines, Root
from data_prep.readers import Facts, Place, fingerprint, read_bytes
from data_prep.scan import Images
from facerec.data.shards import DataError, FaceImage

LAYOUT = "{name}/{name}_{number:04d}.jpg"
_DIGITS = 9  # of a number, at most


@dataclass(frozen=True)
class _Pair:
    """One pair: its two faces as (name, number)."""

    first: tuple[str, int]
    second: tuple[str, int]

    @property
    def same(self) -> bool:
        return self.first[0] == self.second[0]


class PairsList:
    """The images that a `pairs.txt` names, each once, in the order in which it first names them.

    Lines are `name i j` (one person) and `name1 i name2 j` (two), by tabs or blanks. The first line
    may say `folds n`: so many folds of n pairs of one person and n of two; or `n` alone, for one
    such part without folds; or be a pair already.

    Args:
        path: the list.
        root: the folder of the images.
        layout: path of an image below it, with the fields `name` and `number`.

    Raises:
        DataError: the list or the folder is missing, the layout has other fields, or no line is a
            pair.
    """

    def __init__(self, path: Path, root: Path, layout: str = LAYOUT) -> None:
        if not root.is_dir():
            raise DataError(f"--root {root}: no such folder")
        _check_layout(layout)
        self._lines, self._root, self._layout = Lines(path), Root(root), layout
        self._images: dict[tuple[str, int], int] = {}
        self._named: list[int] = []  # of each image, the line that names it first
        self._ends, self._slots = array("q"), array("q")  # of each pair: two images; its line
        folds, half = self._header()
        self._fold_size = 2 * half if folds else 0
        faults = self._read_pairs(skip=half > 0, promised=2 * half * max(folds, 1))
        if not self._slots:
            raise faults[0] if faults else DataError(f"{path} names no pair")
        self._faces = list(self._images)
        self.facts = Facts(
            kind="pairs",
            name=path.name,
            fingerprint=fingerprint(chain([str(root.resolve()), layout], self._lines.contents())),
            place=self._place,
            faults=tuple(faults),
            faulty="lines",
        )

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, position: int) -> FaceImage:
        place = self._place(position)
        key = place.key or ""
        try:
            image = self._root.find(key)
        except DataError as error:
            raise place.error(error.reason) from error
        if not os.path.isfile(image):
            raise place.error(f"{os.path.abspath(image)} is missing")
        data = read_bytes(image, key)
        return FaceImage(image=data, identity=self._faces[position][0], key=key)

    def cut(self, images: Images, facts: Facts, options: Options, damage: Damage) -> Plan:
        """The images of whole pairs, label -1; a pair goes with either of its images.

        Raises:
            DataError: no pair is left.
        """
        good = np.zeros(len(self), bool)
        good[images.positions] = True
        ends = np.frombuffer(self._ends, np.int64).reshape(-1, 2)
        slots = np.frombuffer(self._slots, np.int64)
        whole = good[ends].all(axis=1)
        for pair in np.flatnonzero(~whole).tolist():
            line = self._lines[int(slots[pair])]
            gone = next(int(end) for end in ends[pair] if not good[end])
            place = Place(facts.name, line.text, line.offset, line.number)
            damage.refuse(place.error(f"the image {self._place(gone).key} is left out"))
        if not whole.any():
            raise DataError(f"{facts.name}: no pair is left of which both images can be read")
        part = unlabelled(np.unique(ends[whole]))
        for position in np.setdiff1d(images.positions, part.positions).tolist():
            damage.refuse(self._place(position).error("no pair of it is left"))
        first, second = np.searchsorted(part.positions, ends[whole]).T
        same = [self._pair(slot).same for slot in slots[whole].tolist()]
        table = pa.table({"first": first, "second": second, "same": pa.array(same, pa.bool_())})
        if self._fold_size:
            folds = (slots[whole] - 1) // self._fold_size
            table = table.append_column("fold", pa.array(folds, pa.int32()))
        counts = {"images": images.total, "left_out": images.total - len(part.positions)}
        if not whole.all():
            counts["pairs_left_out"] = int((~whole).sum())
        return Plan({"train": part}, counts, (Table(("pairs",), "pairs.parquet", table),))

    def _header(self) -> tuple[int, int]:
        """Folds and pairs of each kind in a fold, as the first line says; 0 for what it does not.

        Raises:
            DataError: the list is empty, or the line promises nothing.
        """
        if not len(self._lines):
            raise DataError(f"{self._lines.path} names no pair: it has no line that is not empty")
        line = self._lines[0]
        words = line.text.split()
        if len(words) > 2 or not all(_is_number(word) for word in words):
            return 0, 0
        numbers = [int(word) for word in words]
        if 0 in numbers:
            raise Place(self._lines.path.name, None, line.offset, line.number).error(
                f"the header {line.text!r} promises no pair: 'folds pairs' are wanted, such as "
                f"10 300"
            )
        return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, numbers[0])

    def _read_pairs(self, skip: bool, promised: int) -> list[DataError]:
        """Reads every pair; gives what is wrong with lines, in their order."""
        faults = []
        for slot in range(int(skip), len(self._lines)):
            try:
                pair = self._pair(slot)
                if promised and slot > promised:
                    raise ValueError(f"pair {slot} of the {promised} that the header promises")
            except ValueError as error:
                line = self._lines[slot]
                place = Place(self._lines.path.name, None, line.offset, line.number)
                faults.append(place.error(str(error)))
                continue
            for face in (pair.first, pair.second):
                if face not in self._images:
                    self._named.append(slot)
                self._ends.append(self._images.setdefault(face, len(self._images)))
            self._slots.append(slot)
        found = len(self._lines) - int(skip)
        if found < promised:
            message = f"the header promises {promised} pairs, the file ends after {found}"
            faults.append(DataError(message, shard=self._lines.path.name))
        return faults

    def _pair(self, slot: int) -> _Pair:
        """The pair of a line; `ValueError` where it names none."""
        text = self._lines[slot].text
        words = [word.strip() for word in (text.split("\t") if "\t" in text else text.split())]
        wrong = ValueError(
            f"{text[:80]!r} is no pair: 'name i j' (one person) or 'name1 i name2 j' (two) is "
            f"wanted, by tabs"
        )
        if len(words) not in (3, 4) or not all(words):
            raise wrong
        name, number, *other, last = words
        if not (_is_number(number) and _is_number(last)):
            raise wrong
        pair = _Pair((name, int(number)), (other[0] if other else name, int(last)))
        if other and pair.same:
            raise ValueError(f"{text[:80]!r} pairs two people, and both are {name[:80]}")
        if pair.first == pair.second:
            raise ValueError(f"{text[:80]!r} pairs an image with itself")
        return pair

    def _place(self, position: int) -> Place:
        name, number = self._faces[position]
        line = self._lines[self._named[position]]
        key = self._layout.format(name=name, number=number)
        return Place(self._lines.path.name, key, line.offset, line.number)


def _check_layout(layout: str) -> None:
    """Refuses a layout that does not tell images apart, or has other fields."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(layout) if field is not None}
        if fields != {"name", "number"}:
            raise ValueError("the fields name and number are wanted")
        layout.format(name="Ada", number=1)
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"--layout {layout!r}: {error}; the default is {LAYOUT!r}") from error


def _is_number(word: str) -> bool:
    return word.isdecimal() and len(word) <= _DIGITS
