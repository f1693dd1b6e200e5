"""`python -m data_prep leaks`: images and people that a training set shares with test sets."""

from __future__ import annotations

import argparse
import unicodedata
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from data_prep.looks import CORRELATION, DISTANCE, Looks, look, together
from data_prep.near import nearest
from data_prep.screen import Screen
from facerec.data.leaks import EXAMPLES, Leaks, index_sha256, write
from facerec.data.place import url_of
from facerec.data.shards import DataError, Shards, Split

_FOUND = 3  # exit status
_OWN = ("val", "confirm")


class _Names(NamedTuple):
    """Different names of people, as they are compared, and why they say nothing, or nothing."""

    names: dict[str, str]  # folded -> as it stands
    remark: str


def add(commands: Any) -> None:
    """Adds the command `leaks`."""
    what = "report images and people that a training set shares with evaluation sets"
    command = commands.add_parser(
        "leaks",
        help=what,
        description=f"Says which images and identity names {what.partition(' ')[2]}, and its own "
        "val and confirm splits. Writes TRAIN/leaks.json. Exit status 3 where there are any.",
    )
    command.add_argument("train", type=Path, metavar="TRAIN", help="folder of the training set")
    command.add_argument(
        "evaluation", type=Path, nargs="*", metavar="EVAL", help="folder of an evaluation set"
    )


def run(options: argparse.Namespace) -> int:
    """Compares, prints a table and writes `leaks.json`; gives 0, or 3 where something leaks."""
    if url_of(options.train):
        raise DataError(
            f"{url_of(options.train)}: the report is written beside the training set's shards, "
            "which have to lie in a folder of this machine"
        )
    shards, others = Shards(options.train), [Shards(place) for place in options.evaluation]
    own = [name for name in _OWN if name in shards.index["splits"]]
    key = index_sha256(shards.path)
    for other in others:
        if index_sha256(other.place) == key:
            raise DataError(
                f"{other.place} is the training set {shards.path} itself; its val and confirm "
                "splits are compared without being named"
            )
    if not own and not others:
        raise DataError(
            f"{shards.path} has no val or confirm split, and no other set is named: "
            "python -m data_prep leaks TRAIN EVAL"
        )
    with Screen() as screen:
        train = look(shards.split(), screen)
        found = []
        for name in own:
            part = shards.split(name)
            names = _names([shards.split()]), _names([part])
            found.append(
                _compare(shards, train, names, [part], look(part, screen), (name, key, name))
            )
        for other in others:
            parts = [other.split(name) for name in ("train", *other.index["splits"])]
            names = _telling(_names([shards.split()])), _telling(_names(parts))
            looks = together([look(part, screen) for part in parts])
            place = _name(other), index_sha256(other.place), ""
            found.append(_compare(shards, train, names, parts, looks, place))
    _show(found)
    path = write(shards.path, found)
    print(f"{path}: {_summary(found)}")
    return _FOUND if any(leaks.found for leaks in found) else 0


def _compare(
    shards: Shards,
    train: Looks,
    names: tuple[_Names, _Names],
    parts: list[Split],
    looks: Looks,
    place: tuple[str, str, str],
) -> Leaks:
    rows, distances = nearest(train, looks)
    hit = np.flatnonzero(rows >= 0)
    shown = hit[np.lexsort((hit, distances[hit]))][:EXAMPLES]  # identical ones first
    keys, train_keys = _keys(parts, shown), _keys([shards.split()], rows[shown])
    known, own = names
    remark = own.remark or known.remark
    shared = sorted(own.names[name] for name in own.names.keys() & known.names.keys())
    return Leaks(
        name=place[0],
        index_sha256=place[1],
        split=place[2],
        images=len(rows),
        identical=int((distances[hit] < 0).sum()),
        near=int((distances[hit] >= 0).sum()),
        identities=None if remark else len(own.names),
        shared=None if remark else len(shared),
        remark=remark,
        examples=[
            {
                "key": keys[row],
                "train_key": train_keys[rows[row]],
                "distance": max(int(distances[row]), 0),
                "same": bool(distances[row] < 0),
            }
            for row in shown.tolist()
        ],
        shared_examples=[] if remark else shared[:EXAMPLES],
        distance=DISTANCE,
        correlation=CORRELATION,
        tool=f"facerec {_version()}",
    )


def _names(parts: Iterable[Split]) -> _Names:
    """Names are equal in whatever case, form of Unicode, and with blanks or underscores."""
    found: dict[str, str] = {}
    for part in parts:
        columns = part.columns(["identity", "label"])
        for name in set(columns["identity"][columns["label"] >= 0].tolist()) - {""}:
            folded = unicodedata.normalize("NFKC", name).casefold()
            found[" ".join(folded.replace("_", " ").split())] = name
    return _Names(found, "" if found else "identities are unknown")


def _telling(names: _Names) -> _Names:
    """Numbers count the people of one source: in another source they are other people's."""
    if names.names and all(name.isdecimal() for name in names.names):
        return _Names({}, "names are numbers")
    return names


def _keys(parts: list[Split], rows: NDArray[np.int64]) -> dict[int, str]:
    """The keys of some rows, counted over all parts."""
    found: dict[int, str] = {}
    wanted = set(rows.tolist())
    first = 0
    for part in parts:
        for group, count in enumerate(part.group_rows):
            here = wanted & set(range(first, first + count))
            if here:
                keys = part.read(group).keys
                found |= {row: keys[row - first] for row in here}
            first += count
    return found


def _show(found: Iterable[Leaks]) -> None:
    table = Table("set", "images", "identical", "near-identical", "fraction", "identity names")
    for leaks in found:
        names = f"not compared: {leaks.remark}"
        if leaks.shared is not None:
            names = f"{leaks.shared:,} of {leaks.identities:,} in both"
        numbers = (leaks.images, leaks.identical, leaks.near)
        table.add_row(leaks.name, *(f"{n:,}" for n in numbers), f"{leaks.fraction:.4%}", names)
    Console().print(table)


def _summary(found: list[Leaks]) -> str:
    leaking = [leaks.name for leaks in found if leaks.found]
    blind = [leaks.name for leaks in found if leaks.shared is None]
    told = f"leaks in {', '.join(leaking)}"
    if not leaking:
        told = f"no leaks found in {', '.join(leaks.name for leaks in found)}"
    return f"{told}; names were not compared for {', '.join(blind)}" if blind else told


def _name(shards: Shards) -> str:
    return Path(shards.place).resolve().name


def _version() -> str:
    try:
        return metadata.version("facerec")
    except metadata.PackageNotFoundError:
        return "from its sources"
