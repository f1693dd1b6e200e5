"""Whole training steps, from encoded images to moved weights, against loops as others write them.

python benchmarks/train.py [CASE ...] [--device cuda [--reference DIR]] [--shards DIR] [--small]

On a CPU, with all cores:

- `tiny`, `tiny_workers`, `iresnet18`: our loop from shards, against the same net in a plain loop:
  the usual layout, a `DataLoader` (without workers in `tiny`, elsewhere with one for each core) of
  rows that Pillow decodes, mirrored and normalised one by one, ArcFace by one-hot rows and angles,
  `torch.optim.SGD`. Both mirror, clip at 5 and have the same batch; ours also measures and watches.
- `iresnet18_compiled`: the same with `compile=on`.

With `--device cuda`, bf16, 512 images a step, 10,572 classes:

- `iresnet50`, `iresnet18`: the set on the device; with `--reference`, a checkout of arcface_torch,
  against the steps of its `train_v2.py` (fp16), which are given a batch that lies on the device.
- `jpeg`: `iresnet50` from the device's set against the same from encoded images.

Each side is a process of its own, and they make their steps in turns. The images are those of DIR,
prepared by `data_prep`, else drawn faces. Written are the seconds of five turns, images per second
and the ratio of the medians to docs/benchmarks/train.json, with hardware, commit and the machine's
load before and after. Cases that are named alone, and those of another device, replace theirs in
that file. `--small` runs two steps a turn and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from evaluation_turns import TURNS, load
from hardware import ROOT, surroundings
from train_loops import Task

from facerec.data.writer import write_json

OUT = ROOT / "docs" / "benchmarks" / "train.json"
CASES = {  # (net, batch, steps of a turn, workers, compile)
    "cpu": {
        "tiny": ("tiny", 64, 40, 0, "off"),
        "tiny_workers": ("tiny", 64, 40, -1, "off"),
        "iresnet18": ("iresnet18", 32, 4, -1, "off"),
        "iresnet18_compiled": ("iresnet18", 32, 4, -1, "on"),
    },
    "cuda": {
        "iresnet50": ("iresnet50", 512, 60, -1, "auto"),
        "iresnet18": ("iresnet18", 512, 60, -1, "auto"),
        "jpeg": ("iresnet50", 512, 60, -1, "auto"),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--device", choices=CASES, default="cpu")
    parser.add_argument("--reference", type=Path, help="a checkout of arcface_torch")
    parser.add_argument("--shards", type=Path, help="a prepared set; else drawn faces")
    parser.add_argument("--small", action="store_true", help="reduced size; writes nothing")
    asked = parser.parse_args()
    for name in asked.cases:
        if name not in CASES[asked.device]:
            parser.error(f"no case {name!r}: takes {', '.join(CASES[asked.device])}")
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none here; its rows stay empty")
    with tempfile.TemporaryDirectory(prefix="facerec-benchmark-") as folder:
        shards = asked.shards or _drawn(Path(folder), asked.device, asked.small)
        for name in asked.cases or CASES[asked.device]:
            result = _case(name, shards, asked)
            print(f"{name}: {json.dumps(result)}", flush=True)
            if not asked.small:
                _write(asked.device, name, result, asked.shards)


def _drawn(folder: Path, device: str, small: bool) -> Path:
    """Of as many identities as CASIA-WebFace for an accelerator, else 4,000 images of 400."""
    words = ["--identities=10572", "--images=2"] if device == "cuda" else ["--identities=400"]
    words = ["--identities=40"] if small else words
    command = [sys.executable, "-m", "data_prep", "synthetic", str(folder / "drawn"), *words]
    command += ["--val-identities=0", "--confirm-identities=0"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "drawn"


def _case(name: str, shards: Path, asked: argparse.Namespace) -> dict[str, Any]:
    net, batch, steps, workers, compiled = CASES[asked.device][name]
    common = {
        "shards": str(shards.resolve()),
        "net": net,
        "batch": batch,
        "steps": 2 if asked.small else steps,
        "device": asked.device,
        "workers": len(os.sched_getaffinity(0)) if workers < 0 else workers,
    }
    sides = {"ours": Task("ours", compiled=compiled, **common)}
    if asked.device == "cpu":
        sides["reference"] = Task("plain", **common)
    elif name == "jpeg":
        sides["reference"] = sides["ours"]._replace(cache="device")
    else:
        sides["ours"] = sides["ours"]._replace(cache="device")
        if asked.reference:
            whole = str(asked.reference.resolve())
            sides["reference"] = Task("arcface_torch", reference=whole, **common)
    before = load()
    seconds = _in_turns(sides)
    images = batch * common["steps"]
    medians = {side: statistics.median(taken) for side, taken in seconds.items()}
    result: dict[str, Any] = {
        "net": net,
        "batch": batch,
        "images_per_turn": images,
        "images_per_second": {side: round(images / one, 1) for side, one in medians.items()},
        "seconds": {side: [round(one, 3) for one in taken] for side, taken in seconds.items()},
        "load": [before, load()],
    }
    if "reference" in medians:
        result["reference / ours"] = round(medians["reference"] / medians["ours"], 3)
    return result


def _in_turns(sides: dict[str, Task]) -> dict[str, list[float]]:
    """Seconds of each side's turns; while one works the others wait for a word."""
    started = {}
    for side, task in sides.items():
        command = [sys.executable, str(ROOT / "benchmarks" / "train_loops.py")]
        started[side] = subprocess.Popen(
            [*command, json.dumps(task._asdict())],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        _answer(started[side], side)  # ready
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(TURNS):
        for side, process in started.items():
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            seconds[side].append(float(_answer(process, side)))
    for process in started.values():
        process.communicate()
    return seconds


def _answer(process: subprocess.Popen[str], side: str) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise SystemExit(f"the process of {side} ended early, see its message above")
    return line


def _write(device: str, name: str, result: dict[str, Any], shards: Path | None) -> None:
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    result |= {
        **surroundings("torch"),
        **({"hardware": torch.cuda.get_device_name()} if device == "cuda" else {}),
        "images": shards.name if shards else "drawn faces",
    }
    rows = {kind: found.get("results", {}).get(kind, {}) for kind in CASES}
    rows[device] = {key: {**rows[device], name: result}.get(key) for key in CASES[device]}
    rows = {
        kind: {key: own for key in CASES[kind] if (own := rows[kind].get(key))} for kind in CASES
    }
    described = {"command": "python benchmarks/train.py", "turns": TURNS, "results": rows}
    write_json(OUT, described)


if __name__ == "__main__":
    main()
