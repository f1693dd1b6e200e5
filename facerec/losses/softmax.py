"""Plain softmax cross-entropy: a margin that does nothing, and the objective of most losses."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Tensor

from facerec.losses.arguments import Interval
from facerec.losses.base import Margin, Objective, Reduction, softplus


class InnerProduct(Margin):
    """The linear classifier's logit, without normalisation, scale or margin.

    Formula: z_ij = w_j · x_i (no bias, as in opensphere's `SoftmaxLoss`; Caffe's baseline has one).

    Training compares inner products and evaluation cosines, which is what the normalised losses
    mend. It has no hyper-parameter; learning rate and weight decay decide its norms.
    """

    cosine: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()


LossWeight = Annotated[float | None, Interval(0.0, open_low=True)]


def over_scale(rows: Tensor, loss_weight: float | None, scale: Tensor) -> Tensor:
    """Rows times weight over scale (B,); as they are where there is no weight.

    Args:
        rows: The loss of each row (B,).
        loss_weight: What is divided by the scale; None for neither.
        scale: () or (B,). Where it differs by row it is the norm of an embedding: it then has no
            gradient here, or the loss could be lowered by growing norms, and counts as 1 at least,
            or an embedding of almost no length would outweigh the batch.
    """
    if loss_weight is None:
        return rows
    divisor = scale if scale.dim() == 0 else scale.detach().clamp(min=1.0)
    return rows * (loss_weight / divisor)


class Softmax(Objective):
    """Cross-entropy of the target among all classes.

    Formula: L = log(1 + Σ_{j≠y} exp(z_j - z_y)), which is -log softmax(z)_y = -log p. In this form
    a confident row keeps its small loss to full precision; nothing is clamped (Partial FC's code
    saturates the value, not the gradient, at -log 1e-30). With both keywords it is
    w/s (1 - p)^γ L, s being the margin's scale.

    Args:
        loss_weight: w, above 0: the loss is multiplied by w over the scale, so that a larger scale
            does not mean larger steps. 50 in SphereFace-R's code (TPAMI 2022); None, the default
            elsewhere: by neither.
        focal: γ, 0 (off) or more: rows weigh (1 - p)^γ, without a gradient through it. An option of
            clcarwin's SphereFace, off there too; the focal loss (ICCV 2017, equation 4)
            differentiates the weight as well.
    """

    term: ClassVar[str] = "softmax"
    reduction: ClassVar[Reduction] = "logsumexp"

    def __init__(
        self, loss_weight: LossWeight = None, focal: Annotated[float, Interval(0.0)] = 0.0
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.focal = focal

    def weigh(self, target: Tensor, total: Tensor, scale: Tensor) -> Tensor:
        """The loss of each row, see `Objective.weigh`."""
        rows = softplus(total - target)
        if self.focal:
            rows = rows * (-torch.expm1(-rows.detach())) ** self.focal
        return over_scale(rows, self.loss_weight, scale)
