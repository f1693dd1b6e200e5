"""`facerec export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from facerec.evaluation.metrics import FARS
from facerec.export import BATCHES, TARGETS, export


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Write a run's backbone as an ONNX file."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or <sweep>/best")
    parser.add_argument("file", type=Path, metavar="FILE.onnx")
    parser.add_argument(
        "--target",
        default=TARGETS[0],
        help=f"{' or '.join(TARGETS)} (112 pixels, and the zip for ICCV21-MFR and MFR-Ongoing); "
        f"default {TARGETS[0]}",
    )
    parser.add_argument(
        "--threshold-set",
        type=Path,
        metavar="SET",
        help="prepared set to learn facerec verify's threshold on; default: the run's own val",
    )
    parser.add_argument(
        "--far",
        help=f"its false accept rate, {', '.join(FARS)}; default 1e-3, or 1e-2 on small sets",
    )
    given = parser.parse_intermixed_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    written = export(
        given.run,
        given.file,
        target=given.target,
        threshold_set=given.threshold_set,
        far=given.far,
        device=device,
    )
    batches = ", ".join(map(str, BATCHES))
    print(f"written    {written.file}")
    if written.zipped is not None:
        print(f"           {written.zipped}, which the server takes")
    print(
        f"           largest difference from PyTorch {written.difference:.1e} at {batches} images"
    )
    print(f"threshold  {written.threshold or 'none'}")
    for note in written.notes:
        print(note)
    return 0
