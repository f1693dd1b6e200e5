"""ArcFace: an additive margin on the target's angle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.losses.base import AngleMargin, CosineEps, Margin, Scale, Warmup, angle


class ArcFace(Margin):
    """The target's angle gains a constant.

    Formula: z_iy = s cos(θ_iy + m), z_ij = s cos θ_ij.

    Paper: ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019, equation 3.

    Args:
        margin: m in radians, 0 to below π. 0.5 in the paper.
        scale: s, above 0. 64 in the paper.
        gradient: `exact` differentiates the formula, s sin(θ+m)/sin θ: the default, since it is
            what the paper says. `detached` treats the margin as a constant, so that the derivative
            is s: what arcface_torch (its margin runs under `no_grad`) and opensphere train with.
        past_pi: What the target becomes where θ + m passes π and cos(θ + m) would rise again.
            `linear`: cos θ - m sin m, which keeps falling (the authors' first release, and
            CurricularFace): the default, because the others stop to pull there or pull away; it
            drops by 1 - cos m - m sin m at the switch. `none`: cos(θ + m) all the same
            (arcface_torch). `easy`: cos θ wherever the cosine is not positive (a weaker loss).
            `clip`: θ + m stays within cosine_eps .. π - cosine_eps, without a gradient outside
            (AdaFace's repository, opensphere).
        cosine_eps: All cosines are clamped to -1 + eps .. 1 - eps first, with a zero gradient
            outside (with `detached`: value only). 0 by default, since the ends are safe without;
            1e-4 in AdaFace's repository, 1e-5 in opensphere.
        margin_warmup: Fraction of training over which the margin rises linearly from 0.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin": Uniform(0.2, 0.7),
        "scale": LogUniform(24.0, 96.0),
        "gradient": Choice(("exact", "detached")),
        "past_pi": Choice(("none", "easy", "linear", "clip")),
    }

    def __init__(
        self,
        margin: AngleMargin = 0.5,
        scale: Scale = 64.0,
        gradient: Literal["exact", "detached"] = "exact",
        past_pi: Literal["none", "easy", "linear", "clip"] = "linear",
        cosine_eps: CosineEps = 0.0,
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        self.margin = margin
        self.fixed_scale = scale
        self.gradient = gradient
        self.past_pi = past_pi
        self.cosine_eps = cosine_eps

    def _clamp(self, cos: Tensor) -> Tensor:
        limit = 1.0 - self.cosine_eps
        return cos.clamp(-limit, limit) if self.cosine_eps else cos

    def _bent(self, cos: Tensor) -> Tensor:
        """The formula with its rule past π: (B,) -> (B,)."""
        cos = self._clamp(cos)
        margin = self.margin * self.rise
        moved = angle(cos) + margin
        if self.past_pi == "clip":
            moved = moved.clamp(self.cosine_eps, math.pi - self.cosine_eps)
        bent = torch.cos(moved)
        if self.past_pi == "easy":
            return torch.where(cos > 0, bent, cos)
        if self.past_pi == "linear":
            kept = cos - margin * math.sin(margin)
            return torch.where(cos > math.cos(math.pi - margin), bent, kept)
        return bent

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The cosine of the widened angle, see `Margin.target`."""
        if self.gradient == "detached":
            fixed = cos.detach()
            return cos + (self._bent(fixed) - fixed)
        return self._bent(cos)

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The cosines of the rest, see `Margin.others`."""
        if self.gradient == "detached" and self.cosine_eps:
            fixed = cos.detach()
            return cos + (self._clamp(fixed) - fixed)
        return self._clamp(cos)
