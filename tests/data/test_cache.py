from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from facerec.data import cache
from facerec.data.cache import Decoded, DecodedOnDevice, cached, decoded
from facerec.data.images import decode
from facerec.data.shards import DataError, Shards
from tests.conftest import write_toy_shards
from tests.test_train import assert_same_weights, silent, toy_config, train


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_it_holds_every_image_label_and_key_in_order(toy_shards: Path, tmp_path: Path) -> None:
    shards = Shards(toy_shards)
    found = decoded(shards, split="val", folder=tmp_path)
    parts = [shards.split("val").read(group) for group in range(7)]
    assert found.images.shape == (200, 64, 64, 3)
    expected = np.stack([decode(image) for part in parts for image in part.images])
    assert np.array_equal(found.images, expected)
    assert not found.images.flags.writeable
    rows = np.array([199, 3, 3, 40])
    keys = [key for part in parts for key in part.keys]
    taken = found.take(rows)
    assert np.array_equal(np.asarray(taken.images), expected[rows])
    assert taken.keys == [keys[row] for row in rows]
    assert taken.labels.tolist() == shards.split("val").labels()[rows].tolist()
    assert taken.labels.dtype == np.int64


def test_it_is_decoded_once_and_said_in_one_line(
    toy_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = decoded(Shards(toy_shards))
    assert first.folder.parent == tmp_path / "facerec" / "decoded"
    said = capsys.readouterr().out
    assert said.startswith(f"decoded 120 images of train into {first.folder}: 1 MB, ")
    assert said.count("\n") == 1
    # Found as it is: no lock is taken, nothing is written, as a read-only folder needs it.
    first.folder.with_suffix(".lock").unlink()
    monkeypatch.setattr(cache, "_build", None)
    assert decoded(Shards(toy_shards)).folder == first.folder
    assert names(first.folder.parent) == [""]
    assert capsys.readouterr().out == ""


def test_other_images_and_other_splits_have_folders_of_their_own(
    toy_shards: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(toy_shards, tmp_path / "copied")
    other = write_toy_shards(tmp_path / "other", identities=4, images=3)
    room = tmp_path / "room"
    found = [
        decoded(Shards(folder), split=split, folder=room).folder
        for folder, split in (
            *((toy_shards, "train"), (toy_shards, "val"), (copied, "train")),
            *((other, "train"), (other, "val")),
        )
    ]
    assert found[0] == found[2], "a copy holds the same"
    assert len(set(found)) == 4


def test_of_several_that_ask_at_once_one_builds(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = []
    write = cache._write

    def slow(*arguments: object) -> None:
        builds.append(threading.get_ident())
        time.sleep(0.1)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "_write", slow)
    found: list[Decoded] = []
    threads = [
        threading.Thread(target=lambda: found.append(decoded(Shards(toy_shards), folder=tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert len({one.folder for one in found}) == 1
    assert len(found) == 4


def test_who_waits_takes_over_from_a_builder_that_is_killed(
    toy_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forked = multiprocessing.get_context("fork")
    begun = forked.Event()

    def build() -> None:
        def hang(image: object, out: object) -> None:
            begun.set()
            time.sleep(60)

        cache.decode = hang  # type: ignore[assignment]
        decoded(Shards(toy_shards), folder=tmp_path)

    builder = forked.Process(target=build)
    builder.start()
    assert begun.wait(20)
    assert names(tmp_path) == [".lock", ".part"]
    found: list[Decoded] = []
    waiter = threading.Thread(
        target=lambda: found.append(decoded(Shards(toy_shards), folder=tmp_path))
    )
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive()
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    waiter.join(20)
    assert found[0].images.shape == (120, 64, 64, 3)
    assert names(tmp_path) == ["", ".lock"]
    assert "waiting for another process" in capsys.readouterr().out


def test_too_little_room_is_said_before_anything_is_written(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1_000_000))
    with pytest.raises(DataError, match=r"take 1483680 bytes, and 1000000 are free.*cache_dir="):
        decoded(Shards(toy_shards), folder=tmp_path)
    assert names(tmp_path) == [".lock"]


def test_a_disk_that_fills_up_leaves_nothing(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"No space left.*data\.cache_dir=FOLDER"):
        decoded(Shards(toy_shards), folder=tmp_path)
    assert names(tmp_path) == [".lock"]


def test_a_short_write_goes_on(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decoded(Shards(toy_shards), folder=tmp_path / "whole").images
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:50_000], at))
    short = decoded(Shards(toy_shards), folder=tmp_path / "short").images
    assert np.array_equal(short, whole)


def test_a_folder_that_cannot_be_written_is_named(toy_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/cache: .*cannot be written.*data\.cache=none"):
        decoded(Shards(toy_shards), folder=tmp_path / "file" / "cache")


def test_a_damaged_image_is_named_and_leaves_nothing(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(image: object, out: object) -> None:
        raise DataError("the JPEG is damaged")

    monkeypatch.setattr(cache, "decode", damaged)
    with pytest.raises(DataError, match=r"train-0000\d.parquet, row \d+, key \d+/\d: .*damaged"):
        decoded(Shards(toy_shards), folder=tmp_path)
    assert names(tmp_path) == [".lock"]


@pytest.mark.parametrize("file", ["images", "labels", "key_ends", "keys"])
def test_damaged_files_are_refused(toy_shards: Path, tmp_path: Path, file: str) -> None:
    folder = decoded(Shards(toy_shards), folder=tmp_path).folder
    path = folder / f"{file}.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{folder.name}: .*damaged; delete the folder"):
        decoded(Shards(toy_shards), folder=tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="damaged"):
        decoded(Shards(toy_shards), folder=tmp_path)


def test_modes(toy_shards: Path, tmp_path: Path) -> None:
    shards, cpu = Shards(toy_shards), torch.device("cpu")
    assert cached(shards, "none", folder=tmp_path) is None
    assert not list(tmp_path.iterdir())
    for mode, device in (("memory", None), ("device", None), ("device", cpu)):
        assert isinstance(cached(shards, mode, folder=tmp_path, device=device), Decoded)


def test_on_a_device_they_are_the_same(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_COPIED", 50)
    plain = decoded(Shards(toy_shards), folder=tmp_path)
    rows = np.random.default_rng(1).permutation(120)
    taken = DecodedOnDevice(plain, torch.device("cpu")).take(rows)
    assert isinstance(taken.images, torch.Tensor)
    assert torch.equal(taken.images, torch.from_numpy(plain.images[rows]))
    assert taken.labels.tolist() == plain.take(rows).labels.tolist()
    assert taken.keys == plain.take(rows).keys


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_on_an_accelerator_they_are_the_same(toy_shards: Path, tmp_path: Path) -> None:
    device = torch.device("cuda", 0)
    found = cached(Shards(toy_shards), "device", folder=tmp_path, device=device)
    assert isinstance(found, DecodedOnDevice)
    rows = np.random.default_rng(1).permutation(120)
    taken = found.take(rows)
    assert isinstance(taken.images, torch.Tensor)
    assert taken.images.device == device
    plain = decoded(Shards(toy_shards), folder=tmp_path)
    assert torch.equal(taken.images.cpu(), torch.from_numpy(plain.images[rows]))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["images", "identities"])
def test_a_training_is_the_same_to_the_bit(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampling: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, changes in (
        ("none", {}),
        ("two", {"data__decoders": 2}),
        ("memory", {"data__cache": "memory"}),
        ("dir", {"data__cache": "device", "data__cache_dir": str(tmp_path / "other")}),
    ):
        own = {"data__sampling": sampling, "data__augment__occlusion": 0.5, "epochs": 2}
        config = toy_config(toy_shards, **own, **changes)
        train(config, run=tmp_path / name, report=silent)
    for name in ("two", "memory", "dir"):
        assert_same_weights(tmp_path / "none", tmp_path / name)
    assert names(tmp_path / "other") == ["", ".lock"]
