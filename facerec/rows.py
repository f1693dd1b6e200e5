"""Rows of a tensor with a class axis, read and written wherever their classes live."""

from __future__ import annotations

import torch
from torch import Tensor

from facerec.parallel import ClassShard


def rows_of(shard: ClassShard, local: Tensor, ids: Tensor) -> Tensor:
    """The rows of any classes: (C of this worker, D), (N,) -> (N, D).

    Each worker gives the rows that it holds; the gradient goes to each where it lives.

    Args:
        shard: Which classes this worker holds.
        local: Their rows.
        ids: Classes, global, the same on all workers.
    """
    here = (ids >= shard.start) & (ids < shard.stop)
    if len(local):
        rows = local[(ids - shard.start).clamp(0, len(local) - 1)]
    else:
        rows = local.new_zeros(len(ids), local.shape[1])
    return shard.all(torch.where(here[:, None], rows, 0.0))


def of_each_class(shard: ClassShard, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For a write to the centers of a batch's classes, without asking which of them are here.

    Each row is given a class of this worker: its own, or else the first or last. What a row shall
    write is computed from all rows of that class, so rows of one class write the same value, and a
    class that is not in the batch is written as it was.

    Args:
        shard: Which classes this worker holds, one or more.
        labels: Of the global batch (B,).

    Returns:
        The rows' classes, counted from this worker's first (B,); whether row j of the batch has the
        class of row i (B, B).
    """
    own = labels.clamp(shard.start, shard.stop - 1)
    return own - shard.start, own[:, None] == labels[None, :]
