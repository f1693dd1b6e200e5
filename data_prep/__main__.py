"""`python -m data_prep`: turns a face data set of any format into Parquet shards."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_prep import align, leaks, stats, verify
from data_prep.cuts import Cut, Options, pair_up, split
from data_prep.lists import List
from data_prep.megaface import Listed, Megaface
from data_prep.options import Tool, parser
from data_prep.pairs_list import PairsList
from data_prep.parquet_rows import Columns, ParquetRows
from data_prep.prepare import Prepared, prepare
from data_prep.readers import Folder, Source
from data_prep.recordio import Recordio
from data_prep.screen import Screen
from data_prep.templates import Templates
from data_prep.verification import Groups, Verification
from facerec.data.shards import DataError

# By the name of the command that each adds and runs.
_TOOLS: Mapping[str, Tool] = {"verify": verify, "stats": stats, "leaks": leaks, "align": align}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        Exit status: 0 good, 2 for what the user can mend, 3 when something was left out or leaks
        were found, 130 after Ctrl-C.
    """
    options = parser(_TOOLS.values()).parse_args(argv)
    tool = _TOOLS.get(options.kind)
    try:
        return _prepare(options) if tool is None else tool.run(options)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = error.filename or getattr(options, "dst", options.kind)
        print(f"error: {place}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = tool is None or tool is align
        more = "; the same command again continues" if goes_on else ""
        print(f"interrupted{more}", file=sys.stderr)
        return 130


def _prepare(options: argparse.Namespace) -> int:
    with Screen() as screen:
        source, cut = _source(options)
        prepared = prepare(
            source,
            options.dst,
            Options(
                val_identities=getattr(options, "val_identities", 0),
                confirm_identities=getattr(options, "confirm_identities", 0),
                min_images=getattr(options, "min_images", 1),
                skip_errors=getattr(options, "on_error", "fail") == "skip",
            ),
            said=_said(options),
            tell=screen,
            cut=cut,
        )
    _summary(options.dst, prepared)
    if prepared.already:
        return 0
    if prepared.left_out:
        total = prepared.index["source"]["counts"]["images"]
        lost = dict(prepared.left_out)
        first = f"{lost.pop('images', 0)} of {total} images"
        said = ", ".join([first, *(f"{n} of the {what}" for what, n in lost.items())])
        print(f"{said} left out: {options.dst / 'damage.csv'} says which and why")
        return 3
    return 0


def _source(options: argparse.Namespace) -> tuple[Source, Cut]:
    """What is read, and how it becomes a set."""
    match options.kind:
        case "recordio":
            return Recordio(options.src), split
        case "bin":
            if options.src.is_dir():
                groups = Groups(options.src)
                return groups, pair_up(groups.same, groups.groups)
            verification = Verification(options.src)
            return verification, pair_up(verification.same)
        case "folder":
            return Folder(options.src), split
        case "list":
            return List(options.src, options.root), split
        case "pairs":
            pairs = PairsList(options.src, options.root, options.layout)
            return pairs, pairs.cut
        case "parquet":
            columns = Columns(options.image_column, options.label_column, options.key_column)
            return ParquetRows(options.src, columns, beside=options.dst), split
        case "templates":
            templates = Templates(options.src)
            return templates, templates.cut
        case "megaface":
            megaface = _megaface(options)
            return megaface, megaface.cut
        case _:
            from data_prep.drawn import Drawn

            return Drawn(options.identities, options.images, options.size, options.seed), split


def _megaface(options: argparse.Namespace) -> Megaface:
    sides = (
        ("facescrub", options.probes, options.probe_root),
        ("megaface", options.distractors, options.distractor_root),
    )
    probes, distractors = (
        Listed(
            path=listed or options.src / f"{name}_lst",
            root=root or options.src / f"{name}_images",
            noises=options.src / f"{name}_noises.txt",
        )
        for name, listed, root in sides
    )
    return Megaface(probes, distractors, name=options.src.resolve().name)


def _said(options: argparse.Namespace) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in ("kind", "src", "dst")
    }


def _summary(folder: Path, prepared: Prepared) -> None:
    index = prepared.index
    width, height = index["image_size"]
    state = "already prepared" if prepared.already else "prepared"
    print(f"{folder}: {state}, images of {width} x {height}")
    rows: list[tuple[object, ...]]
    if "pairs" in index:
        table = Table("pairs", "images", "shards")
        rows = [(index["pairs"]["rows"], index["rows"], len(index["shards"]))]
    elif "templates" in index:
        tables = index["templates"]
        table = Table("templates", "images", "shards", *tables)
        templates = index["source"]["counts"]["templates"]
        sizes = (entry["rows"] for entry in tables.values())
        rows = [(templates, index["rows"], len(index["shards"]), *sizes)]
    else:
        table = Table("split", "identities", "images", "shards")
        rows = [
            (name, entry["classes"], entry["rows"], len(entry["shards"]))
            for name, entry in {"train": index, **index["splits"]}.items()
        ]
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
