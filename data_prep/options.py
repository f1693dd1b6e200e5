"""The options of `python -m data_prep`: one command per format, and one per tool."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from data_prep.pairs_list import LAYOUT

_EVALUATION = ("bin", "pairs", "templates", "megaface")  # nothing is cut off these


class Tool(Protocol):
    """A module with one command."""

    def add(self, commands: Any) -> None:
        """Adds the command's parser to argparse's subparsers."""

    def run(self, options: argparse.Namespace) -> int:
        """Does it; gives the exit status."""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as all other errors do; the usage is in --help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")


def parser(tools: Iterable[Tool]) -> argparse.ArgumentParser:
    """The options of every command: a format each, and the tools."""
    parser = _Parser(
        prog="python -m data_prep",
        description="Turns a face data set into Parquet shards, and looks after prepared sets.",
    )
    commands = parser.add_subparsers(dest="kind", required=True, metavar="COMMAND")
    for tool in tools:
        tool.add(commands)
    _add_formats(commands)
    return parser


# The formats' own region, down to the end of the file.


def _add_formats(commands: Any) -> None:
    for kind, what, source in (
        ("recordio", "insightface's training folder: train.rec, train.idx", "the folder"),
        (
            "bin",
            "a verification set of pairs, such as lfw.bin",
            "the file, or a folder of them: a group of people each",
        ),
        ("folder", "one folder per identity", "the folder of folders"),
        ("list", "a MagFace list, or an im2rec .lst", "the list"),
        ("pairs", "a verification set: LFW's pairs.txt over a folder of images", "the list"),
        (
            "parquet",
            "plain Parquet files with a column of encoded images",
            "the file, or a folder of *.parquet",
        ),
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
        if kind == "pairs":
            command.add_argument(
                "--root", type=Path, required=True, help="folder that the images lie in"
            )
            command.add_argument(
                "--layout",
                default=LAYOUT,
                help="path of an image in it, from name and number (default: %(default)s)",
            )
        if kind == "parquet":
            for option, column, what in (
                ("--image-column", "image", "encoded images: binary, or a struct of bytes, path"),
                ("--label-column", "label", "identities: whole numbers or names"),
                ("--key-column", None, "keys of the images (default: file:row)"),
            ):
                given = "" if column is None else " (default: %(default)s)"
                command.add_argument(
                    option, default=column, metavar="NAME", help=f"column of the {what}{given}"
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


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _positive(text: str) -> int:
    if _natural(text) == 0:
        raise argparse.ArgumentTypeError("0 is too small: 1 or more")
    return int(text)
