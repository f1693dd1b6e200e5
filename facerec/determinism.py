"""Trainings on an accelerator that give the same weights to the bit each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Let PyTorch take algorithms alone whose sums have one order; afterwards all is as before.

    On the CPU nothing changes: what a training uses there has one order for a number of threads.

    Args:
        wanted: False changes nothing.
        device: Where the training runs.
    """
    if not wanted or device.type == "cpu":
        yield
        return
    # cuBLAS reads it when its first handle is made, so before the first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before[2], before[3]
