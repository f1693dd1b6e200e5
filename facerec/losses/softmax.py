"""Plain softmax cross-entropy: a margin that does nothing, and the objective of most losses."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from facerec.losses.base import Margin, Objective, softplus
from facerec.parallel import ClassShard


class InnerProduct(Margin):
    """The linear classifier's logit, without normalisation, scale or margin.

    Formula: z_ij = w_j · x_i (no bias, as in opensphere's `SoftmaxLoss`; Caffe's baseline has one).

    Training compares inner products and evaluation cosines, which is what the normalised losses
    mend. It has no hyper-parameter; learning rate and weight decay decide its norms.
    """

    cosine: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()


class Softmax(Objective):
    """Cross-entropy of the target among all classes.

    Formula: L = log(1 + Σ_{j≠y} exp(z_j - z_y)), which is -log softmax(z)_y. In this form a
    confident row keeps its small loss to full precision; nothing is clamped (Partial FC's code
    saturates the value, not the gradient, at -log 1e-30).
    """

    term: ClassVar[str] = "softmax"

    def __init__(self) -> None:
        super().__init__()

    def combine(self, target: Tensor, others: Tensor, shard: ClassShard, scale: Tensor) -> Tensor:
        """The loss of each row, see `Objective.combine`."""
        return softplus(shard.logsumexp(others) - target)
