"""`leaks.json` of a training set: which images of evaluation sets its training split holds too.

Written and read in one place. `python -m data_prep leaks` makes the comparison and calls `write`;
model cards and sweeps `read`. A finding is of two sets as they were, by the SHA-256 of each one's
`index.json`, which holds the hashes of all of their files: of other versions nothing is claimed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from facerec.data.errors import DataError
from facerec.data.index import index_file
from facerec.data.place import folder_of
from facerec.data.writer import write_json

Place: TypeAlias = str | os.PathLike[str]

NAME = "leaks.json"
EXAMPLES = 20  # at most so many of each kind are kept
_VERSION = 1


@dataclass(frozen=True)
class Leaks:
    """What one evaluation set shares with a training split.

    Attributes:
        name: The evaluation set's folder, or `val`, `confirm` of the training set itself.
        index_sha256: Of the evaluation set's `index.json`.
        split: `val` or `confirm` where it is a part of the training set itself, else empty.
        images: How many it has.
        identical: Images with the same pixels as a training image.
        near: Further images that are near-identical to one.
        identities: Different names of people in it; None where names could not be compared.
        shared: How many of these names are in the training split too; None where they could not.
        remark: Why names could not be compared, else empty.
        examples: Up to 20 of the images: `key`, `train_key`, `distance` in bits of the hash, `same`
            pixels or not.
        shared_examples: Up to 20 of the names.
        distance: Most bits in which hashes of near-identical images differ.
        correlation: Least correlation of the shapes of near-identical images.
        tool: What compared.
    """

    name: str
    index_sha256: str
    split: str
    images: int
    identical: int
    near: int
    identities: int | None
    shared: int | None
    remark: str
    examples: Sequence[Mapping[str, Any]]
    shared_examples: Sequence[str]
    distance: int
    correlation: float
    tool: str

    @property
    def fraction(self) -> float:
        """The share of the set's images that are identical or near-identical to training images."""
        return (self.identical + self.near) / self.images if self.images else 0.0

    @property
    def found(self) -> bool:
        """Whether anything leaks: an image, or a name."""
        return bool(self.identical or self.near or self.shared)

    @property
    def sentence(self) -> str:
        """The finding in one line."""
        images = (
            f"{self.identical + self.near:,} of {self.images:,} images identical or near-identical "
            "to training images"
        )
        if self.identities is None or self.shared is None:
            return f"{images}; identity names could not be compared ({self.remark})"
        if not self.shared:
            return images
        return f"{images}; {self.shared:,} of {self.identities:,} identity names are in both"


def read(train: Place, evaluation: Place, split: str = "") -> Leaks | None:
    """Reads what is known of one evaluation set.

    Args:
        train: Folder or URL of the training set.
        evaluation: Folder or URL of the evaluation set.
        split: `val` or `confirm`, where `evaluation` is the training set itself.

    Returns:
        None where the two were never compared, either has changed since, or one is not there.
    """
    try:
        wanted = (index_sha256(evaluation), split)
        known = {(leaks.index_sha256, leaks.split): leaks for leaks in _read(train)}
    except DataError:
        return None
    return known.get(wanted)


def told(train: Place, evaluation: Place, split: str = "") -> str:
    """One line about an evaluation set: the finding, or the command that would find out.

    Args:
        train: Folder or URL of the training set.
        evaluation: Folder or URL of the evaluation set.
        split: `val` or `confirm`, where `evaluation` is the training set itself.
    """
    found = read(train, evaluation, split)
    if found is not None:
        return found.sentence
    folders = [train] if split else [train, evaluation]
    return f"not checked: python -m data_prep leaks {shlex.join(map(str, folders))}"


def write(train: Path, found: Sequence[Leaks]) -> Path:
    """Adds findings to those that still hold; a set compared again has its newest finding.

    Args:
        train: Folder of the training set.
        found: Of the sets that were compared now.

    Returns:
        The file; it is replaced whole.

    Raises:
        DataError: The training set has no `index.json`.
    """
    handle = os.open(train, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no such lock
            fcntl.flock(handle, fcntl.LOCK_EX)
        key = index_sha256(train)
        new = {(leaks.name, leaks.split) for leaks in found}
        kept = [leaks for leaks in _read(train) if (leaks.name, leaks.split) not in new]
        rows = [{**asdict(leaks), "fraction": leaks.fraction} for leaks in [*kept, *found]]
        rows.sort(key=lambda row: (not row["split"], row["name"], row["index_sha256"]))
        content = {"version": _VERSION, "train": {"index_sha256": key}, "sets": rows}
        write_json(train / NAME, content)
    finally:
        os.close(handle)
    return train / NAME


def index_sha256(place: Place) -> str:
    """The SHA-256 of a set's `index.json`, hexadecimal.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return hashlib.sha256(index_file(place).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{place}/index.json cannot be read ({error.strerror})") from None


def _read(train: Place) -> list[Leaks]:
    """The findings that are of this version of the training set; a damaged file has none."""
    key = index_sha256(train)
    try:
        content = json.loads((folder_of(train) / NAME).read_text(encoding="utf-8"))
        if content["version"] != _VERSION or content["train"]["index_sha256"] != key:
            return []
        names = Leaks.__dataclass_fields__
        return [Leaks(**{name: row[name] for name in names}) for row in content["sets"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []
