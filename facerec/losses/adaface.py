"""AdaFace: an angular margin for poor images, an additive one for good ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from facerec.domains import Domain, LogUniform, Uniform
from facerec.losses.arcface import widened
from facerec.losses.arguments import Interval
from facerec.losses.base import CosineEps, Margin, Scale, Warmup, clamped, reach

_NORMS = (1e-3, 100.0)  # norms are clamped to these, as in the authors' code


class AdaFace(Margin):
    """The norm of an embedding, taken as the quality of its image, chooses the kind of margin.

    Formula: q = clip(h (‖x‖ - μ) / (σ + 0.001), -1, 1), z_y = s (cos(θ_y - m q) - m - m q),
    z_j = s cos θ_j. q = -1 is ArcFace's margin (+m on the angle), q = 0 CosFace's, q = 1 a narrower
    angle with 2m off the cosine. μ and σ are running mean and unbiased deviation of the norms,
    clamped to 0.001 .. 100, from 20 and 100; a batch enters them before it is judged by them. No
    gradient passes through norms. θ_y - m q stays within cosine_eps .. π - cosine_eps.

    Paper: AdaFace: Quality Adaptive Margin for Face Recognition, CVPR 2022, section 3.3. The
    constructor of the authors' code has a weight of 1 for the new batch, a placeholder: their
    training script and the paper use 0.01. There each GPU keeps statistics of its own; here they
    are those of the whole batch. A batch of one row has no deviation: theirs becomes NaN for ever,
    here the statistics stay. Starting from σ = 100, q is near 0 for the first hundreds of batches.

    Args:
        margin: m, 0 to 1, radians and units of the cosine at once. 0.4 in the paper.
        concentration: h, 0 or more: how much of the range of norms is told apart. 0.333 in the
            paper; 0 is CosFace.
        scale: s, above 0. 64 in the paper.
        norm_momentum: Weight of the new batch in μ and σ, 0 to 1. 0.01 in the paper.
        cosine_eps: All cosines are clamped to -1 + eps .. 1 - eps, with a zero gradient outside.
            0.001 in the authors' code.
        margin_warmup: Fraction of training over which the margin rises linearly from 0.

    Attributes:
        batch_mean: μ (0-d), saved.
        batch_std: σ (0-d), saved.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin": Uniform(0.2, 0.6),
        "concentration": Uniform(0.1, 0.8),
        "norm_momentum": LogUniform(1e-3, 1.0),
        "scale": LogUniform(32.0, 96.0),
    }
    batch_mean: Tensor
    batch_std: Tensor

    def __init__(
        self,
        margin: Annotated[float, Interval(0.0, 1.0, "radians and units of the cosine")] = 0.4,
        concentration: Annotated[float, Interval(0.0)] = 0.333,
        scale: Scale = 64.0,
        norm_momentum: Annotated[float, Interval(0.0, 1.0)] = 0.01,
        cosine_eps: CosineEps = 1e-3,
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        self.margin = margin
        self.concentration = concentration
        self.fixed_scale = scale
        self.norm_momentum = norm_momentum
        self.cosine_eps = cosine_eps
        self.register_buffer("batch_mean", torch.tensor(20.0))
        self.register_buffer("batch_std", torch.tensor(100.0))

    def observe(self, target_cos: Tensor, norm: Tensor, step: Tensor, progress: float) -> None:
        """Takes the batch's norms into the running statistics, see `Margin.observe`."""
        super().observe(target_cos, norm, step, progress)
        if len(norm) > 1:
            norm = norm.clamp(*_NORMS).to(self.batch_mean.dtype)
            self.batch_mean.lerp_(norm.mean(), self.norm_momentum)
            self.batch_std.lerp_(norm.std(), self.norm_momentum)

    def quality(self, norm: Tensor) -> Tensor:
        """The q of each row, without a gradient: (B,) -> (B,), -1 to 1."""
        centered = norm.detach().clamp(*_NORMS) - self.batch_mean
        return (centered / (self.batch_std + 1e-3) * self.concentration).clamp(-1.0, 1.0)

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The target with the margin of its row, see `Margin.target`."""
        margin = self.margin * self.rise
        adapted = margin * self.quality(norm)
        return widened(cos, -adapted, "clip", self.cosine_eps) - (margin + adapted)

    @property
    def others_limit(self) -> float | None:
        """Where others are cut off, see `Margin.others_limit`."""
        return reach(self.cosine_eps)

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The cosines of the rest, see `Margin.others`."""
        return clamped(cos, self.cosine_eps)
