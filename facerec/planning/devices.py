"""How fast a device multiplies matrices and moves bytes: from data sheets, or measured."""

from __future__ import annotations

import difflib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.distributed as dist

from facerec.values import ConfigError

# Shares of a data sheet's peak that large matrix products, copies and collectives come to.
MATRIX_SHARE, BANDWIDTH_SHARE, LINK_SHARE = 0.8, 0.9, 0.7
HERE = "here"

_TURNS = 5  # of which the median counts
_LEAST = 0.005  # seconds that one turn takes at least
_LARGEST = {"cpu": 1024}  # side of the largest matrix that is tried
_LARGEST_ELSEWHERE = 4096
_COPIED = {"cpu": 32 << 20}  # bytes of the buffer that is copied: beyond what caches hold
_COPIED_ELSEWHERE = 256 << 20
_REDUCED = 4 << 20  # bytes that are summed over the workers


@dataclass(frozen=True)
class Rates:
    """What a device really does.

    Attributes:
        matrix: Flop/s of matrix products in the type that the backbone computes in.
        single: Flop/s of matrix products in single precision, in which the head computes.
        bandwidth: Bytes/s read or written.
        link: Bytes/s that a worker sends to others, as all-reduce does; infinite for one alone.
    """

    matrix: float
    single: float
    bandwidth: float
    link: float = math.inf


@dataclass(frozen=True)
class Accelerator:
    """A line of a data sheet: dense rates, no sparsity.

    Attributes:
        memory: Bytes (cards have a little more than their name says).
        half: Flop/s of float16 with float32 sums.
        bf16: Flop/s of bfloat16; 0 where there is none.
        single: Flop/s of float32, not TF32.
        bandwidth: Bytes/s of its memory.
        link: Bytes/s in one direction to others of the same machine.
        source: The vendor's document.
    """

    memory: float
    half: float
    bf16: float
    single: float
    bandwidth: float
    link: float
    source: str

    def rate(self, dtype: torch.dtype) -> float:
        """Peak flop/s in a type; 0 where it has none."""
        return {torch.float16: self.half, torch.bfloat16: self.bf16}.get(dtype, self.single)

    def rates(self, dtype: torch.dtype) -> Rates:
        """What it can be expected to do, with the backbone in `dtype`."""
        return Rates(
            MATRIX_SHARE * self.rate(dtype),
            MATRIX_SHARE * self.single,
            BANDWIDTH_SHARE * self.bandwidth,
            LINK_SHARE * self.link,
        )


_T, _G = 1e12, 1e9
ACCELERATORS: dict[str, Accelerator] = {
    "v100": Accelerator(
        *(32 * _G, 125 * _T, 0.0, 15.7 * _T, 900 * _G, 150 * _G),
        source="NVIDIA V100 data sheet, SXM2 32 GB",
    ),
    "a100-40": Accelerator(
        *(40 * _G, 312 * _T, 312 * _T, 19.5 * _T, 1555 * _G, 300 * _G),
        source="NVIDIA A100 data sheet, SXM4 40 GB",
    ),
    "a100-80": Accelerator(
        *(80 * _G, 312 * _T, 312 * _T, 19.5 * _T, 2039 * _G, 300 * _G),
        source="NVIDIA A100 data sheet, SXM4 80 GB",
    ),
    "h100": Accelerator(
        *(80 * _G, 989 * _T, 989 * _T, 67 * _T, 3350 * _G, 450 * _G),
        source="NVIDIA H100 data sheet, SXM5 80 GB",
    ),
    "h200": Accelerator(
        *(141 * _G, 989 * _T, 989 * _T, 67 * _T, 4800 * _G, 450 * _G),
        source="NVIDIA H200 data sheet, SXM 141 GB",
    ),
    "l40s": Accelerator(
        *(48 * _G, 362 * _T, 362 * _T, 91.6 * _T, 864 * _G, 32 * _G),
        source="NVIDIA L40S data sheet, PCIe 48 GB",
    ),
    "rtx4090": Accelerator(
        *(24 * _G, 165.2 * _T, 165.2 * _T, 82.6 * _T, 1008 * _G, 32 * _G),
        source="NVIDIA Ada GPU architecture white paper, GeForce RTX 4090",
    ),
    "t4": Accelerator(
        *(16 * _G, 65 * _T, 0.0, 8.1 * _T, 300 * _G, 16 * _G),
        source="NVIDIA T4 data sheet, PCIe 16 GB",
    ),
    "cpu": Accelerator(
        *(4 * _G, 0.0, 0.0, 0.16 * _T, 10 * _G, 1 * _G),
        source="no data sheet: one core at 2.5 GHz with two AVX-512 units, its part of a server",
    ),
}


def check(name: str) -> None:
    """Refuse a name that is neither an accelerator's nor `here`.

    Raises:
        ConfigError: Names those there are, and the nearest.
    """
    names = (*ACCELERATORS, HERE)
    if name not in names:
        begun = [other for other in names if other.startswith(name.lower())]
        near = begun or difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0)
        raise ConfigError(f"--gpu {name}: takes {', '.join(names)}. Did you mean {near[0]}?")


def measure(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measure a device, within a second; once in a process for each type and number of threads.

    A matrix product and a copy, of each the median of 5 turns. On a machine that others use too,
    the rates are what they leave.

    Args:
        device: Which one.
        dtype: In which the backbone computes.
    """
    return _measured(device, dtype, torch.get_num_threads())


@lru_cache(maxsize=16)
def _measured(device: torch.device, dtype: torch.dtype, threads: int) -> Rates:
    single = _matrix_rate(device, torch.float32)
    matrix = single if dtype == torch.float32 else _matrix_rate(device, dtype)
    size = _COPIED.get(device.type, _COPIED_ELSEWHERE)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), device)
    return Rates(matrix, single, 2 * size / seconds)


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    side, largest = 256, _LARGEST.get(device.type, _LARGEST_ELSEWHERE)
    generator = torch.Generator().manual_seed(0)  # the training's own is not touched
    while True:
        matrix = torch.rand(side, side, generator=generator).to(device, dtype)
        result = torch.empty_like(matrix)
        seconds = _once(lambda: torch.mm(matrix, matrix, out=result), device)  # noqa: B023
        if seconds >= _LEAST or side >= largest:
            break
        side *= 2
    return 2 * side**3 / _seconds(lambda: torch.mm(matrix, matrix, out=result), device)


def measure_link(device: torch.device) -> float:
    """Measure how many bytes/s a worker sends while all sum something; every worker calls it.

    Infinite where there is one worker.
    """
    workers = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if workers == 1:
        return math.inf
    buffer = torch.zeros(_REDUCED // 4, device=device)
    turns = [_timed(lambda: dist.all_reduce(buffer), device) for _ in range(_TURNS + 1)]
    return summed(_REDUCED, workers) / statistics.median(turns[1:])


def summed(size: float, workers: int) -> float:
    """Bytes that each worker sends where all sum `size` bytes in a ring, 0 for one."""
    return 2 * (workers - 1) / workers * size


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    _synchronise(device)
    began = time.perf_counter()
    work()
    _synchronise(device)
    return max(time.perf_counter() - began, 1e-9)


def _once(work: Callable[[], object], device: torch.device) -> float:
    work()  # what is made ready at the first call does not count
    return _timed(work, device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: the median of some turns, each long enough to be timed."""
    times = max(math.ceil(_LEAST / _once(work, device)), 1)

    def turn() -> None:
        for _ in range(times):
            work()

    return statistics.median(_timed(turn, device) / times for _ in range(_TURNS))
