"""Decoded images, kept: one folder of memory-mapped arrays that all processes of a node share.

The folder is named after what is in it: the split and the sha256 of `index.json`, which holds the
hashes of the shards. It is built by whoever gets the lock first, aside, and renamed when whole; the
kernel frees the lock of a builder that dies, and the next one starts over. What stands under its
name is whole and is never written again, so it may lie on a file system that is mounted read-only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facerec.data.images import decode
from facerec.data.shards import DataError, Shards, Split
from facerec.data.source import Taken
from facerec.data.writer import sync

CACHES = ("none", "memory", "device")
_LAYOUT = 1  # counts up when the files below change
_KEY_BYTES = 64  # of a key, at a guess, for the room that is asked for
_COPIED = 4096  # images brought to the device at once
_THREADS = 16  # that build, at most; fewer where there are fewer cores


class Decoded:
    """A split's images, decoded, as arrays mapped into memory.

    Args:
        folder: Where `decoded` built it.
        rows: Images of the split.
        image_size: Their (width, height) in pixels.

    Attributes:
        folder: The folder.
        images: uint8 RGB (N, H, W, 3), read-only.

    Raises:
        DataError: The files are damaged.
    """

    def __init__(self, folder: Path, rows: int, image_size: tuple[int, int]) -> None:
        self.folder = folder
        width, height = image_size
        try:
            self.images: NDArray[np.uint8] = _open(folder, "images", np.uint8)
            self._labels: NDArray[np.int32] = _open(folder, "labels", np.int32)
            self._ends: NDArray[np.int64] = _open(folder, "key_ends", np.int64)
            self._keys: NDArray[np.uint8] = _open(folder, "keys", np.uint8)
            whole = self.images.shape == (rows, height, width, 3) and self._labels.shape == (rows,)
            whole &= self._ends.shape == (rows + 1,) and len(self._keys) == self._ends[-1]
        except (OSError, ValueError, EOFError):
            whole = False
        if not whole:
            raise DataError(f"{folder}: the decoded images are damaged; delete the folder")

    def take(self, rows: NDArray[np.int64]) -> Taken:
        """The images with these row numbers, in this order, copied."""
        return Taken(self.images[rows], *self.named(rows))

    def named(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
        """Labels (b,) and keys of these rows."""
        spans = zip(self._ends[rows].tolist(), self._ends[rows + 1].tolist(), strict=True)
        keys = [bytes(self._keys[start:end]).decode() for start, end in spans]
        return self._labels[rows].astype(np.int64), keys


class DecodedOnDevice:
    """The same images, all of them in a device's memory; labels and keys stay in the map.

    Args:
        decoded: The images.
        device: Where they go.

    Raises:
        DataError: They do not fit there.
    """

    def __init__(self, decoded: Decoded, device: torch.device) -> None:
        self._decoded = decoded
        source = decoded.images
        try:
            self._images = torch.empty(source.shape, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError:
            free = torch.cuda.mem_get_info(device)[0]
            raise DataError(
                f"data.cache = device: the decoded images take {source.nbytes / 1e9:.1f} GB, and "
                f"{device} has {free / 1e9:.1f} GB free; data.cache=memory keeps them on this side"
            ) from None
        for first in range(0, len(source), _COPIED):
            part = torch.from_numpy(source[first : first + _COPIED].copy())
            self._images[first : first + _COPIED] = part.to(device)

    def take(self, rows: NDArray[np.int64]) -> Taken:
        """The images with these row numbers, in this order, as a tensor on the device."""
        places = torch.from_numpy(rows).to(self._images.device)
        return Taken(self._images.index_select(0, places), *self._decoded.named(rows))


def cached(
    shards: Shards,
    mode: str,
    *,
    split: str = "train",
    folder: str | Path = "",
    device: torch.device | None = None,
) -> Decoded | DecodedOnDevice | None:
    """What `data.cache` asks for, to be handed to `Stream` for each epoch.

    Args:
        shards: The prepared set.
        mode: `none` gives None; `memory` gives the images mapped into memory; `device` gives them
            on `device`, and where that is a CPU the same as `memory`.
        split: Which part of the set.
        folder: See `decoded`.
        device: Where the network runs; a CPU when None.

    Raises:
        DataError: See `decoded`; or the device's memory is too small.
    """
    if mode == "none":
        return None
    found = decoded(shards, split=split, folder=folder)
    if mode == "memory" or device is None or device.type == "cpu":
        return found
    return DecodedOnDevice(found, device)


def decoded(shards: Shards, *, split: str = "train", folder: str | Path = "") -> Decoded:
    """The decoded images of a split, built first where they are not there yet.

    Of several processes that ask at the same time one builds, in as many threads as there are
    cores, and says so in a line; the others wait.

    Args:
        shards: The prepared set.
        split: Which part of it.
        folder: Where decoded sets lie; empty is `$XDG_CACHE_HOME/facerec/decoded`, and without the
            variable `~/.cache/facerec/decoded`.

    Raises:
        DataError: There is too little room, the folder cannot be written, or an image cannot be
            decoded; names shard, row and key.
    """
    images = shards.split(split)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(folder) if str(folder) else home / "facerec" / "decoded"
    content = json.dumps([_LAYOUT, shards.index], sort_keys=True).encode()
    whole = root / f"{split}-{hashlib.sha256(content).hexdigest()}"
    if not whole.is_dir():
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _alone(whole):
                if not whole.is_dir():
                    _build(images, shards.image_size, whole)
        except OSError as error:
            raise DataError(
                f"{root}: decoded images cannot be written ({error.strerror}); set "
                "data.cache_dir=FOLDER to one of yours with room, or data.cache=none"
            ) from None
    return Decoded(whole, images.rows, shards.image_size)


@contextmanager
def _alone(whole: Path) -> Iterator[None]:
    """Hold the lock of a folder; the kernel frees it when this process ends, however it does."""
    with whole.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process, which decodes into {whole}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(split: Split, image_size: tuple[int, int], whole: Path) -> None:
    began = time.perf_counter()
    aside = whole.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)  # of a builder that died
    width, height = image_size
    need = split.rows * (height * width * 3 + 12 + _KEY_BYTES)
    free = shutil.disk_usage(whole.parent).free
    if need > free:
        raise DataError(
            f"{whole.parent}: the decoded images take {need} bytes, and {free} are free; set "
            "data.cache_dir=FOLDER to one on a larger disk, or data.cache=none"
        )
    try:
        aside.mkdir()
        _write(split, image_size, aside)
        for file in aside.iterdir():
            sync(file)
        sync(aside)
        aside.rename(whole)
        sync(whole.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    seconds = time.perf_counter() - began
    size = sum(file.stat().st_size for file in whole.iterdir())
    print(
        f"decoded {split.rows} images of {split.name} into {whole}: {size / 1e6:.0f} MB, "
        f"{seconds:.1f} s",
        flush=True,
    )


def _write(split: Split, image_size: tuple[int, int], folder: Path) -> None:
    width, height = image_size
    shape = (split.rows, height, width, 3)
    # The file at its full length, with a header that says its shape. It is filled by writing, not
    # through the map: a full disk is an error there, and the end of the process here.
    made = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    offset = int(made.offset)
    del made
    firsts = np.cumsum((0, *split.group_rows)).tolist()
    labels = np.empty(split.rows, np.int32)
    ends = np.zeros(split.rows + 1, np.int64)
    with (folder / "images.npy").open("r+b") as images, (folder / "keys.part").open("wb") as keys:

        def fill(group: int) -> list[bytes]:
            part = split.read(group)
            pixels = np.empty((len(part.keys), height, width, 3), np.uint8)
            for row, image in enumerate(part.images):
                try:
                    decode(image, pixels[row])
                except DataError as error:
                    raise part.locate(row, error) from None
            labels[firsts[group] : firsts[group + 1]] = part.labels
            rest, place = pixels.data.cast("B"), offset + firsts[group] * pixels[0].nbytes
            while rest:
                written = os.pwrite(images.fileno(), rest, place)
                rest, place = rest[written:], place + written
            return [key.encode() for key in part.keys]

        def note(group: int, found: list[bytes]) -> None:
            sizes = np.array([len(key) for key in found], np.int64)
            first = firsts[group]
            ends[first + 1 : first + 1 + len(found)] = ends[first] + np.cumsum(sizes)
            keys.write(b"".join(found))

        threads = min(_cores(), _THREADS)
        waiting: deque[tuple[int, Future[list[bytes]]]] = deque()
        with ThreadPoolExecutor(threads, "facerec-decode") as pool:
            for group in range(len(split.group_rows)):
                waiting.append((group, pool.submit(fill, group)))
                if len(waiting) > 2 * threads:
                    done, future = waiting.popleft()
                    note(done, future.result())
            for done, future in waiting:
                note(done, future.result())
    np.save(folder / "labels.npy", labels)
    np.save(folder / "key_ends.npy", ends)
    np.save(folder / "keys.npy", np.fromfile(folder / "keys.part", np.uint8))
    (folder / "keys.part").unlink()


def _open(folder: Path, name: str, kind: type[Any]) -> NDArray[Any]:
    found = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    if found.dtype != kind:
        raise ValueError(name)
    return np.asarray(found)


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
