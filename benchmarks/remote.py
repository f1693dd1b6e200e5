"""How fast images stream from a server, against a folder of this machine.

    python benchmarks/remote.py

draws 112-pixel JPEGs, serves them by a process of its own, and streams them shuffled to uint8
batches: from the folder, over HTTP into an empty cache, over HTTP from the full cache; and, with
each answer 50 ms late, with read-ahead and without. All sides in turns, five times; medians, the
median ratios, requests and memory go to docs/benchmarks/remote.json with hardware, commit and load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import simplejpeg
from hardware import ROOT, surroundings

from facerec.data.shards import Shards, Split
from facerec.data.stream import Stream
from facerec.data.writer import COLUMNS, describe, write_json, write_table

TURNS, BATCH, SIZE, GROUP = 5, 512, 112, 256
LATE = 50  # milliseconds
WINDOW = 16  # row groups, as the stream shuffles them
OUT = ROOT / "docs" / "benchmarks" / "remote.json"


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=40, help="of 256 images (default: 40)")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--memory", metavar="URL", help="only: stream once and print the memory")
    given = parser.parse_args()
    if given.memory:
        print(json.dumps(_memory(given.memory)))
        return
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "faces")
        _write(folder, given.groups)
        _write(Path(scratch, "few"), WINDOW)
        _write(Path(scratch, "many"), 10 * WINDOW)
        with _served(Path(scratch), 0) as near, _served(Path(scratch), LATE) as far:
            rates, requests = _in_turns(folder, near, far, given.turns)
            memory = {
                f"{groups * GROUP} images": _fresh(f"{near}/{name}", scratch)
                for name, groups in (("few", WINDOW), ("many", 10 * WINDOW))
            }
    found = {
        "command": "python benchmarks/remote.py",
        **surroundings("pyarrow", more="; server on the same machine"),
        "load": [round(before, 1), round(os.getloadavg()[0], 1)],
        "images": given.groups * GROUP,
        "images_per_second": {
            name: {"median": round(statistics.median(rate)), "turns": [round(one) for one in rate]}
            for name, rate in rates.items()
        },
        "ratio to the folder": {
            name: _ratio(rate, rates["folder"]) for name, rate in rates.items() if name != "folder"
        },
        f"read-ahead / without, {LATE} ms": _ratio(
            rates[f"HTTP, {LATE} ms late"], rates[f"HTTP, {LATE} ms late, no read-ahead"]
        ),
        "requests": requests,
        "megabytes of anonymous memory at the end of an epoch over HTTP": memory,
    }
    write_json(given.out, found)
    print(json.dumps(found, indent=1))


def _ratio(ours: list[float], others: list[float]) -> float:
    """The median of the turns' own ratios: the load of the machine changes between turns."""
    return round(statistics.median(a / b for a, b in zip(ours, others, strict=True)), 3)


def _in_turns(
    folder: Path, near: str, far: str, turns: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Images per second of each side and turn, and the requests of an epoch."""
    rates: dict[str, list[float]] = {}
    requests: dict[str, int] = {}

    def take(name: str, shards: Shards, turn: int) -> None:
        began = time.perf_counter()
        images = sum(len(batch.keys) for batch in Stream(shards, batch_size=BATCH, seed=turn))
        rates.setdefault(name, []).append(images / (time.perf_counter() - began))

    for turn in range(turns):
        take("folder", Shards(folder), turn)
        with _empty_cache():
            shards = Shards(f"{near}/faces")
            requests["to open the set"] = _count(near)
            take("HTTP, first epoch", shards, turn)
            requests["in the first epoch"] = _count(near)
            take("HTTP, second epoch", shards, turn + 1)
            requests["in the second epoch"] = _count(near)
        with _empty_cache():
            take(f"HTTP, {LATE} ms late", Shards(f"{far}/faces"), turn)
        with _empty_cache(), mock.patch.object(Split, "prefetch", return_value=None):
            take(f"HTTP, {LATE} ms late, no read-ahead", Shards(f"{far}/faces"), turn)
    return rates, requests


def _write(folder: Path, groups: int) -> None:
    """A prepared set of smooth noise; 512 JPEGs of some 5 kB in turn, with keys of their own."""
    draws = np.random.default_rng(1)
    pool = [_jpeg(draws) for _ in range(512)]
    folder.mkdir()
    entries = []
    for shard in range(-(-groups // WINDOW)):
        tables = [
            _table(pool, group * GROUP)
            for group in range(shard * WINDOW, min((shard + 1) * WINDOW, groups))
        ]
        path = folder / f"train-{shard:05d}.parquet"
        write_table(path, pa.schema(COLUMNS), tables)
        entries.append(describe(path))
    index = {"version": 1, "rows": groups * GROUP, "classes": 1000, "shards": entries}
    write_json(folder / "index.json", {**index, "splits": {}, "image_size": [SIZE, SIZE]})


def _jpeg(draws: np.random.Generator) -> bytes:
    coarse = draws.uniform(0, 255, (14, 14, 3)).repeat(8, 0).repeat(8, 1)
    pixels = np.clip(coarse + draws.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=80, colorspace="RGB")


def _table(pool: list[bytes], first: int) -> pa.Table:
    rows = range(first, first + GROUP)
    columns: list[list[Any]] = [
        [pool[row % len(pool)] for row in rows],
        [row % 1000 for row in rows],
        [f"{row:08d}.jpg" for row in rows],
        [f"{row % 1000}" for row in rows],
        [SIZE] * GROUP,
        [SIZE] * GROUP,
    ]
    return pa.table(columns, schema=pa.schema(COLUMNS))


@contextmanager
def _served(folder: Path, late: int) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("remote_server.py")), str(folder)]
    with subprocess.Popen([*command, str(late)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.terminate()


@contextmanager
def _empty_cache() -> Iterator[None]:
    folder = tempfile.mkdtemp()
    with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": folder}):
        yield
    shutil.rmtree(folder)


def _count(url: str) -> int:
    with urllib.request.urlopen(f"{url}/count") as answer:
        return int(answer.read())


def _fresh(url: str, scratch: str) -> float:
    """What `_memory` finds in a process of its own, with an empty cache."""
    with _empty_cache():
        command = [sys.executable, __file__, "--memory", url]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _memory(url: str) -> float:
    for _ in Stream(url, batch_size=BATCH, seed=1):
        pass
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):  # without the mapped files of the cache
            return round(int(line.split()[1]) / 1000, 1)
    raise OSError("no RssAnon: the memory is measured on Linux alone")


if __name__ == "__main__":
    main()
