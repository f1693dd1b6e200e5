from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from facerec.data import sampling, source
from facerec.data.augment import Augment
from facerec.data.cache import DecodedOnDevice, decoded
from facerec.data.images import decode
from facerec.data.shards import DataError, Rows, Shards
from facerec.data.source import EncodedRows, Source
from facerec.data.stream import Batch, Stream, draw
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


SAMPLINGS: list[dict[str, object]] = [
    {"sampling": "images"},
    {"sampling": "identities", "images_per_identity": 3},
]
CACHES = ["none", "memory", "device"]


def kept(shards: Path, folder: Path, mode: str) -> Source | None:
    found = None if mode == "none" else decoded(Shards(shards), folder=folder)
    return DecodedOnDevice(found, torch.device("cpu")) if found and mode == "device" else found


def assert_equal_batches(one: list[Batch], two: list[Batch]) -> None:
    assert len(one) == len(two)
    for first, second in zip(one, two, strict=True):
        assert first.keys == second.keys
        assert np.array_equal(np.asarray(first.images), np.asarray(second.images))
        assert np.array_equal(first.labels, second.labels)
        assert first.draws is not None
        assert second.draws is not None
        assert np.array_equal(first.draws, second.draws)


@pytest.mark.parametrize("mode", CACHES)
@pytest.mark.parametrize("options", SAMPLINGS, ids=["images", "identities"])
def test_workers_share_each_global_batch(
    toy_shards: Path, tmp_path: Path, options: dict[str, object], mode: str
) -> None:
    every = {"batch_size": 12, "seed": 3, "augment": Augment(), **options}
    whole = list(Stream(toy_shards, **every))  # type: ignore[arg-type]
    assert len(whole) == 10
    every["cache"] = kept(toy_shards, tmp_path, mode)
    for size in (1, 2, 3):
        workers = [
            list(Stream(toy_shards, rank=rank, world_size=size, **every))  # type: ignore[arg-type]
            for rank in range(size)
        ]
        joined = [join(step) for step in zip(*workers, strict=True)]
        assert_equal_batches(joined, whole)


def join(parts: tuple[Batch, ...]) -> Batch:
    return Batch(
        np.concatenate([np.asarray(part.images) for part in parts]),
        np.concatenate([part.labels for part in parts]),
        [key for part in parts for key in part.keys],
        np.concatenate([part.draws for part in parts if part.draws is not None]),
    )


@pytest.mark.parametrize("mode", CACHES)
@pytest.mark.parametrize("options", SAMPLINGS, ids=["images", "identities"])
def test_resuming_gives_the_identical_next_batches(
    toy_shards: Path, tmp_path: Path, options: dict[str, object], mode: str
) -> None:
    every = {"batch_size": 15, "seed": 9, "epoch": 2, "augment": Augment(), **options}
    whole = list(Stream(toy_shards, **every))  # type: ignore[arg-type]
    every["cache"] = kept(toy_shards, tmp_path, mode)
    for done in range(len(whole) + 1):
        rest = Stream(toy_shards, images_seen=15 * done, **every)  # type: ignore[arg-type]
        assert_equal_batches(list(rest), whole[done:])


@pytest.mark.parametrize("options", SAMPLINGS, ids=["images", "identities"])
def test_several_decoders_give_the_same_batches_and_end(
    toy_shards: Path, options: dict[str, object]
) -> None:
    every = {"batch_size": 24, "seed": 4, "augment": Augment(), **options}
    one = list(Stream(toy_shards, **every))  # type: ignore[arg-type]
    several = iter(Stream(toy_shards, decoders=3, **every))  # type: ignore[arg-type]
    assert_equal_batches(list(several), one)
    early = iter(Stream(toy_shards, decoders=3, **every))  # type: ignore[arg-type]
    next(early)
    early.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("facerec")]


def test_batches_of_identities_hold_so_many_images_of_each(toy_shards: Path) -> None:
    stream = Stream(toy_shards, batch_size=24, seed=3, sampling="identities", images_per_identity=4)
    assert stream.batches == 5
    for batch in stream:
        assert (batch.labels.reshape(6, 4) == batch.labels[::4, None]).all()
        assert len(set(batch.labels.tolist())) == 6
        assert len(set(batch.keys)) == 24


def test_groups_are_asked_for_before_they_are_read(
    toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "WINDOW", 2)
    shards = Shards(toy_shards)
    asked, late = set(), []
    read = shards.split().read
    monkeypatch.setattr(shards.split(), "prefetch", lambda groups: asked.update(groups))

    def watched(group: int) -> Rows:
        late.append(group not in asked)
        return read(group)

    monkeypatch.setattr(shards.split(), "read", watched)
    batches = list(Stream(shards, batch_size=10, seed=1))
    assert len(batches) == 12
    assert late == [False] * 6


@pytest.mark.parametrize(
    "hold",
    [lambda images: images, lambda images: images[1:3], torch.from_numpy, memoryview],
    ids=["itself", "view", "tensor", "memoryview"],
)
def test_memory_is_used_again_only_when_nobody_holds_it(
    toy_shards: Path, hold: Callable[[np.ndarray], object]
) -> None:
    with EncodedRows(Shards(toy_shards).split(), (64, 64)) as rows:

        def taken() -> np.ndarray:
            return np.asarray(rows.take(np.arange(4)).images)

        first = taken()
        where, held = first.ctypes.data, hold(first)
        del first
        assert taken().ctypes.data != where
        del held
        assert taken().ctypes.data == where


def test_few_row_groups_are_kept(toy_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Shards(toy_shards).split()
    monkeypatch.setattr(source, "KEPT", 2)
    with EncodedRows(split, (64, 64)) as rows:
        for _ in range(3):
            rows.take(np.arange(120))
            assert len(rows._kept) == 2


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
    monkeypatch.setattr(sampling, "WINDOW", 2)
    split = Shards(toy_shards).split()
    home = {key: group for group in range(len(split.group_rows)) for key in split.read(group).keys}
    order = keys(toy_shards, batch_size=1)
    assert len(order) == 120
    seen = [home[key] for key in order]
    first_window = sum(split.group_rows[group] for group in set(seen[:1]) | {seen[1]})
    assert len(set(seen[: min(first_window, 32)])) <= 2
    assert keys(toy_shards, batch_size=20, images_seen=60) == order[60:]


def test_later_draws_leave_the_earlier_ones_as_they_were() -> None:
    def drawn(words: list[int], counter: int, columns: int) -> np.ndarray:
        high, low = np.random.SeedSequence(words).generate_state(2, np.uint64).tolist()
        philox = np.random.Philox(key=(high << 64) + low, counter=counter)
        return np.random.Generator(philox).random(columns).astype(np.float32)

    for place, row in enumerate(draw(5, 1, 40, 3), start=40):
        assert np.array_equal(row[:8], drawn([5, 1, 1], 2 * place, 8))
        assert np.array_equal(row[8:20], drawn([5, 1, 0], 3 * place, 12))
        assert np.array_equal(row[20:], drawn([5, 1, 0, 1], 2 * place, 5))


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


def test_unknown_sampling_is_refused(toy_shards: Path) -> None:
    with pytest.raises(DataError, match=r"sampling = 'people': takes images, identities"):
        Stream(toy_shards, batch_size=12, seed=1, sampling="people")


def test_a_damaged_image_is_named_and_the_thread_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_toy_shards(tmp_path / "toy", identities=2, images=4, val=0)

    def damaged(data: bytes, out: object = None) -> None:
        raise DataError("the JPEG is damaged")

    monkeypatch.setattr(source, "decode", damaged)
    with pytest.raises(DataError, match=r"train-0000\d.parquet, row \d, key \d/\d: .*damaged"):
        list(Stream(shards, batch_size=4, seed=1))
    assert not [t for t in threading.enumerate() if t.name == "facerec-stream"]


def test_leaving_early_ends_the_thread(toy_shards: Path) -> None:
    batches = iter(Stream(toy_shards, batch_size=4, seed=1))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "facerec-stream"]
