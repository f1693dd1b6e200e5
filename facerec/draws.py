"""Random draws that depend on a seed and on what is drawn, never on workers or on what came before.

Each draw has a generator of its own, made from its key, so that a run which resumes, or runs on
another number of workers, draws the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1024  # rows that come from one generator
_CENTERS, _CLASSES, _NUMBERS = range(3)  # keys of the kinds of draw


def _generator(*key: int) -> torch.Generator:
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def normal_rows(seed: int, start: int, stop: int, size: int) -> Tensor:
    """Rows `start` to `stop` of an endless matrix of standard normal numbers.

    Args:
        seed: Which matrix, 0 or more.
        start: First row.
        stop: One past the last row.
        size: Numbers of a row.

    Returns:
        (stop - start, size), float32, on the CPU.
    """
    first = start // _BLOCK
    blocks = [
        torch.randn(_BLOCK, size, generator=_generator(_CENTERS, seed, block))
        for block in range(first, -(-stop // _BLOCK))
    ]
    rows = torch.cat(blocks) if blocks else torch.empty(0, size)
    return rows[start - first * _BLOCK : stop - first * _BLOCK].clone()


def _mixed(words: Tensor) -> Tensor:
    """SplitMix64's output function on int64: flipping one bit flips each bit of the result evenly.

    Guy Steele, Doug Lea, Christine Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA
    2014. Shifts of signed words drag their sign along, which is cut off.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ ((words >> shift) & (2 ** (64 - shift) - 1))) * (factor - 2**64)
    return words ^ ((words >> 31) & (2**33 - 1))


def normal_numbers(seed: int, step: Tensor, count: int) -> Tensor:
    """Standard normal numbers of a training batch; each is a function of seed, step and place.

    Counted rather than drawn one after the other, so that they are made where `step` lies: a
    generator on the CPU would have to wait for the device to tell the step.

    Args:
        seed: Of the run, 0 or more.
        step: Of the run, 0-d, integer.
        count: How many.

    Returns:
        (count,), float64, on the device of `step`.
    """
    state = np.random.SeedSequence((_NUMBERS, seed)).generate_state(1, np.uint64)
    places = torch.arange(1, 2 * count + 1, device=step.device)
    start = _mixed(step.long() + int(state[0] >> np.uint64(1)))
    words = _mixed(start + places * (0x9E3779B97F4A7C15 - 2**64))
    uniform = (((words >> 11) & (2**53 - 1)).double() + 0.5) * 2.0**-53
    radius = torch.sqrt(-2.0 * torch.log(uniform[::2]))  # Box and Muller, 1958
    return radius * torch.cos(2.0 * torch.pi * uniform[1::2])


def class_sample(seed: int, step: int, num_classes: int, rate: float, labels: Tensor) -> Tensor:
    """The classes that a training batch meets (Partial FC v2, CVPR 2022).

    Every class draws a number, the batch's own classes win, and the largest are kept: int(rate ·
    num_classes) of them, or more where the batch itself holds more.

    Args:
        seed: Of the run, 0 or more.
        step: Of the run.
        num_classes: Classes over all workers.
        rate: Share of them that is kept, above 0 to 1.
        labels: Of the global batch (B,).

    Returns:
        Sorted global ids on the device of `labels`.
    """
    drawn = torch.rand(num_classes, generator=_generator(_CLASSES, seed, step))
    own = torch.unique(labels.cpu())
    drawn[own] = 2.0
    count = max(int(rate * num_classes), len(own))
    return drawn.topk(count).indices.sort().values.to(labels.device)
