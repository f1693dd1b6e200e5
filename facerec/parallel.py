"""How classes are divided over workers, and the collectives that carry gradients.

Every worker holds a slice of the classes and sees the whole batch, so each computes the same loss
from a part of its terms. The rules of differentiation, stated here once:

- a sum over classes (`sum`, `logsumexp`, `all`) passes its gradient through unchanged: each worker
  differentiates only the terms that it holds;
- what all workers share and use with their own classes only (`share`: a scalar bias; `gather`: the
  embeddings) sums its gradient over the workers;
- what every worker computes in full from shared values (`once`) counts once, not once per worker;
- `gather` also undoes the averaging that `DistributedDataParallel` does after it.

With one worker, or where no process group of the right size runs, each of them is a no-op, so that
losses and heads are written once for both cases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad


def _reduced(x: Tensor) -> Tensor:
    """The sum of `x` over the workers, in a new tensor."""
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _gathered(x: Tensor, sizes: list[int], dim: int) -> Tensor:
    """Concatenates the workers' `x` along `dim`, where worker r holds `sizes[r]` entries.

    Collectives want equal shapes, so shorter slices travel padded.
    """
    longest = max(sizes)
    padding = [0, 0] * (x.dim() - 1 - dim) + [0, longest - x.shape[dim]]
    mine = pad(x.detach(), padding).contiguous()
    parts = [torch.empty_like(mine) for _ in sizes]
    dist.all_gather(parts, mine)
    return torch.cat([part.narrow(dim, 0, n) for part, n in zip(parts, sizes, strict=True)], dim)


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _reduced(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _Share(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _reduced(grad)


class _Once(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world_size: int) -> Tensor:
        ctx.world_size = world_size
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.world_size, None


class _LogSumExp(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world_size: int) -> Tensor:
        total = torch.logsumexp(x, dim=1)
        if world_size > 1:
            parts = [torch.empty_like(total) for _ in range(world_size)]
            dist.all_gather(parts, total)
            total = torch.logsumexp(torch.stack(parts), dim=0)
        ctx.save_for_backward(x, total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, total = ctx.saved_tensors
        # PyTorch's own backward computes inf - inf in a row of minus infinities.
        finite = total.masked_fill(total == -torch.inf, 0.0)
        return (x - finite[:, None]).exp_().mul_(grad[:, None]), None


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], rank: int, dim: int) -> Tensor:
        ctx.sizes, ctx.rank, ctx.dim = sizes, rank, dim
        return _gathered(x, sizes, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        mine = _reduced(grad).narrow(ctx.dim, sum(ctx.sizes[: ctx.rank]), ctx.sizes[ctx.rank])
        return mine * len(ctx.sizes), None, None, None


@dataclass(frozen=True)
class ClassColumns:
    """The columns of one worker's (B, C) matrices for one batch: which classes, and whose is whose.

    Attributes:
        classes: The sampled classes of this worker, counted from its first (C,), sorted.
        index: Column of each row's own class (B,); any valid one where it is not here.
        here: Whether each row's own class is among the columns (B,).
        sampled: Whether it is among the columns of some worker (B,).
    """

    classes: Tensor
    index: Tensor
    here: Tensor
    sampled: Tensor

    def pick(self, of_all: Tensor) -> Tensor:
        """The entries of the sampled classes, (classes of this worker, ...) -> (C, ...)."""
        return of_all if len(self.classes) == len(of_all) else of_all[self.classes]

    def write_(self, of_all: Tensor, rows: Tensor) -> None:
        """Writes the entries of the sampled classes, in place: (classes of this worker, ...)."""
        if len(self.classes) == len(of_all):
            of_all.copy_(rows)
        else:
            of_all[self.classes] = rows

    def take(self, matrix: Tensor) -> Tensor:
        """The entries of the rows' own classes, 0 where not here: (B, C) -> (B,)."""
        if matrix.shape[1] == 0:
            return matrix.sum(dim=1)
        return torch.where(self.here, self._entries(matrix), 0.0)

    def put_(self, matrix: Tensor, value: Tensor | float) -> Tensor:
        """Writes `value` (B,) into the columns of the rows' own classes, in place: (B, C)."""
        if matrix.shape[1] == 0:
            return matrix
        kept = torch.where(self.here, value, self._entries(matrix))
        return matrix.scatter_(1, self.index[:, None], kept[:, None])

    def _entries(self, matrix: Tensor) -> Tensor:
        # Not `gather`, whose backward holds on to a matrix that `put_` is going to change.
        return matrix[torch.arange(len(matrix), device=matrix.device), self.index]


@dataclass(frozen=True)
class ClassShard:
    """The classes that one worker holds: `start` to `stop` of `num_classes`.

    Slices are contiguous, in rank order, and differ by at most one class (10 over 3: 4, 3, 3).

    Args:
        num_classes: Classes over all workers.
        rank: This worker, from 0.
        world_size: Number of workers. With more than one, the default process group of
            `torch.distributed` is used when it runs with this size; without it nothing is
            communicated and the shard is a slice only.

    Raises:
        ValueError: No class at all, or a rank outside the world.
    """

    num_classes: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes = {self.num_classes}: a shard needs at least 1 class")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank = {self.rank}: must be 0 to {self.world_size - 1}")

    @property
    def sizes(self) -> list[int]:
        """Number of classes of each worker."""
        share, rest = divmod(self.num_classes, self.world_size)
        return [share + (rank < rest) for rank in range(self.world_size)]

    @property
    def start(self) -> int:
        """First class of this worker."""
        return sum(self.sizes[: self.rank])

    @property
    def stop(self) -> int:
        """One past the last class of this worker."""
        return self.start + self.sizes[self.rank]

    @property
    def connected(self) -> bool:
        """Whether the workers of this shard can talk to each other."""
        return (
            self.world_size > 1
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size() == self.world_size
        )

    def columns(self, ids: Tensor, labels: Tensor) -> ClassColumns:
        """This worker's columns where a batch meets only some classes.

        Args:
            ids: The classes that it meets, global and sorted (K,), at least one.
            labels: The class of each row, global (B,).
        """
        low, high = self.start, self.stop
        if self.world_size == 1:
            high = len(ids)
        elif len(ids) < self.num_classes:
            bounds = torch.tensor([low, high], device=ids.device)
            low, high = (int(n) for n in torch.searchsorted(ids, bounds))
        place = torch.searchsorted(ids, labels)
        sampled = ids[place.clamp(max=len(ids) - 1)] == labels
        index = (place - low).clamp(0, max(high - low - 1, 0))
        here = sampled & (place >= low) & (place < high)
        return ClassColumns(ids[low:high] - self.start, index, here, sampled)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over the classes of all workers: (B, C) -> (B,)."""
        return self.all(x.sum(dim=1))

    def logsumexp(self, x: Tensor) -> Tensor:
        """Log of the sum of exponentials over the classes of all workers: (B, C) -> (B,).

        A row without a finite entry gives minus infinity and a zero gradient.
        """
        workers = self.world_size if self.connected else 1
        return _LogSumExp.apply(x, workers)  # type: ignore[no-any-return,no-untyped-call]

    def all(self, x: Tensor) -> Tensor:
        """Sum over the workers, any shape; the gradient passes through."""
        return _Sum.apply(x) if self.connected else x  # type: ignore[no-untyped-call]

    def share(self, x: Tensor) -> Tensor:
        """Identity for a value that all workers hold; its gradient is summed over them."""
        return _Share.apply(x) if self.connected else x  # type: ignore[no-untyped-call]

    def once(self, x: Tensor) -> Tensor:
        """Identity for a term that each worker computes in full: it counts once."""
        if not self.connected:
            return x
        return _Once.apply(x, self.world_size)  # type: ignore[no-any-return,no-untyped-call]

    def batch_sizes(self, x: Tensor, dim: int = 0) -> list[int]:
        """How many rows of the global batch each worker holds along `dim`."""
        if not self.connected:
            return [x.shape[dim]]
        mine = torch.tensor([x.shape[dim]], device=x.device)
        return [int(n) for n in _gathered(mine, [1] * self.world_size, 0)]

    def gather(self, x: Tensor, sizes: list[int], dim: int = 0) -> Tensor:
        """Concatenates the workers' rows along `dim` in rank order.

        Its backward sums the gradient over the workers and multiplies this worker's part by
        their number, since `DistributedDataParallel` divides by it. Workers may hold different
        numbers of rows.

        Args:
            x: This worker's rows.
            sizes: Rows of each worker, from `batch_sizes`.
            dim: The axis of the batch.
        """
        if not self.connected:
            return x
        return _Gather.apply(x, sizes, self.rank, dim)  # type: ignore[no-any-return,no-untyped-call]

    def collect(self, local: Tensor) -> Tensor:
        """All workers' slices of a class axis, joined: (C of this worker, ...) -> (C, ...).

        Not a copy where there is one worker only.
        """
        return _gathered(local, self.sizes, 0) if self.connected else local.detach()

    def cut(self, full: Tensor) -> Tensor:
        """This worker's slice of a class axis: (C, ...) -> (C of this worker, ...)."""
        return full[self.start : self.stop].clone()
