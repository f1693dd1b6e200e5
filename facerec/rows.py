"""Rows of a tensor with a class axis, read and written wherever their classes live."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from facerec.parallel import ClassShard


class _Sampled(Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, classes: Tensor) -> Tensor:
        ctx.shape = local.shape
        ctx.save_for_backward(classes)
        return local[classes]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (classes,) = ctx.saved_tensors
        # Known to be sorted and each once: neither sorted nor checked again.
        return torch.sparse_coo_tensor(
            classes[None], grad, ctx.shape, is_coalesced=True, check_invariants=False
        ), None


class Sampled(NamedTuple):
    """The classes of this worker that a batch meets, and their rows.

    Attributes:
        classes: Counted from this worker's first, sorted, each once (K,).
        rows: Theirs (K, ...).
    """

    classes: Tensor
    rows: Tensor


def sampled(local: Tensor, classes: Tensor, *, sparse: bool) -> Sampled:
    """Take the rows of sampled classes.

    Args:
        local: A parameter with the class axis of this worker (C, ...).
        classes: Counted from this worker's first, sorted, each once (K,).
        sparse: Whether its gradient is a sparse tensor of these rows alone, as that of
            `nn.Embedding(sparse=True)`; a dense one is as large as the parameter.
    """
    if sparse:
        return Sampled(classes, _Sampled.apply(local, classes))  # type: ignore[no-untyped-call]
    return Sampled(classes, local[classes])


def rows_of(shard: ClassShard, local: Tensor, ids: Tensor, live: Sampled | None = None) -> Tensor:
    """The rows of any classes: (C of this worker, D), (N,) -> (N, D).

    Each worker gives the rows that it holds; the gradient goes to each where it lives.

    Args:
        shard: Which classes this worker holds.
        local: Their rows.
        ids: Classes, global, the same on all workers.
        live: Those of `local` that alone have a gradient; None: all have.
    """
    here = (ids >= shard.start) & (ids < shard.stop)
    if len(local):
        own = (ids - shard.start).clamp(0, len(local) - 1)
        rows = local[own] if live is None else local.detach()[own]
        if live is not None and len(live.classes):
            place = torch.searchsorted(live.classes, own).clamp(max=len(live.classes) - 1)
            found = live.classes[place] == own
            rows = torch.where(found[:, None], live.rows[place], rows)
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
