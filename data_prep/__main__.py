"""`python -m data_prep`: turns a face data set of any format into Parquet shards."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from data_prep.cuts import Cut, Options, pair_up, split
from data_prep.megaface import Listed, Megaface
from data_prep.prepare import Prepared, prepare
from data_prep.readers import Folder, List, Source
from data_prep.recordio import Recordio
from data_prep.screen import Screen
from data_prep.templates import Templates
from data_prep.verification import Groups, Verification
from facerec.data.shards import DataError

_EVALUATION = ("bin", "templates", "megaface")  # nothing is cut off these


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one preparation.

    Returns:
        Exit status: 0 good, 2 for what the user can mend, 3 when something was left out, 130 after
        Ctrl-C.
    """
    options = _parser().parse_args(argv)
    try:
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
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or options.dst}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command again continues", file=sys.stderr)
        return 130
    _summary(options.dst, prepared)
    if prepared.already:
        return 0
    if prepared.left_out:
        total = prepared.index["source"]["counts"]["images"]
        lost = dict(prepared.left_out)
        first = f"{lost.pop('images', 0)} of {total} images"
        print(", ".join([first, *(f"{n} of the {what}" for what, n in lost.items())]) + " left out")
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


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as all other errors do; the usage is in --help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m data_prep", description="Turns a face data set into Parquet shards."
    )
    commands = parser.add_subparsers(dest="kind", required=True, metavar="FORMAT")
    for kind, what, source in (
        ("recordio", "insightface's training folder: train.rec, train.idx", "the folder"),
        (
            "bin",
            "a verification set of pairs, such as lfw.bin",
            "the file, or a folder of them: a group of people each",
        ),
        ("folder", "one folder per identity", "the folder of folders"),
        ("list", "a MagFace list, or an im2rec .lst", "the list"),
        (
            "templates",
            "IJB-B or IJB-C in insightface's layout, faces aligned by their five points",
            "the folder of loose_crop/ and meta/",
        ),
        (
            "megaface",
            "probes, and distractors among whom they are sought",
            "the folder of facescrub_lst, facescrub_images/, megaface_lst, megaface_images/ and, "
            "where there are, facescrub_noises.txt, megaface_noises.txt",
        ),
        ("synthetic", "drawn faces", ""),
    ):
        command = commands.add_parser(
            kind,
            help=what,
            description=f"Prepares {what}.",
        )
        if source:
            command.add_argument("src", type=Path, metavar="SRC", help=source)
        command.add_argument("dst", type=Path, metavar="DST", help="folder of the prepared set")
        if kind == "list":
            command.add_argument(
                "--root",
                type=Path,
                default=Path(),
                help="folder that the paths are relative to (default: the current one)",
            )
        if kind == "megaface":
            for one, name, form in (
                ("probe", "facescrub", "identity/file"),
                ("distractor", "megaface", "a/b/file"),
            ):
                command.add_argument(
                    f"--{one}s",
                    type=Path,
                    metavar="LIST",
                    help=f"list of {one}s, a path a line that ends in {form} "
                    f"(default: SRC/{name}_lst)",
                )
                command.add_argument(
                    f"--{one}-root",
                    type=Path,
                    metavar="DIR",
                    help=f"folder that its paths are relative to (default: SRC/{name}_images)",
                )
        if kind == "synthetic":
            for option, default, what in (
                ("--identities", 400, "people"),
                ("--images", 10, "images of each"),
                ("--size", 112, "width and height in pixels"),
                ("--seed", 1, "of all that is drawn"),
            ):
                command.add_argument(
                    option,
                    type=_natural if option == "--seed" else _positive,
                    default=default,
                    metavar="N",
                    help=f"{what} (default: %(default)s)",
                )
        if kind not in _EVALUATION:
            for split in ("val", "confirm"):
                command.add_argument(
                    f"--{split}-identities",
                    type=_natural,
                    metavar="N",
                    help=f"identities cut off for {split}, 0 for none (default: a tenth, at least "
                    f"10; none when there are fewer than 40)",
                )
            command.add_argument(
                "--min-images",
                type=_positive,
                default=1,
                metavar="N",
                help="fewest images of an identity that is kept (default: %(default)s)",
            )
        command.add_argument(
            "--on-error",
            choices=("fail", "skip"),
            default="fail",
            help="what an image that cannot be used does: end the run, or be left out "
            "(default: fail)",
        )
    return parser


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _positive(text: str) -> int:
    if _natural(text) == 0:
        raise argparse.ArgumentTypeError("0 is too small: 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
