"""Two choices of the training step, as ratios within one run: layout, and where to augment.

python benchmarks/training_step.py

Each pair of variants runs in turns, one thread, batch 64; written are the medians of 15 turns and
the ratio of each pair, to docs/benchmarks/training_step.json with hardware and commit.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hardware import processor

from facerec import backbones
from facerec.backbones.base import shrink
from facerec.config import Component
from facerec.data.augment import DRAWS, normalise
from facerec.presets import laptop

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "benchmarks" / "training_step.json"
TURNS = 15
BATCH = 64


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (BATCH, 112, 112, 3), dtype=torch.uint8)
    images = normalise(pixels)
    small = shrink(images, 64)
    draws = torch.rand(BATCH, DRAWS)
    augment = laptop(Component("uniface")).data.augment

    def step(layout: torch.memory_format) -> Callable[[], None]:
        net = backbones.build("tiny", {}, embedding_size=128).to(memory_format=layout)

        def run() -> None:
            net.zero_grad()
            net(small).square().sum().backward()

        return run

    pairs = {
        "tiny, forward and backward: usual layout / channels-last": (
            step(torch.contiguous_format),
            step(torch.channels_last),
        ),
        "augment at 112 then shrink / shrink to 64 then augment": (
            lambda: shrink(augment(images, draws), 64),
            lambda: augment(shrink(images, 64), draws),
        ),
    }
    results = {name: _compare(*variants) for name, variants in pairs.items()}
    commit = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    described = {
        "command": "python benchmarks/training_step.py",
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "hardware": f"{processor()}, one thread",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "batch": BATCH,
        "results": results,
    }
    OUT.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    for name, result in results.items():
        print(f"{name}: {result['ratio']:.2f}")


def _compare(one: Callable[[], None], two: Callable[[], None]) -> dict[str, float]:
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(TURNS + 2):
        for which, variant in enumerate((one, two)):
            began = time.perf_counter()
            variant()
            if turn >= 2:
                seconds[which].append(time.perf_counter() - began)
    first, second = (statistics.median(seconds[which]) for which in (0, 1))
    return {
        "first_milliseconds": round(1000 * first, 2),
        "second_milliseconds": round(1000 * second, 2),
        "ratio": round(first / second, 3),
    }


if __name__ == "__main__":
    main()
