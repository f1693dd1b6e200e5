"""Small shard sets, made once per test run: identities are colours and stripes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch: test processes share cores

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
import torch

from facerec.data.shards import VERSION
from facerec.data.writer import COLUMNS, describe, write_json, write_table

SCHEMA = pa.schema(COLUMNS)

torch.set_num_threads(1)


def toy_image(identity: int, number: int, side: int = 64) -> bytes:
    """A JPEG: stripes whose colour, angle and width belong to the identity, with noise."""
    own = np.random.default_rng([7, identity])
    per_image = np.random.default_rng([8, identity, number])
    y, x = np.mgrid[0:side, 0:side] / side
    angle, waves = own.uniform(0, np.pi), own.uniform(2, 6)
    phase = per_image.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    colour = own.uniform(60, 200, 3)
    pixels = colour + 40 * wave[:, :, None] + per_image.normal(0, 15, (side, side, 3))
    image = np.clip(pixels, 0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90, colorspace="RGB")


def rows_table(rows: list[tuple[bytes, int, str]], side: int) -> pa.Table:
    columns = {
        "image": [row[0] for row in rows],
        "label": [row[1] for row in rows],
        "key": [row[2] for row in rows],
        "identity": [row[2].split("/")[0] for row in rows],
        "width": [side] * len(rows),
        "height": [side] * len(rows),
    }
    return pa.table({name: pa.array(columns[name], kind) for name, kind in COLUMNS})


def write_toy_shards(
    folder: Path, *, identities: int = 12, images: int = 10, val: int = 20, side: int = 64
) -> Path:
    """A prepared set whose train split is cut into three shards and into groups of 32 rows."""
    folder.mkdir(parents=True)

    def split(name: str, first: int, count: int, files: int) -> dict[str, Any]:
        rows = [
            (toy_image(first + label, number, side), label, f"{first + label}/{number}")
            for label in range(count)
            for number in range(images)
        ]
        order = np.random.default_rng(0).permutation(len(rows))
        parts = [list(part) for part in np.array_split(order, files)]
        shards = []
        for number, part in enumerate(parts):
            path = folder / f"{name}-{number:05d}.parquet"
            groups = [part[i : i + 32] for i in range(0, len(part), 32)]
            tables = [rows_table([rows[i] for i in group], side) for group in groups]
            write_table(path, SCHEMA, tables)
            shards.append(describe(path))
        return {"rows": len(rows), "classes": count, "shards": shards}

    index = {
        "version": VERSION,
        **split("train", 0, identities, 3),
        "splits": {"val": split("val", identities, val, 1)} if val else {},
        "image_size": [side, side],
        "colour_order": "RGB",
        "alignment": "none",
        "source": {"kind": "toy"},
    }
    write_json(folder / "index.json", index)
    return folder


def write_toy_pairs(folder: Path, *, identities: int = 8, images: int = 5, side: int = 64) -> Path:
    """A verification set: as many different pairs as same ones, alternating."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(5)
    rows, same = [], []
    for pair in range(80):
        is_same = pair % 2 == 0
        one = int(generator.integers(identities))
        two = one if is_same else (one + 1 + int(generator.integers(identities - 1))) % identities
        for identity, number in ((one, 0), (two, 1)):
            rows.append((toy_image(500 + identity, number + 2 * pair, side), -1, str(len(rows))))
        same.append(is_same)
    write_table(folder / "train-00000.parquet", SCHEMA, [rows_table(rows, side)])
    pairs = pa.table(
        {
            "first": pa.array(range(0, 160, 2), pa.int64()),
            "second": pa.array(range(1, 160, 2), pa.int64()),
            "same": same,
        }
    )
    write_table(folder / "pairs.parquet", pairs.schema, [pairs])
    index = {
        "version": VERSION,
        "rows": 160,
        "classes": 0,
        "shards": [describe(folder / "train-00000.parquet")],
        "splits": {},
        "pairs": describe(folder / "pairs.parquet"),
        "image_size": [side, side],
        "colour_order": "RGB",
        "alignment": "none",
        "source": {"kind": "toy"},
    }
    write_json(folder / "index.json", index)
    return folder


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training images of 12 identities, 200 of 20 others in val, 64 pixels."""
    return write_toy_shards(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture(scope="session")
def toy_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 pairs of 8 identities, 64 pixels."""
    return write_toy_pairs(tmp_path_factory.mktemp("toy") / "pairs")
