"""The cases of `benchmarks/data.py`: both sides of each, in turns."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import shutil
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from data_memory import highest
from evaluation_turns import in_turns
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from data_prep.__main__ import main as data_prep  # noqa: TID251 - facerec itself never does
from facerec.data.cache import decoded
from facerec.data.shards import Shards
from facerec.data.stream import Stream

BATCH = 512
MAGIC = 0xCED7230A
PART, HEADER = struct.Struct("<II"), struct.Struct("<IfQQ")


@dataclass(frozen=True)
class Inputs:
    """A prepared set, a folder to write into, and whether at a reduced size."""

    shards: Path
    folder: Path
    small: bool

    @property
    def batch(self) -> int:
        return 64 if self.small else BATCH

    def epoch(self, turn: int = 0, **options: Any) -> int:
        """One epoch of the stream; how many images."""
        stream = Stream(self.shards, batch_size=self.batch, seed=1, epoch=turn, **options)
        return sum(len(batch.labels) for batch in stream)

    def images(self) -> list[bytes]:
        """As many encoded images as an epoch has."""
        found = _encoded(self.shards)
        return found[: len(found) // self.batch * self.batch]


def _encoded(shards: Path) -> list[bytes]:
    split = Shards(shards).split()
    return [bytes(i) for g in range(len(split.group_rows)) for i in split.read(g).images]


def twenty_thousand(shards: Path, folder: Path, small: bool) -> Path:
    """The images of a set again and again as another: 20,000, or at a reduced size 2,000."""
    size = Shards(shards).image_size
    count = 2000 if small else 20_000
    source = write_recordio(folder / "records", _encoded(shards), count, size)
    run_data_prep("recordio", source, folder / "shards")
    return folder / "shards"


def decode(inputs: Inputs) -> dict[str, Any]:
    images = inputs.images()
    width, height = Shards(inputs.shards).image_size
    buffer = np.empty((inputs.batch, height, width, 3), np.uint8)

    def bare(turn: int) -> int:
        for number, image in enumerate(images):
            simplejpeg.decode_jpeg(image, "RGB", buffer=buffer[number % inputs.batch])
        return len(images)

    return _streams(inputs.epoch, bare) | {
        "bytes_per_image": round(statistics.mean(map(len, images)))
    }


class Rows(Dataset[tuple[torch.Tensor, int]]):
    """Encoded images as rows that Pillow decodes one by one."""

    def __init__(self, images: list[bytes]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        with Image.open(io.BytesIO(self.images[row])) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))), row


def rows(inputs: Inputs) -> dict[str, Any]:
    return _loader(inputs, 0, 1)


def rows_two(inputs: Inputs) -> dict[str, Any]:
    return _loader(inputs, 2, 2)


def _loader(inputs: Inputs, workers: int, decoders: int) -> dict[str, Any]:
    loader = DataLoader(
        Rows(inputs.images()),
        inputs.batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def load_all(turn: int) -> int:
        return sum(len(labels) for _, labels in loader)

    load_all(0)  # starts the workers
    return _streams(lambda turn: inputs.epoch(turn, decoders=decoders), load_all)


def decoders(inputs: Inputs) -> dict[str, Any]:
    return _streams(lambda turn: inputs.epoch(turn, decoders=2), inputs.epoch)


def identities(inputs: Inputs) -> dict[str, Any]:
    return _streams(lambda turn: inputs.epoch(turn, sampling="identities"), inputs.epoch)


def identities_memory(inputs: Inputs) -> dict[str, Any]:
    kept = decoded(Shards(inputs.shards), folder=inputs.folder)
    return _streams(
        lambda turn: inputs.epoch(turn, cache=kept, sampling="identities"),
        lambda turn: inputs.epoch(turn, cache=kept),
    )


def memory_cache(inputs: Inputs) -> dict[str, Any]:
    began = time.perf_counter()
    kept = decoded(Shards(inputs.shards), folder=inputs.folder)
    built = {"build_seconds": round(time.perf_counter() - began, 2), "bytes": kept.images.nbytes}
    return _streams(lambda turn: inputs.epoch(turn, cache=kept), inputs.epoch) | built


def _streams(ours: Callable[[int], int], reference: Callable[[int], int]) -> dict[str, Any]:
    ours(0)
    result, mine, other = in_turns(ours, reference)
    assert mine == other, "both sides saw as many images"
    return result | {"images": mine}


def trials(inputs: Inputs) -> dict[str, Any]:
    """Two processes that wait for a word, and then each make an epoch at the same time."""
    context = multiprocessing.get_context("spawn")
    doors, processes = [], []
    for number in range(2):
        here, there = context.Pipe()
        processes.append(context.Process(target=_trial, args=(inputs, number, there)))
        processes[-1].start()
        doors.append(here)
    assert [door.recv() for door in doors] == ["ready"] * 2

    def both(turn: int, word: str) -> int:
        for door in doors:
            door.send((turn, word))
        return sum(door.recv() for door in doors)

    both(0, "memory")
    result, mine, other = in_turns(lambda n: both(n, "memory"), lambda n: both(n, "none"))
    assert mine == other
    for door, process in zip(doors, processes, strict=True):
        door.send((0, "end"))
        process.join()
    for side in ("reference / ours", "ours", "reference"):  # of this process, which only waits
        del result[side]["processor_seconds"]
    return result | {"images": mine}


def _trial(inputs: Inputs, number: int, door: Connection) -> None:
    torch.set_num_threads(1)
    kept = decoded(Shards(inputs.shards), folder=inputs.folder)  # one of the two builds it
    door.send("ready")
    while True:
        turn, word = door.recv()
        if word == "end":
            return
        door.send(inputs.epoch(2 * turn + number, cache=kept if word == "memory" else None))


def prepare(inputs: Inputs) -> dict[str, Any]:
    """The set's images as one RecordIO file."""
    images = inputs.images()
    count = len(images)
    size = Shards(inputs.shards).image_size
    source = write_recordio(inputs.folder / "records", images, count, size)
    offsets = [int(line.split("\t")[1]) for line in (source / "train.idx").read_text().splitlines()]

    def plain(turn: int) -> int:
        with (source / "train.rec").open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                length = PART.unpack(file.read(PART.size))[1]
                hashlib.sha256(memoryview(file.read(length))[HEADER.size :]).hexdigest()
        return count

    def prepared(turn: int) -> int:
        target = inputs.folder / f"prepared-{turn}"
        run_data_prep("recordio", source, target)
        found = Shards(target).split().rows
        shutil.rmtree(target)
        return found

    return _streams(prepared, plain)


def growth(inputs: Inputs) -> dict[str, Any]:
    """One image of 32 pixels under many keys, 50 to an identity; each step a process of its own."""
    pixels = (
        np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    )
    image = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 75, "RGB")
    found: dict[str, Any] = {}
    for count in (500, 5000) if inputs.small else (5_000, 500_000):
        source = write_recordio(inputs.folder / f"records-{count}", [image], count, (32, 32))
        target = inputs.folder / f"prepared-{count}"
        small = Inputs(target, inputs.folder, inputs.small)
        found[str(count)] = {
            "prepare_megabytes": highest(run_data_prep, "recordio", source, target),
            "stream_megabytes": highest(small.epoch),
            "stream_identities_megabytes": highest(_identities, small),
        }
    return found


def _identities(inputs: Inputs) -> None:
    """A tenth of an epoch: each image costs the reading of a row group."""
    stream = Stream(
        inputs.shards, batch_size=inputs.batch, seed=1, sampling="identities", images_per_identity=8
    )
    for number, _ in enumerate(stream):
        if number >= min(stream.batches // 10, 20):
            return


def run_data_prep(kind: str, source: Path, target: Path) -> None:
    """A command of `data_prep` in this process, in silence, every image for `train`."""
    words = [kind, str(source), str(target), "--val-identities=0", "--confirm-identities=0"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = data_prep(words)
    assert status == 0, f"data_prep {kind} ended with status {status}"


def write_recordio(
    folder: Path, images: list[bytes], count: int, image_size: tuple[int, int]
) -> Path:
    """`count` records, the images in turn under keys of their own, 50 to an identity."""
    folder.mkdir()
    width, height = image_size
    with (folder / "train.rec").open("wb") as file, (folder / "train.idx").open("w") as index:
        for key in range(count):
            image = images[key % len(images)]
            payload = HEADER.pack(0, float(key // 50), key, 0) + image
            assert MAGIC.to_bytes(4, "little") not in payload, "it would have to be split"
            index.write(f"{key}\t{file.tell()}\n")
            file.write(PART.pack(MAGIC, len(payload)) + payload + bytes(-len(payload) % 4))
    (folder / "property").write_text(f"{-(-count // 50)},{height},{width}\n")
    return folder


CASES: dict[str, Callable[[Inputs], dict[str, Any]]] = {
    case.__name__: case
    for case in (
        *(decode, rows, rows_two, decoders, identities, identities_memory),
        *(memory_cache, trials, prepare, growth),
    )
}
