"""Random draws that depend on a seed and on what is drawn, never on workers or on what came before.

Each draw has a generator of its own, made from its key, so that a run which resumes, or runs on
another number of workers, draws the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1024  # rows that come from one generator
_CENTERS, _CLASSES = range(2)  # keys of the kinds of draw


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
