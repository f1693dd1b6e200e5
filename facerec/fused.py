"""Rows against all centers without a matrix to spare: one number a row, and its gradient.

Of the classes that a row does not belong to, a loss wants one number: the logarithm of the sum of
their exponentials, or the sum of their softplus. `reduced` computes it over blocks of classes small
enough for a processor's cache. Only the cosines (C, B) are kept for the backward pass, and above
`KEPT` bytes not even these: each block is then multiplied again. Neither normalised centers nor
their gradient ever exist. The gradient of a center w of direction u is (v - u (u · v)) / ‖w‖, where
v is that of u, and u · v comes from the block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from facerec.losses.base import SHORTEST, Reduction
from facerec.parallel import ClassColumns

KEPT = 4 << 30  # bytes of cosines kept for the backward pass
_BLOCK = {"cpu": 1 << 21}  # bytes of a block of cosines, which stays in a cache
_BLOCK_ELSEWHERE = 1 << 26  # so long that it pays to start a kernel for it


class Form(NamedTuple):
    """What becomes of the cosines of others.

    Attributes:
        reduction: What is made of a row's logits.
        normalise: Whether centers are divided by their norms.
        limit: Cosines are cut off at ±limit and have no gradient beyond it.
        clip: Logits are cut off at ±clip likewise; under a softplus only.
    """

    reduction: Reduction
    normalise: bool = True
    limit: float = math.inf
    clip: float = math.inf


class Reduced(NamedTuple):
    """Rows against the classes of this worker, each (B,).

    Attributes:
        own: Cosine with the row's own class, 0 where that is not here.
        nearest: Largest cosine with another class, without a gradient; minus infinity where there
            is none.
        total: The reduction over all other classes.
    """

    own: Tensor
    nearest: Tensor
    total: Tensor


def reduced(
    x: Tensor,
    centers: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    columns: ClassColumns,
    form: Form,
) -> Reduced:
    """Rows against centers; logits are scale · cosine + bias.

    Args:
        x: Rows of unit length, or any where inner products are compared (B, D).
        centers: As they are stored (C, D).
        scale: () or (B,), 0 or more.
        bias: Added to the logits: (1,) of all classes or (C,); None for nothing.
        columns: Which class is whose.
        form: What becomes of the cosines.

    Raises:
        ValueError: A bias or a clip under a logsumexp.
    """
    if form.reduction == "logsumexp" and (bias is not None or form.clip < math.inf):
        raise ValueError("a logsumexp takes no bias and no clip: the nearest has its largest logit")
    keep = torch.is_grad_enabled() and len(x) * len(centers) * x.element_size() <= KEPT
    found = _Reduced.apply(x, centers, scale, bias, columns, form, keep)  # type: ignore[no-untyped-call]
    return Reduced(*found)


class _Blocks:
    """The classes in blocks, and what becomes of the cosines of one.

    A block has a row to spare, which takes what is written for rows of the batch whose own class is
    in another block: so nothing has to be asked of the device.
    """

    def __init__(
        self,
        x: Tensor,
        centers: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        columns: ClassColumns,
        form: Form,
    ) -> None:
        wanted = _BLOCK.get(x.device.type, _BLOCK_ELSEWHERE)
        self.size = max(min(wanted // max(len(x) * x.element_size(), 1), len(centers)), 1)
        self.x, self.centers, self.scale, self.bias = x, centers, scale, bias
        self.columns, self.form = columns, form
        self.room = self.memory()

    def memory(self) -> Tensor:
        """Memory for one block, (N + 1, B)."""
        return self.x.new_empty(self.size + 1, len(self.x))

    def __iter__(self) -> Iterator[tuple[slice, int, Tensor]]:
        """Classes and number of each block, and where in it each row's own one stands (1, B)."""
        for first in range(0, len(self.centers), self.size):
            number = min(self.size, len(self.centers) - first)
            place = self.columns.index - first
            here = self.columns.here & (place >= 0) & (place < number)
            yield slice(first, first + number), number, place.masked_fill(~here, number)[None]

    def inverse_norms(self, span: slice) -> Tensor:
        """1 / ‖w‖ of a block (N,), 0 where `unit` sees no direction."""
        norm: Tensor = torch.linalg.vector_norm(self.centers[span], dim=1)
        return norm.masked_fill_(norm < SHORTEST, torch.inf).reciprocal_()

    def cosines(self, span: slice, inverse: Tensor | None, out: Tensor) -> None:
        """Writes the cosines of a block, (N, B)."""
        torch.mm(self.centers[span], self.x.T, out=out)
        if inverse is not None:
            out.mul_(inverse[span, None])

    def logits(self, span: slice, cosines: Tensor, reference: Tensor | None = None) -> Tensor:
        """Logits of a block before they are clipped, (N, B), in `room`.

        Args:
            span: The block.
            cosines: Of the block (N, B).
            reference: Subtracted (B,), in place of the bias.
        """
        out, limit = self.room[: len(cosines)], self.form.limit
        if limit < math.inf:
            cosines = torch.clamp(cosines, -limit, limit, out=out)
        if reference is not None:
            return torch.addcmul(-reference, cosines, self.scale, out=out)
        if self.bias is None:
            return torch.mul(cosines, self.scale, out=out)
        by_class = len(self.bias) == len(self.centers)
        shift = self.bias[span, None] if by_class else self.bias
        return torch.addcmul(shift, cosines, self.scale, out=out)


def _finite(x: Tensor) -> Tensor:
    """0 in place of infinities, from which nothing can be subtracted."""
    return x.masked_fill(x.isinf(), 0.0)


def _softplus_(x: Tensor) -> Tensor:
    """As `facerec.losses.base.softplus`, in place."""
    torch.ops.aten.softplus.out(x, 1.0, 40.0, out=x)
    return x


def _stop(slope: Tensor, at: Tensor, bound: float) -> Tensor:
    """Makes the slope 0, in place, where a value is beyond ±bound."""
    if bound < math.inf:
        within = bound * (1.0 + torch.finfo(at.dtype).eps)  # on the bound there is one
        torch.ops.aten.hardtanh_backward.grad_input(slope, at, -within, within, grad_input=slope)
    return slope


class _Reduced(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        centers: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        columns: ClassColumns,
        form: Form,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        blocks = _Blocks(x, centers, scale, bias, columns, form)
        kept = x.new_empty(len(centers) + 1, len(x)) if keep else blocks.memory()
        inverse = x.new_empty(len(centers)) if form.normalise else None
        own, total, reference = (x.new_zeros(len(x)) for _ in range(3))
        nearest = x.new_full((len(x),), -torch.inf)
        for span, number, place in blocks:
            # What is kept has its row to spare where the next block will be written.
            block = kept[span.start : span.stop + 1] if keep else kept[: number + 1]
            cosines = block[:number]
            if inverse is not None:
                inverse[span] = blocks.inverse_norms(span)
            blocks.cosines(span, inverse, cosines)
            own = torch.where(place[0] < number, block.gather(0, place)[0], own)
            block.scatter_(0, place, -torch.inf)
            nearest = torch.maximum(nearest, cosines.amax(dim=0))
            if form.reduction == "logsumexp":
                before = reference
                reference = _finite(nearest).clamp(-form.limit, form.limit) * scale
                logits = blocks.logits(span, cosines, reference)
                blocks.room.scatter_(0, place, -torch.inf)  # cut off or times 0, it was lost
                # It never falls, but from the 0 of a row that has met no class yet.
                total.mul_((before - reference).clamp_(max=0.0).exp_())
                total.add_(logits.exp_().sum(dim=0))
            else:
                logits = blocks.logits(span, cosines)
                if form.clip < math.inf:
                    logits.clamp_(-form.clip, form.clip)
                blocks.room.scatter_(0, place, -torch.inf)
                total.add_(_softplus_(logits).sum(dim=0))
        if form.reduction == "logsumexp":
            total.log_().add_(reference)
        if keep:
            at = columns.index.masked_fill(~columns.here, len(centers))
            kept.scatter_(0, at[None], own[None])
        ctx.columns, ctx.form = columns, form
        ctx.save_for_backward(x, centers, scale, bias, total, inverse, kept if keep else None)
        ctx.mark_non_differentiable(nearest)
        return own, nearest, total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_own: Tensor, _nearest: Tensor, grad_total: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, centers, scale, bias, total, inverse, kept = ctx.saved_tensors
        form, wanted = ctx.form, ctx.needs_input_grad
        blocks = _Blocks(x, centers, scale, bias, ctx.columns, form)
        work, spare = blocks.memory(), blocks.memory() if kept is None else kept
        of_x = torch.zeros_like(x) if wanted[0] else None
        of_centers = torch.empty_like(centers) if wanted[1] else None
        of_scale = torch.zeros_like(total) if wanted[2] else None
        of_bias = x.new_empty(len(centers)) if wanted[3] else None
        by_row, reference = grad_total * scale, _finite(total)
        for span, number, place in blocks:
            if kept is None:
                cosines = spare[:number]
                blocks.cosines(span, inverse, cosines)
            else:
                cosines = kept[span]
            slope, rest = work[: number + 1], blocks.room[:number]
            if form.reduction == "logsumexp":
                torch.exp(blocks.logits(span, cosines, reference), out=slope[:number])
            elif form.clip < math.inf:
                logits = blocks.logits(span, cosines)
                torch.clamp(logits, -form.clip, form.clip, out=slope[:number]).sigmoid_()
                _stop(slope[:number], logits, form.clip)
            else:
                torch.sigmoid(blocks.logits(span, cosines), out=slope[:number])
            if of_scale is not None or of_bias is not None:
                slope.scatter_(0, place, 0.0)
            if of_bias is not None:
                torch.mv(slope[:number], grad_total, out=of_bias[span])
            if of_scale is not None:
                cut = torch.clamp(cosines, -form.limit, form.limit, out=rest)
                of_scale.add_(cut.mul_(slope[:number]).sum(dim=0))
            _stop(slope[:number].mul_(by_row), cosines, form.limit)
            slope.scatter_(0, place, grad_own[None])
            slope = slope[:number]
            if inverse is not None:
                slope.mul_(inverse[span, None])
            if of_x is not None:
                of_x.addmm_(slope.T, centers[span])
            if of_centers is not None:
                torch.mm(slope, x, out=of_centers[span])
                if inverse is not None:
                    along = torch.mul(slope, cosines, out=rest).sum(dim=1).mul_(inverse[span])
                    of_centers[span].addcmul_(centers[span], along[:, None], value=-1.0)
        if of_scale is not None:
            of_scale = of_scale.mul_(grad_total).sum_to_size(scale.shape)
        if of_bias is not None:
            of_bias = of_bias.sum_to_size(bias.shape)
        return of_x, of_centers, of_scale, of_bias, None, None, None
