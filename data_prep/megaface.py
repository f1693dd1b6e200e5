"""MegaFace-type identification as a source: probes, and distractors among whom they are sought."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.cuts import Options, Plan, part_of, unlabelled
from data_prep.damage import Damage
from data_prep.lines import Root, repeats
from data_prep.readers import Facts, digest, fingerprint, read_bytes
from data_prep.scan import Images
from facerec.data.shards import DataError, FaceImage

_PROBE, _DISTRACTOR = 2, 3  # parts of a path: `identity/file`, `a/b/file`


@dataclass(frozen=True)
class Listed:
    """A list of images.

    Attributes:
        path: the list, one path per line.
        root: the folder that the paths in it are relative to.
        noises: a list of the noisy ones among them; may be missing.
    """

    path: Path
    root: Path
    noises: Path


class Megaface:
    """Probes in the order of their list, then distractors in the order of theirs.

    Args:
        probes: paths that end in `identity/file`; noisy ones are listed by `file`.
        distractors: paths that end in `a/b/file`; noisy ones are listed by that.
        name: of the set.

    Raises:
        DataError: a list or folder is missing, or a line is not of its format.
    """

    def __init__(self, probes: Listed, distractors: Listed, name: str) -> None:
        self._probes = _Side(probes, _PROBE, "probe")
        self._distractors = _Side(distractors, _DISTRACTOR, "distractor")
        self.facts = Facts(
            kind="megaface",
            name=name,
            fingerprint=fingerprint([*self._probes.origin, *self._distractors.origin]),
            columns=(("noisy", pa.bool_()),),
        )

    def __len__(self) -> int:
        return len(self._probes.paths) + len(self._distractors.paths)

    def __getitem__(self, position: int) -> FaceImage:
        probes = len(self._probes.paths)
        if position >= probes:
            return self._distractors.read(position - probes, identity="")
        return self._probes.read(position, self._probes.key(position).partition("/")[0])

    def cut(self, images: Images, facts: Facts, options: Options, damage: Damage) -> Plan:
        """`train` holds the probes, `distractors` the others; both in the order of the lists.

        Raises:
            DataError: one of the two is empty.
        """
        probes = len(self._probes.paths)
        probe = images.positions < probes
        for what, there in (("probe", probe), ("distractor", ~probe)):
            if not there.any():
                raise DataError(f"{facts.name}: no {what} is left that can be used")
        people = np.array([n for n, name in enumerate(images.identities) if name])
        counts = {
            "images": images.total,
            "left_out": images.total - len(images.positions),
            "identities": len(people),
            "noisy_probes": sum(map(self._probes.noisy, images.positions[probe].tolist())),
            "noisy_distractors": sum(
                map(self._distractors.noisy, (images.positions[~probe] - probes).tolist())
            ),
        }
        others = unlabelled(images.positions[~probe])
        return Plan({"train": part_of(images, people), "distractors": others}, counts)


class _Side:
    """The images of one list; `origin` tells it from other lists and roots."""

    def __init__(self, listed: Listed, parts: int, what: str) -> None:
        if not listed.root.is_dir():
            raise DataError(
                f"{listed.root}: no such folder of {what}s; --{what}-root DIR names another"
            )
        if not listed.path.is_file():
            raise DataError(f"{listed.path}: no such list; --{what}s LIST names another")
        self._listed, self._parts, self._root = listed, parts, Root(listed.root)
        self.paths = read_list(listed.path, parts)
        noises = listed.noises.is_file()
        self._noises = read_noises(listed.noises) if noises else frozenset()
        self.origin = [str(listed.root.resolve()), digest(listed.path)]
        self.origin += [digest(listed.noises)] if noises else ["no noises"]
        # A distractor that is there twice is two distractors: nothing is won by that.
        names = array("q", (hash(self.key(n)) for n in range(len(self.paths) * (parts == _PROBE))))
        self._again = repeats(names)

    def key(self, row: int) -> str:
        return "/".join(self.paths[row].split("/")[-self._parts :])

    def noisy(self, row: int) -> bool:
        key = self.key(row)
        return (key.rpartition("/")[2] if self._parts == _PROBE else key) in self._noises

    def read(self, row: int, identity: str) -> FaceImage:
        key, path = self.key(row), self.paths[row]
        if row in self._again and self.key(self._again[row]) == key:
            raise DataError(
                f"probe {row + 1} of {self._listed.path.name} is probe {self._again[row] + 1} "
                f"again and would find itself: delete the line, or --on-error skip",
                key=key,
            )
        try:
            image = read_bytes(self._root.find(path), key)
        except DataError as error:
            raise DataError(error.reason, shard=self._listed.path.name, key=key) from error
        return FaceImage(image=image, identity=identity, key=key, more={"noisy": self.noisy(row)})


def read_list(path: Path, parts: int) -> list[str]:
    """Reads `facescrub_lst` (2 parts: `identity/file`) or `megaface_lst` (3: `a/b/file`).

    Returns:
        Each line's path, in order; it may have more parts before the last ones.

    Raises:
        DataError: a file that cannot be read or names nothing, or a line that is no such path.
    """
    names = []
    for number, line in _lines(path):
        words = line.split("/")[-parts:]
        if len(words) < parts or not all(words) or {".", ".."} & set(words):
            raise DataError(f"{path}, line {number}: {line[:80]!r} is no path of {parts} parts")
        names.append(line)
    if not names:
        raise DataError(f"{path} names no image: it has no line that is not empty")
    return names


def read_noises(path: Path) -> frozenset[str]:
    """Reads a list of noisy images: the second column where there are two; `#` starts a comment.

    Returns:
        File names (`facescrub_noises.txt`) or `a/b/file` (`megaface_noises.txt`).

    Raises:
        DataError: a file that cannot be read.
    """
    columns = (line.split("\t") for _, line in _lines(path) if not line.startswith("#"))
    return frozenset(column[1 if len(column) > 1 else 0] for column in columns)


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines with something on them, and their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start} is no text") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in lines if line]
