"""ContraFace: two dropout views of an image shall be nearer to each other than to any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from facerec.domains import Domain, LogUniform, Uniform
from facerec.losses.arguments import Interval
from facerec.losses.base import HeadView, Regularizer, Scale, Warmup, unit


class Contrast(Regularizer):
    """Cross-entropy between the two views of a batch, with a margin that follows the training.

    Formula: C_ij = cos(x¹_i, x²_j), 0 where another image has the same label;
    L_c = contrast_weight · mean_i -log softmax_j(s (C_ij - M [i = j]))_i. The margin M is a running
    mean of mean_i(C_ii - max(0, max_{j≠i} C_ij)), without a gradient, updated before its use.

    Paper: CoReFace: Sample-Guided Contrastive Regularization for Deep Face Recognition (arXiv
    2304.11668; ContraFace, AAAI 2023). The published code keeps entries of equal labels at 0, so
    that each still adds e⁰ to a row's sum; so do we. It contrasts the rows of one GPU with each
    other; here those of the whole batch, or of groups of a stated size, so that the number of
    workers changes nothing. M is saved with the head (there, a Python number that a resumed run
    loses). Only the first view looks for the second: the other direction has weight 0 there.

    Args:
        contrast_weight: Weight of the term, 0 or more. 0.05 in the code.
        contrast_scale: s, above 0. 64 in the code.
        contrast_momentum: Share of M that survives a step, 0 to below 1. 0.99, a running mean as
            the paper describes it. The code has the two shares the other way round, which is a
            momentum of 0.01: in effect the batch's own value.
        contrast_group: Rows that are contrasted with each other, in batch order; None is the whole
            global batch. 128 in the code (its batch on one GPU).
        regularizer_start: Fraction of training before which there is one view and no contrast. 0
            by default; 8/24 in the authors' log.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "contrast_weight": LogUniform(0.005, 0.2),
        "contrast_momentum": Uniform(0.5, 0.999),
    }
    term: ClassVar[str] = "contrast"
    views: ClassVar[int] = 2
    contrast_margin: Tensor

    def __init__(
        self,
        contrast_weight: Annotated[float, Interval(0.0)] = 0.05,
        contrast_scale: Scale = 64.0,
        contrast_momentum: Annotated[float, Interval(0.0, 1.0, open_high=True)] = 0.99,
        contrast_group: Annotated[int | None, Interval(2)] = None,
        regularizer_start: Warmup = 0.0,
    ) -> None:
        super().__init__(regularizer_start)
        self.contrast_weight = contrast_weight
        self.contrast_scale = contrast_scale
        self.contrast_momentum = contrast_momentum
        self.contrast_group = contrast_group
        self.register_buffer("contrast_margin", torch.tensor(0.0))

    def forward(self, head: HeadView, x: Tensor, labels: Tensor) -> Tensor:
        """The contrast of (2, B, D), see `Regularizer.forward`."""
        size = self.contrast_group or max(len(labels), 1)
        groups = [
            self._cosines(x[:, first : first + size], labels[first : first + size])
            for first in range(0, len(labels), size)
        ]
        if self.training:
            self._follow(torch.cat([_gaps(cos.detach()) for cos in groups]).mean())
        losses = [self._rows(cos) for cos in groups]
        return head.shard.once(self.contrast_weight * torch.cat(losses).mean())

    def _cosines(self, x: Tensor, labels: Tensor) -> Tensor:
        """(2, N, D) -> (N, N), entries of other images with the same label at 0."""
        cos = (unit(x[0]) @ unit(x[1]).T).clamp(-1.0, 1.0)
        same = (labels[:, None] == labels[None, :]).fill_diagonal_(False)
        return cos.masked_fill(same, 0.0)

    def _follow(self, gap: Tensor) -> None:
        kept = self.contrast_momentum
        self.contrast_margin.copy_(kept * self.contrast_margin + (1.0 - kept) * gap)

    def _rows(self, cos: Tensor) -> Tensor:
        own = torch.arange(len(cos), device=cos.device)
        logits = cos - self.contrast_margin.to(cos.dtype) * torch.eye(len(cos), device=cos.device)
        return F.cross_entropy(self.contrast_scale * logits.to(cos.dtype), own, reduction="none")


def _gaps(cos: Tensor) -> Tensor:
    """How much nearer each row's own second view is than any other, but 0 at least: (N, N) -> (N,).

    The zero that stands for the diagonal keeps the largest rival from being negative.
    """
    rivals = cos.clone().fill_diagonal_(0.0)
    return cos.diagonal() - rivals.amax(dim=1)
