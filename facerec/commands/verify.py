"""`facerec verify`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facerec.commands import align
from facerec.data.shards import DataError
from facerec.evaluation.embed import embed
from facerec.model import open_model


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Compare the faces of two images."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX file or run folder")
    parser.add_argument(
        "first", type=Path, metavar="A.jpg", help="an aligned face, or with --align a photograph"
    )
    parser.add_argument("second", type=Path, metavar="B.jpg", help="another")
    align.add(parser)
    given = parser.parse_intermixed_args(words)
    model = open_model(given.model)
    files = align.files(given, Path(), [given.first, given.second], model)
    first, second = embed(model.backbone, files).vectors.astype(np.float64)
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    if not 0 < lengths < np.inf:
        raise DataError(f"{given.model}: gives embeddings that are zero or not finite")
    cosine = float(first @ second) / lengths
    print(f"cosine     {cosine:.4f}")
    threshold = model.threshold
    if threshold is None:
        print(
            "decision   none: the model holds no threshold; facerec export puts one into its file"
        )
    else:
        same = cosine > threshold.cosine
        print(f"decision   {'the same person' if same else 'two people'}")
        print(f"threshold  {threshold}")
    return 0
