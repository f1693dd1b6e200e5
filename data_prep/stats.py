"""`python -m data_prep stats`: what is in a prepared set, as tables and as a plot."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from data_prep.looks import Looks, look, together
from data_prep.near import groups, near_groups
from data_prep.screen import Screen
from data_prep.stats_plot import plot
from facerec.data.place import url_of
from facerec.data.shards import DataError, Shards, Split
from facerec.data.writer import write_bytes, write_table

Ints = NDArray[np.int64]

TABLE, PLOT = "stats.parquet", "stats.png"
KINDS = {"same_bytes": "same bytes", "same_pixels": "same pixels", "near": "near-identical"}
SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("key", pa.string()),
        ("label", pa.int32()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        *((kind, pa.int64()) for kind in KINDS),
    ]
)
WHOSE = ("one identity", "several identities", "unknown identities")


def add(commands: Any) -> None:
    """Adds the command `stats`."""
    command = commands.add_parser(
        "stats",
        help="show what is in a prepared set, and which images are duplicates",
        description=f"Prints tables of a prepared set and writes {TABLE}, a row per image, and "
        f"{PLOT}: images per identity, bytes, brightness, and duplicates: the same bytes, the same "
        "pixels, and near-identical images.",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="folder of the prepared set")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="where both files go (default: the set's folder)"
    )


def run(options: argparse.Namespace) -> int:
    """Measures a set, prints and writes what it found; gives 0."""
    shards = Shards(options.folder)
    if options.out is None and url_of(options.folder):
        raise DataError(f"{shards.place}: give --out DIR, a folder of yours for {TABLE} and {PLOT}")
    folder = shards.path if options.out is None else options.out
    folder.mkdir(parents=True, exist_ok=True)
    splits = [shards.split(name) for name in ("train", *shards.index["splits"])]
    with Screen() as screen:
        each = [look(split, screen) for split in splits]
        every = together(each)
        duplicates = {
            "same_bytes": groups(every.content),
            "same_pixels": groups(every.pixels),
            "near": near_groups(every),
        }
    people, parts = _people(splits), np.repeat(np.arange(len(splits)), [s.rows for s in splits])
    counts = {kind: count(found, people, parts) for kind, found in duplicates.items()}
    write_table(folder / TABLE, SCHEMA, _rows(splits, every, duplicates))
    looks = {split.name: found for split, found in zip(splits, each, strict=True)}
    title = f"{Path(shards.place).name}: {len(people):,} images"
    write_bytes(folder / PLOT, plot(title, looks, counts))
    console = Console()
    console.print(_splits_table(looks))
    console.print(_duplicates_table(counts))
    print(f"tables and plot: {folder / TABLE}, {folder / PLOT}")
    return 0


def count(found: Ints, people: Ints, parts: Ints) -> dict[str, int]:
    """Counts groups of duplicates.

    Args:
        found: (n,), the group of each image, -1 for none.
        people: (n,), the identity of each image, -1 where unknown.
        parts: (n,), the split of each image.

    Returns:
        Groups of `one identity`, of `several identities` (wrong labels, most likely) and of
        `unknown identities`, the images in each under the same names with ` images`, and
        `several splits`: groups with images of more than one split.
    """
    rows = np.flatnonzero(found >= 0)
    number = int(found.max(initial=-1)) + 1
    least, most = _ends(found[rows], people[rows], number)
    kind = np.where(least == most, 0, 1)
    kind[least < 0] = 2
    sizes = np.bincount(found[rows], minlength=number)
    counts = {}
    for code, name in enumerate(WHOSE):
        counts[name] = int((kind == code).sum())
        counts[f"{name} images"] = int(sizes[kind == code].sum())
    first, last = _ends(found[rows], parts[rows], number)
    counts["several splits"] = int((first != last).sum())
    return counts


def _ends(group: Ints, values: Ints, number: int) -> tuple[Ints, Ints]:
    """The least and the largest value in each group."""
    least, most = np.full(number, np.iinfo(np.int64).max), np.full(number, -1)
    np.minimum.at(least, group, values)
    np.maximum.at(most, group, values)
    return least, most


def _people(splits: list[Split]) -> Ints:
    """A number of each image's identity by its name, the same in all splits; -1 where unknown."""
    names: dict[str, int] = {}
    found = []
    for split in splits:
        columns = split.columns(["identity", "label"])
        numbers = (names.setdefault(name, len(names)) for name in columns["identity"])
        codes = np.fromiter(numbers, np.int64, split.rows)
        found.append(np.where(columns["label"] < 0, -1, codes))
    return np.concatenate(found)


def _rows(splits: list[Split], looks: Looks, duplicates: Mapping[str, Ints]) -> Iterator[pa.Table]:
    """The table, a row group of the shards at a time: their keys are read again."""
    first = 0
    for split in splits:
        for group in range(len(split.group_rows)):
            keys = split.read(group).keys
            rows = slice(first, first + len(keys))
            columns = [
                [split.name] * len(keys),
                keys,
                *(
                    getattr(looks, name)[rows]
                    for name in ("labels", "size", "width", "height", "brightness", "contrast")
                ),
            ]
            arrays = [pa.array(c, kind.type) for c, kind in zip(columns, SCHEMA, strict=False)]
            for kind in KINDS:
                found = duplicates[kind][rows]
                arrays.append(pa.array(found, pa.int64(), mask=found < 0))
            yield pa.Table.from_arrays(arrays, schema=SCHEMA)
            first += len(keys)


def _splits_table(looks: Mapping[str, Looks]) -> Table:
    rows: dict[str, list[str]] = {}
    for found in looks.values():
        sizes = np.bincount(found.labels[found.labels >= 0])
        each = f"{sizes.min():,}/{np.median(sizes):g}/{sizes.max():,}" if len(sizes) else ""
        low, middle, high = np.percentile(found.size / 1000, (1, 50, 99))
        for what, cell in (
            ("images", f"{len(found.size):,}"),
            ("identities", f"{len(sizes):,}" if len(sizes) else "unknown"),
            ("of each: min/median/max", each),
            ("kB: 1 %/median/99 %", f"{low:,.1f}/{middle:,.1f}/{high:,.1f}"),
            ("brightness", _spread(found.brightness)),
            ("contrast", _spread(found.contrast)),
        ):
            rows.setdefault(what, []).append(cell)
    return _table(["", *looks], rows)


def _duplicates_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    rows: dict[str, list[str]] = {}
    for found in counts.values():
        for whose in WHOSE:
            cell = f"{found[whose]:,}/{found[f'{whose} images']:,}"
            rows.setdefault(f"of {whose}", []).append(cell)
        rows.setdefault("across splits: groups", []).append(f"{found['several splits']:,}")
    if not any(found[WHOSE[-1]] for found in counts.values()):
        del rows[f"of {WHOSE[-1]}"]
    return _table(["duplicates: groups/images", *(KINDS[kind] for kind in counts)], rows)


def _table(head: list[str], rows: Mapping[str, list[str]]) -> Table:
    table = Table()
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for what, cells in rows.items():
        table.add_row(what, *cells)
    return table


def _spread(values: NDArray[np.float32]) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f}"
