"""`--align` of commands that take images: photographs, found and aligned as they are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from facerec.config import ConfigError
from facerec.data.detect import CHOICES, MTCNN, open_detector
from facerec.data.folder import ImageFiles, Photographs
from facerec.model import Model


def add(parser: argparse.ArgumentParser) -> None:
    """Adds `--align`, and how it is done."""
    parser.add_argument(
        "--align",
        action="store_true",
        help="the images are photographs: find the face in each and align it first",
    )
    parser.add_argument(
        "--detector",
        metavar="NAME",
        help=f"what finds faces for --align: {MTCNN} (the default), or MODULE:FUNCTION, which runs "
        "that module's code",
    )
    parser.add_argument(
        "--face",
        choices=CHOICES,
        help=f"of several faces in a photograph (default: {CHOICES[0]})",
    )


def files(given: argparse.Namespace, root: Path, paths: Sequence[Path], model: Model) -> ImageFiles:
    """The images as a split, all of the model's size.

    Args:
        given: What the options of `add` said.
        root: What the keys are relative to.
        paths: The files.
        model: Whose size is meant.

    Raises:
        ConfigError: An option of `--align` without it.
        DataError: An image of another size without `--align`, or no such detector.
    """
    if given.align:
        detector = open_detector(given.detector or MTCNN)
        return Photographs(root, paths, detector, model.image_size, given.face or CHOICES[0])
    for option in ("detector", "face"):
        if getattr(given, option) is not None:
            raise ConfigError(f"--{option} is for --align: the images are taken as aligned faces")
    found = ImageFiles(root, paths)
    for path, (width, height) in found.sizes():
        model.check_aligned(path, width, height)
    return found
