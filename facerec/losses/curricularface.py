"""CurricularFace: hard other classes count little early in training and more later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from facerec.domains import Domain, LogUniform, Uniform
from facerec.losses.arcface import PastPi, widened
from facerec.losses.arguments import Interval
from facerec.losses.base import AngleMargin, Margin, Scale, Warmup


class CurricularFace(Margin):
    """ArcFace's target, and hard classes weighted by how far training has come.

    Formula: z_y = s cos(θ_y + m); z_j = s cos θ_j where cos θ_j ≤ cos(θ_y + m), else
    s cos θ_j (t + cos θ_j). t is the running mean of the targets' cosines, from 0. While t is near
    0, hard classes with a positive cosine are shrunk: that is the curriculum. t is a constant of
    the gradient, so the derivative of a hard class is s (t + 2 cos θ_j).

    Paper: CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition, CVPR 2020,
    section 3.2. As in the authors' code a batch enters t before it is judged by it, and
    classes are compared with cos(θ_y + m) whatever rule holds past π. There each worker averages
    its own share of the batch; here t is that of the whole batch, the same on all workers.

    Args:
        margin: m in radians, 0 to below π. 0.5 in the paper.
        scale: s, above 0. 64 in the paper.
        cosine_momentum: Weight of the new batch in t, 0 to 1. 0.01 in the paper.
        past_pi: What the target becomes where θ + m passes π: `none`, `easy`, `linear` or `clip`,
            see `ArcFace`. `linear` in the authors' code.
        margin_warmup: Fraction of training over which the margin rises linearly from 0.

    Attributes:
        hardness: t (0-d), saved.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin": Uniform(0.3, 0.6),
        "scale": LogUniform(32.0, 96.0),
        "cosine_momentum": LogUniform(1e-3, 0.1),
    }
    hardness: Tensor

    def __init__(
        self,
        margin: AngleMargin = 0.5,
        scale: Scale = 64.0,
        cosine_momentum: Annotated[float, Interval(0.0, 1.0)] = 0.01,
        past_pi: PastPi = "linear",
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        self.margin = margin
        self.fixed_scale = scale
        self.cosine_momentum = cosine_momentum
        self.past_pi = past_pi
        self.register_buffer("hardness", torch.tensor(0.0))

    def observe(self, target_cos: Tensor, norm: Tensor, step: Tensor, progress: float) -> None:
        """Takes the batch into t, see `Margin.observe`."""
        super().observe(target_cos, norm, step, progress)
        self.hardness.lerp_(target_cos.mean().to(self.hardness.dtype), self.cosine_momentum)

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The cosine of the widened angle, see `Margin.target`."""
        return widened(cos, self.margin * self.rise, self.past_pi)

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The cosines of the rest, hard ones re-weighted, see `Margin.others`."""
        hard = cos > widened(target_cos, self.margin * self.rise, "none")[:, None]
        return torch.where(hard, cos * (self.hardness + cos), cos)
