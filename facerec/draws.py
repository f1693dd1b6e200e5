"""Random draws that depend on a seed and on what is drawn, never on workers or on what came before.

Each draw has a generator of its own, or is counted, from its key, so that a run which resumes, or
runs on another number of workers, draws the same.
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


def _words(kind: int, seed: int, step: Tensor, count: int) -> Tensor:
    """Random words of a step, each a function of kind, seed, step and place: (count,), int64.

    Counted rather than drawn one after the other, so that they are made where `step` lies: a
    generator on the CPU would have to wait for the device to tell the step.
    """
    state = np.random.SeedSequence((kind, seed)).generate_state(1, np.uint64)
    places = torch.arange(1, count + 1, device=step.device)
    start = _mixed(step.long() + int(state[0] >> np.uint64(1)))
    return _mixed(start + places * (0x9E3779B97F4A7C15 - 2**64))


def normal_numbers(seed: int, step: Tensor, count: int) -> Tensor:
    """Standard normal numbers of a training batch; each is a function of seed, step and place.

    Args:
        seed: Of the run, 0 or more.
        step: Of the run, 0-d, integer.
        count: How many.

    Returns:
        (count,), float64, on the device of `step`.
    """
    words = _words(_NUMBERS, seed, step, 2 * count)
    uniform = (((words >> 11) & (2**53 - 1)).double() + 0.5) * 2.0**-53
    radius = torch.sqrt(-2.0 * torch.log(uniform[::2]))  # Box and Muller, 1958
    return radius * torch.cos(2.0 * torch.pi * uniform[1::2])


def class_sample(seed: int, step: Tensor, num_classes: int, rate: float, labels: Tensor) -> Tensor:
    """The classes that a training batch meets (Partial FC v2, CVPR 2022).

    Every class draws a number, the batch's own classes win, and the largest are kept: int(rate ·
    num_classes) of them, or more where the batch itself holds more. The numbers are integers, so
    that every device keeps the same classes.

    Args:
        seed: Of the run, 0 or more.
        step: Of the run, 0-d, integer.
        num_classes: Classes over all workers.
        rate: Share of them that is kept, above 0 to 1.
        labels: Of the global batch (B,), on the device of `step`.

    Returns:
        Sorted global ids on the device of `step`.
    """
    drawn = _words(_CLASSES, seed, step, num_classes) >> 2
    drawn[labels] = 2**62  # above all that can be drawn
    count = int(rate * num_classes)
    if count < len(labels):  # only then a device is asked how many classes the batch holds
        count = max(count, len(torch.unique(labels)))
    return drawn.topk(count, sorted=False).indices.sort().values
