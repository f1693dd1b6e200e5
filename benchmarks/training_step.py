"""Choices of the training step, as ratios within one run: layout, images, optimizer, scaling.

python benchmarks/training_step.py

Each pair of variants runs in turns, one thread, batch 64 (`iresnet18`: 8); written are the medians
of 15 turns and the ratio of each pair, to docs/benchmarks/training_step.json with hardware and
commit. The whole step, against loops as others write them, is `benchmarks/train.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from hardware import ROOT, surroundings
from torch import nn

from facerec import backbones
from facerec.backbones.base import shrink
from facerec.config import Component
from facerec.data.augment import DRAWS, normalise
from facerec.data.writer import write_json
from facerec.presets import laptop

OUT = ROOT / "docs" / "benchmarks" / "training_step.json"
TURNS = 15
BATCH = 64


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (BATCH, 112, 112, 3), dtype=torch.uint8)
    images = normalise(pixels)
    planes = images.contiguous()
    # Each column of the matrix is a stripe, shrunk.
    stripes = torch.eye(112).view(112, 1, 112, 1).expand(-1, -1, -1, 112)
    matrix = F.interpolate(stripes, size=64, mode="area")[:, 0, :, 0].T.contiguous()
    small = shrink(images, 64)
    draws = torch.rand(BATCH, DRAWS)
    augment = laptop(Component("uniface")).data.augment

    def step(name: str, layout: torch.memory_format) -> Callable[[], object]:
        net = backbones.build(name, {}, embedding_size=128)
        net.to(memory_format=layout)  # type: ignore[call-overload]
        seen = small if name == "tiny" else images[:8]
        seen = seen.contiguous(memory_format=layout)

        def run() -> None:
            net.zero_grad()
            net(seen).square().sum().backward()

        return run

    def move(fused: bool) -> Callable[[], object]:
        net = backbones.build("iresnet18", {}, embedding_size=512)
        weights = [*net.parameters(), nn.Parameter(torch.randn(10_000, 512))]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer = torch.optim.SGD(
            weights, lr=0.1, momentum=0.9, weight_decay=5e-4, fused=fused or None
        )
        return optimizer.step

    pairs = {
        "tiny, forward and backward: usual layout / channels-last": (
            step("tiny", torch.contiguous_format),
            step("tiny", torch.channels_last),
        ),
        "iresnet18, forward and backward: usual layout / channels-last": (
            step("iresnet18", torch.contiguous_format),
            step("iresnet18", torch.channels_last),
        ),
        "normalise: into the usual layout / where the pixels are": (
            lambda: normalise(pixels).contiguous(),
            lambda: normalise(pixels),
        ),
        "shrink 112 to 64: whole matrices / their blocks": (
            lambda: matrix @ planes @ matrix.T,
            lambda: shrink(images, 64),
        ),
        "SGD, iresnet18 and 10,000 classes: PyTorch's default / fused": (move(False), move(True)),
        "augment at 112 then shrink / shrink to 64 then augment": (
            lambda: shrink(augment(images, draws), 64),
            lambda: augment(shrink(images, 64), draws),
        ),
    }
    results = {name: _compare(*variants) for name, variants in pairs.items()}
    described = {
        "command": "python benchmarks/training_step.py",
        **surroundings("torch", more=", one thread"),
        "batch": BATCH,
        "results": results,
    }
    write_json(OUT, described)
    for name, result in results.items():
        print(f"{name}: {result['ratio']:.2f}")


def _compare(one: Callable[[], object], two: Callable[[], object]) -> dict[str, float]:
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
