"""`facerec embed`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from facerec.commands import align
from facerec.config import ConfigError
from facerec.data.folder import images_in
from facerec.data.index import is_prepared
from facerec.data.shards import DataError, Shards, Split
from facerec.data.writer import write_table
from facerec.evaluation.embed import embed
from facerec.model import Model, open_model

_ROWS = 8192  # images whose embeddings are held at once


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Embed prepared shards, or a folder of images."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="run folder or ONNX file")
    parser.add_argument(
        "images",
        type=Path,
        metavar="IMAGES",
        help="prepared shards, or a folder of aligned images, or with --align of photographs",
    )
    parser.add_argument("out", type=Path, metavar="OUT.parquet", help="key, embedding, norm")
    parser.add_argument("--split", default="train", help="of prepared shards; default train")
    parser.add_argument(
        "--flip",
        action="store_true",
        help="add the embedding of the mirror image, as evaluate and verify do",
    )
    align.add(parser)
    given = parser.parse_intermixed_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = open_model(given.model, device)
    split = _open(given, model)
    length = model.backbone.embedding_size
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("embedding", pa.list_(pa.float32(), length)),
            ("norm", pa.float32()),
        ]
    )
    out: Path = given.out
    try:
        write_table(out, schema, _tables(model, split, schema, given.flip, device))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from None
    finally:  # what a damaged image left behind
        out.with_name(out.name + ".part").unlink(missing_ok=True)
    print(f"written    {out}: {split.rows} embeddings of {length} numbers, not normalised")
    return 0


def _open(given: argparse.Namespace, model: Model) -> Split:
    """The images, all of the model's size."""
    images: Path = given.images
    if is_prepared(images):
        if given.align or given.detector or given.face:
            raise ConfigError(f"--align is for photographs: {images} is a prepared set")
        shards = Shards(images)
        model.check_aligned(images, *shards.image_size)
        return shards.split(given.split)
    return align.files(given, images, images_in(images), model)


def _tables(
    model: Model, split: Split, schema: pa.Schema, flip: bool, device: torch.device
) -> Iterator[pa.Table]:
    """Embeddings in the order of the images, a part at a time."""
    for first in range(0, split.rows, _ROWS):
        rows = np.arange(first, min(first + _ROWS, split.rows))
        found = embed(model.backbone, split, rows=rows, device=device, flip=flip)
        bad = np.flatnonzero(~np.isfinite(found.vectors).all(axis=1))
        if len(bad):
            raise DataError("its embedding is not finite", key=found.keys[bad[0]])
        vectors = pa.FixedSizeListArray.from_arrays(found.vectors.ravel(), found.vectors.shape[1])
        yield pa.Table.from_arrays(
            [pa.array(found.keys), vectors, pa.array(found.norms)], schema=schema
        )
