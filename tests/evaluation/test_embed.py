"""Embedding a split: one image at a time, by hand, against batches of row groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from facerec.backbones import build
from facerec.backbones.base import Backbone
from facerec.data.images import decode
from facerec.data.shards import DataError, Shards, Split
from facerec.evaluation.embed import Embeddings, embed
from tests.conftest import write_toy_shards


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    net = build("tiny", {"dropout": 0.5}, embedding_size=12)
    net(torch.rand(8, 3, 64, 64) * 2 - 1)  # gives the normalisations something to remember
    return net


def by_hand(backbone: Backbone, split: Split, flip: bool = True) -> Embeddings:
    backbone.eval()
    vectors, labels, keys, norms = [], [], [], []
    for group in range(len(split.group_rows)):
        rows = split.read(group)
        for image, label, key in zip(rows.images, rows.labels, rows.keys, strict=True):
            pixels = decode(image).astype(np.float32)
            mirrored = pixels[:, ::-1]
            found = []
            for view in (pixels, mirrored):
                planes = np.stack([view[:, :, c] for c in range(3)])
                with torch.no_grad():
                    found.append(backbone(torch.from_numpy(planes)[None] / 127.5 - 1)[0].numpy())
            vectors.append(found[0] + found[1] if flip else found[0])
            norms.append(np.linalg.norm(found[0]))
            labels.append(label)
            keys.append(key)
    return Embeddings(np.array(vectors), np.array(labels), keys, np.array(norms))


def assert_same(found: Embeddings, expected: Embeddings) -> None:
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.vectors, expected.vectors, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-3, atol=1e-5)
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.keys == expected.keys


@pytest.mark.parametrize(("batch_size", "flip"), [(128, True), (7, True), (1000, False)])
def test_every_image_in_order(
    toy_shards: Path, backbone: Backbone, batch_size: int, flip: bool
) -> None:
    split = Shards(toy_shards).split()
    assert len(split.group_rows) > 3
    found = embed(backbone, split, batch_size=batch_size, flip=flip)
    assert_same(found, by_hand(backbone, split, flip))
    assert found.vectors.shape == (split.rows, 12)


def test_chosen_rows(toy_shards: Path, backbone: Backbone) -> None:
    split = Shards(toy_shards).split()
    whole = by_hand(backbone, split)
    rows = np.array([0, 3, 4, 39, split.rows - 1])  # none of the third group
    found = embed(backbone, split, rows=rows)
    part = Embeddings(
        whole.vectors[rows], whole.labels[rows], [whole.keys[r] for r in rows], whole.norms[rows]
    )
    assert_same(found, part)
    assert len(embed(backbone, split, rows=rows[:0]).keys) == 0


def test_batches_are_full(toy_shards: Path, backbone: Backbone) -> None:
    split = Shards(toy_shards).split()
    rows = np.arange(0, split.rows, 3)  # eleven or so of each group of 32
    sizes: list[int] = []
    backbone.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    embed(backbone, split, rows=rows, batch_size=15, flip=False)
    assert sizes == [15] * (len(rows) // 15) + [len(rows) % 15]
    assert max(split.group_rows) // 3 < 15 < len(rows)


def test_twice_the_same(toy_shards: Path, backbone: Backbone) -> None:
    split = Shards(toy_shards).split("val")
    one, two = embed(backbone.train(), split), embed(backbone.eval(), split)
    assert np.array_equal(one.vectors, two.vectors)


def test_modes_and_gradients_are_left_alone(toy_shards: Path, backbone: Backbone) -> None:
    backbone.train()
    frozen = next(m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    embed(backbone, Shards(toy_shards).split("val"))
    assert not frozen.training
    assert all(module.training for module in backbone.modules() if module is not frozen)
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    backbone(torch.zeros(2, 3, 97, 97)).sum().backward()


def test_weights_that_are_not_finite(toy_shards: Path, backbone: Backbone) -> None:
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("nan"))
    found = embed(backbone, Shards(toy_shards).split("val"))
    assert np.isnan(found.vectors).all()


def test_a_damaged_image_is_named(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_toy_shards(tmp_path / "set", identities=4, images=10, val=0)
    file = sorted(folder.glob("*.parquet"))[1]
    table = pq.read_table(file)
    images = table["image"].to_pylist()
    images[5] = images[5][: len(images[5]) // 2]
    column = table.schema.get_field_index("image")
    table = table.set_column(column, "image", pa.array(images, pa.binary()))
    pq.write_table(table, file, row_group_size=4)
    backbone.train()
    with pytest.raises(DataError) as caught:
        embed(backbone, Shards(folder).split())
    assert caught.value.shard == file.name
    assert caught.value.row == 5
    assert caught.value.key == table["key"][5].as_py()
    assert backbone.training
