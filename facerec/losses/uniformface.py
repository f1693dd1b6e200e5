"""UniformFace and RegularFace: terms that push class centers apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from facerec.domains import Choice, Domain, LogUniform
from facerec.losses.arguments import Interval
from facerec.losses.base import HeadView, Regularizer, Warmup, unit
from facerec.rows import of_each_class

Weight = Annotated[float, Interval(0.0)]

_BLOCK = 1024  # centers whose distances to all others are held at a time


def _compared(head: HeadView, labels: Tensor, in_batch: bool) -> Tensor:
    """The raw centers of the batch's classes, each once, or of all classes: (M, D)."""
    classes = torch.arange(head.shard.num_classes, device=labels.device)
    return head.centers_of(torch.unique(labels) if in_batch else classes)


class Uniform(Regularizer):
    """Centers repel each other like charges, and may be drawn towards their images by hand.

    Formula: L_u = alpha / (M (M - 1)) Σ_{i<j} 1 / (‖w_i - w_j‖ + 1) over the M distinct classes of
    the batch (or all C); before each batch w_y ← w_y - beta Σ_{i: y_i = y} (w_y - x_i) / (n_y + 1),
    where n_y counts the class in the batch. Centers and embeddings are those before normalisation.

    Paper: UniformFace: Learning Deep Equidistributed Representation for Face Recognition, CVPR
    2019. The paper sums over ordered pairs, and the only public code
    (pytorch-uniformface) over pairs i < j with the same denominator, which we follow: its alpha = 1
    is the paper's 0.5. There, distances are roots of differences of large squares, which ended in
    NaN with a beta of 0.01 or 0.1, and a distance of exactly 0 is left out; here they are summed
    from differences, with a zero gradient at distance 0, and such a pair counts 1. A batch of one
    class has the value 0 (there, an IndexError).

    Args:
        alpha: Weight of the term, 0 or more. 1 in the code and the paper.
        beta: Step of the move, 0 to 1. 0 in the code's configuration; 0.001 is its stable value.
        in_batch: Whether the batch's classes repel each other (True, as the paper trains), or all
            C, which takes C² distances a step.
        regularizer_start: Fraction of training before which the term is off.
    """

    space: ClassVar[Mapping[str, Domain]] = {"alpha": LogUniform(0.01, 10.0)}
    term: ClassVar[str] = "uniform"

    def __init__(
        self,
        alpha: Weight = 1.0,
        beta: Annotated[float, Interval(0.0, 1.0)] = 0.0,
        in_batch: bool = True,
        regularizer_start: Warmup = 0.0,
    ) -> None:
        super().__init__(regularizer_start)
        self.alpha = alpha
        self.beta = beta
        self.in_batch = in_batch

    def before(self, head: HeadView, x: Tensor, labels: Tensor) -> None:
        """Moves the centers of the batch's classes, see `Regularizer.before`."""
        if not self.beta or head.shard.start == head.shard.stop:
            return
        index, same = of_each_class(head.shard, labels)
        centers = head.centers[index].to(x.dtype)
        count = same.sum(dim=1, keepdim=True).to(x.dtype)
        drawn = (count * centers - same.to(x.dtype) @ x.mean(dim=0)) / (count + 1)
        # Rows of one class write one and the same value.
        head.centers[index] = (centers - self.beta * drawn).to(head.centers.dtype)

    def forward(self, head: HeadView, x: Tensor, labels: Tensor) -> Tensor:
        """The repulsion of the centers (0-d), see `Regularizer.forward`."""
        centers = _compared(head, labels, self.in_batch)
        number = len(centers)
        total = centers.sum() * 0.0
        for start in range(0, number, _BLOCK):
            if number > _BLOCK:  # the distances of a block are computed again for its gradient
                part = checkpoint(_repulsion, centers, start, use_reentrant=False)
            else:
                part = _repulsion(centers, start)
            total = total + part
        return self.alpha * total / max(number * (number - 1), 1)


def _repulsion(centers: Tensor, start: int) -> Tensor:
    """Σ 1 / (distance + 1) of one block with itself and all later centers, each pair once."""
    block = centers[start : start + _BLOCK]
    distance = torch.cdist(block, centers[start:], compute_mode="donot_use_mm_for_euclid_dist")
    return (1.0 / (distance + 1.0)).triu(diagonal=1).sum()


class Exclusive(Regularizer):
    """Each center moves away from the one nearest to it.

    Formula: L_e = exclusive_weight · mean_i max_{j≠i} cos(w_i, w_j).

    Paper: RegularFace: Deep Face Recognition via Exclusive Regularization, CVPR 2019;
    as the exclusive term of pytorch-uniformface.

    Args:
        exclusive_weight: Weight of the term, 0 or more. 1 by default.
        in_batch: Whether only the batch's classes are compared. False as in the paper: all C, which
            takes C² cosines a step.
        regularizer_start: Fraction of training before which the term is off.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "exclusive_weight": LogUniform(0.01, 10.0),
        "in_batch": Choice((True, False)),
    }
    term: ClassVar[str] = "exclusive"

    def __init__(
        self,
        exclusive_weight: Weight = 1.0,
        in_batch: bool = False,
        regularizer_start: Warmup = 0.0,
    ) -> None:
        super().__init__(regularizer_start)
        self.exclusive_weight = exclusive_weight
        self.in_batch = in_batch

    def forward(self, head: HeadView, x: Tensor, labels: Tensor) -> Tensor:
        """The mean nearest cosine of the centers (0-d), see `Regularizer.forward`."""
        centers = unit(_compared(head, labels, self.in_batch))
        if len(centers) < 2:
            return centers.sum() * 0.0
        # Which one is nearest has no gradient: only the M pairs are differentiated.
        nearest = torch.cat(
            [_nearest(centers.detach(), start) for start in range(0, len(centers), _BLOCK)]
        )
        return self.exclusive_weight * (centers * centers[nearest]).sum(dim=1).mean()


def _nearest(centers: Tensor, start: int) -> Tensor:
    """For each center of a block, the other one with the largest cosine."""
    cos = centers[start : start + _BLOCK] @ centers.T
    cos.diagonal(offset=start).fill_(-torch.inf)
    return cos.argmax(dim=1)
