"""How many photographs per second `data_prep align` takes, step by step, in one run.

python benchmarks/align.py [--small]

Photographs are drawn faces of 100 to 200 pixels on noise: 250 x 250 (as LFW's) and
640 x 480, as JPEGs on the disk. Each step reads, decodes, detects, aligns, and writes PNGs, each
made durable:

- `one at a time`: one photograph per call of the detector, smallest face 20 pixels, one process;
- `together`: 16 photographs per call;
- `together, 40 pixels`: the smallest face is 40 pixels;
- `one at a time, 40 pixels`: for the share of the smallest face alone;
- `together, 40 pixels, N processes`: one per core;
- `together, N processes`: the same with 20 pixels.

A process has one thread. The steps run in turns; written are the images per second of each of five
turns, without the start of the processes and the first photographs, the medians and what they are
to `one at a time`, the share of photographs whose face was found, and the machine's load before and
after each size, to docs/benchmarks/align.json with hardware and commit. `per processor second`
counts no waiting for a core that others use; known of one process. Needs the weights that
`make detect` installs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from evaluation_turns import TURNS, load
from hardware import ROOT, surroundings
from PIL import Image

from data_prep.align_work import Photograph, Work, each  # noqa: TID251
from data_prep.synthetic import faces  # noqa: TID251
from facerec.data.images import decode
from facerec.data.writer import write_json

OUT = ROOT / "docs" / "benchmarks" / "align.json"
SIZES = {"250 x 250": (250, 250), "640 x 480": (640, 480)}
TOGETHER = 16
KINDS = 48  # photographs that differ
PROCESSES = os.cpu_count() or 1
_CLOCKS = time.perf_counter, time.process_time
# Photographs per call, smallest face in pixels, processes.
STEPS = {
    "one at a time": (1, 20, 1),
    "together": (TOGETHER, 20, 1),
    "one at a time, 40 pixels": (1, 40, 1),
    "together, 40 pixels": (TOGETHER, 40, 1),
    f"together, {PROCESSES} processes": (TOGETHER, 20, PROCESSES),
    f"together, 40 pixels, {PROCESSES} processes": (TOGETHER, 40, PROCESSES),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="reduced size; writes nothing")
    small = parser.parse_args().small
    results = {}
    for name, size in SIZES.items():
        results[name] = measure(size, 2 if small else 6, 1 if small else TURNS)
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    if not small:
        write(results)


def measure(size: tuple[int, int], calls: int, turns: int) -> dict[str, Any]:
    """Every step in turns; each takes `calls` times 16 photographs per process."""
    before = load()
    rates: dict[str, list[float]] = {name: [] for name in STEPS}
    busy: dict[str, list[float]] = {name: [] for name, step in STEPS.items() if step[2] == 1}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        source, folder = Path(place, "photographs"), Path(place, "faces")
        source.mkdir()
        draw(source, size)
        for _ in range(turns):
            for name, step in STEPS.items():
                speed, found[name] = rate(source, folder, *step, calls)
                rates[name].append(speed[0])
                if step[2] == 1:
                    busy[name].append(speed[1])
                shutil.rmtree(folder)
    return {
        "images per second": _compared(rates),
        "per processor second": _compared(busy),
        "share with a face found": {name: round(share, 3) for name, share in found.items()},
        "load": [before, load()],
    }


def _compared(rates: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(turn) for name, turn in rates.items()}
    first = medians["one at a time"]
    ratios = {name: round(speed / first, 2) for name, speed in medians.items()}
    return {"turns": rates, "medians": medians, "to one at a time": ratios}


def rate(
    source: Path, folder: Path, together: int, smallest: int, processes: int, calls: int
) -> tuple[list[float], float]:
    """Images per second of either clock when every process has begun; the share with a face."""
    work = Work(source, folder, "mtcnn", smallest, "largest", None, None)
    warm = 4 * processes * TOGETHER  # so many are on their way or done before the clock runs
    total = warm + calls * processes * TOGETHER
    photographs = [Photograph(f"{n % KINDS}.jpg", f"{n}.png") for n in range(total)]
    tasks = [photographs[first : first + together] for first in range(0, total, together)]
    began, done, counted, found = [0.0, 0.0], 0, 0, 0
    for rows in each(work, tasks, processes):
        if done >= warm:
            counted += len(rows)
        done += len(rows)
        if not began[0] and done >= warm:
            began = [clock() for clock in _CLOCKS]
        found += sum(row.status == "aligned" for row in rows)
    taken = [clock() - start for clock, start in zip(_CLOCKS, began, strict=True)]
    return [round(counted / seconds, 2) for seconds in taken], found / total


def draw(folder: Path, size: tuple[int, int]) -> None:
    """Writes photographs of (width, height)."""
    rng = np.random.default_rng(1)
    for number, face in enumerate(faces(KINDS, 1)):
        noise = rng.normal(rng.uniform(60, 180, 3), 30, (*size[::-1], 3)).clip(0, 255)
        photograph = Image.fromarray(noise.astype(np.uint8))
        side = int(rng.integers(100, 200))
        crop = Image.fromarray(decode(face.image)).resize((side, side), Image.Resampling.BICUBIC)
        at = rng.integers(0, np.array(size) - side)
        photograph.paste(crop, (int(at[0]), int(at[1])))
        photograph.save(folder / f"{number}.jpg", quality=92)


def write(results: dict[str, Any]) -> None:
    described = {
        "command": "python benchmarks/align.py",
        **surroundings("numpy", "torch", "pillow"),
        "turns": TURNS,
        "results": results,
    }
    write_json(OUT, described)


if __name__ == "__main__":
    main()
