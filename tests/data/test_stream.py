from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from facerec.data import stream as stream_module
from facerec.data.augment import Augment
from facerec.data.images import decode
from facerec.data.shards import DataError, Shards
from facerec.data.stream import Stream, draw
from tests.conftest import toy_image, write_toy_shards


def keys(shards: Path, **options: object) -> list[str]:
    return [key for batch in Stream(shards, seed=3, **options) for key in batch.keys]  # type: ignore[arg-type]


def test_an_epoch_has_every_image_once_and_drops_the_rest_below_a_batch(toy_shards: Path) -> None:
    whole = keys(toy_shards, batch_size=1)
    everything = [f"{label}/{number}" for label in range(12) for number in range(10)]
    assert sorted(whole) == sorted(everything)
    assert keys(toy_shards, batch_size=50) == whole[:100]


def test_order_is_a_function_of_seed_and_epoch(toy_shards: Path) -> None:
    first = keys(toy_shards, batch_size=20)
    assert keys(toy_shards, batch_size=20) == first
    assert keys(toy_shards, batch_size=20, epoch=1) != first
    other = [key for batch in Stream(toy_shards, batch_size=20, seed=4) for key in batch.keys]
    assert other != first


@pytest.mark.parametrize("batch_size", [3, 8, 40])
def test_order_does_not_depend_on_the_batch_size(toy_shards: Path, batch_size: int) -> None:
    whole = keys(toy_shards, batch_size=1)
    batched = keys(toy_shards, batch_size=batch_size)
    assert batched == whole[: len(batched)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_workers_share_each_global_batch(toy_shards: Path, world_size: int) -> None:
    workers = [
        list(Stream(toy_shards, batch_size=12, seed=3, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    joined = [key for step in zip(*workers, strict=True) for part in step for key in part.keys]
    assert joined == keys(toy_shards, batch_size=12)


def test_resuming_gives_the_identical_next_batches(toy_shards: Path) -> None:
    options = {"batch_size": 16, "seed": 9, "epoch": 2, "augment": Augment()}
    whole = list(Stream(toy_shards, **options))  # type: ignore[arg-type]
    for done in range(len(whole) + 1):
        rest = list(Stream(toy_shards, images_seen=16 * done, **options))  # type: ignore[arg-type]
        assert len(rest) == len(whole) - done
        for one, two in zip(rest, whole[done:], strict=True):
            assert one.keys == two.keys
            assert np.array_equal(one.images, two.images)
            assert np.array_equal(one.labels, two.labels)
            assert one.draws is not None
            assert two.draws is not None
            assert np.array_equal(one.draws, two.draws)


def test_batches_hold_the_images_of_their_keys(toy_shards: Path) -> None:
    batch = next(iter(Stream(toy_shards, batch_size=24, seed=1)))
    assert batch.images.shape == (24, 64, 64, 3)
    assert batch.images.dtype == np.uint8
    assert batch.labels.dtype == np.int64
    for image, label, key in zip(batch.images, batch.labels, batch.keys, strict=True):
        identity, number = map(int, key.split("/"))
        assert label == identity
        assert np.array_equal(image, decode(toy_image(identity, number)))


def test_windows_shuffle_only_their_own_groups(
    toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "WINDOW", 2)
    split = Shards(toy_shards).split()
    home = {key: group for group in range(len(split.group_rows)) for key in split.read(group).keys}
    order = keys(toy_shards, batch_size=1)
    assert len(order) == 120
    seen = [home[key] for key in order]
    first_window = sum(split.group_rows[group] for group in set(seen[:1]) | {seen[1]})
    assert len(set(seen[: min(first_window, 32)])) <= 2
    assert keys(toy_shards, batch_size=20, images_seen=60) == order[60:]


def test_draws_of_an_image_do_not_depend_on_what_was_drawn_before() -> None:
    whole = draw(5, 1, 0, 100)
    assert np.array_equal(draw(5, 1, 37, 20), whole[37:57])
    assert not np.array_equal(draw(5, 2, 0, 100), whole)
    assert whole.min() >= 0
    assert whole.max() < 1
    assert abs(whole.mean() - 0.5) < 0.05


def test_val_is_a_split_of_its_own(toy_shards: Path) -> None:
    batch = next(iter(Stream(toy_shards, batch_size=200, seed=1, split="val")))
    assert sorted(set(batch.labels.tolist())) == list(range(20))


def test_a_batch_that_workers_cannot_share_is_refused(toy_shards: Path) -> None:
    with pytest.raises(DataError, match=r"batch_size = 16.*3 workers.*18"):
        Stream(toy_shards, batch_size=16, seed=1, world_size=3)


def test_fewer_images_than_a_batch_is_refused(toy_shards: Path) -> None:
    with pytest.raises(DataError, match=r"batch_size = 512.*120 images"):
        Stream(toy_shards, batch_size=512, seed=1)


def test_a_damaged_image_is_named_and_the_thread_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_toy_shards(tmp_path / "toy", identities=2, images=4, val=0)

    def damaged(data: bytes, out: object = None) -> None:
        raise DataError("the JPEG is damaged")

    monkeypatch.setattr(stream_module, "decode", damaged)
    with pytest.raises(DataError, match=r"train-0000\d.parquet, row \d, key \d/\d: .*damaged"):
        list(Stream(shards, batch_size=4, seed=1))
    assert not [t for t in threading.enumerate() if t.name == "facerec-stream"]


def test_leaving_early_ends_the_thread(toy_shards: Path) -> None:
    batches = iter(Stream(toy_shards, batch_size=4, seed=1))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "facerec-stream"]
