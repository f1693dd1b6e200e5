"""ArcFace: an additive margin on the target's angle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.losses.base import (
    AngleMargin,
    CosineEps,
    Margin,
    Scale,
    Warmup,
    angle,
    clamped,
    of_slope_one,
    reach,
)

PastPi = Literal["none", "easy", "linear", "clip"]


def widened(
    cos: Tensor, margin: float | Tensor, past_pi: PastPi, cosine_eps: float = 0.0
) -> Tensor:
    """cos(θ + m) with a rule past π; finite, also in its gradient, for every cosine and margin.

    Args:
        cos: Targets' cosines (B,).
        margin: m in radians, one number or one per row (B,), where a gradient may pass through it.
            Below 0 it narrows the angle, which then passes 0 but never π.
        past_pi: What holds where θ + m passes π: see `ArcFace`.
        cosine_eps: Cosines are clamped first, see `clamped`; `clip` keeps this distance in radians.

    Returns:
        (B,).
    """
    cos = clamped(cos, cosine_eps)
    moved = angle(cos) + margin
    if past_pi == "clip":
        return torch.cos(moved.clamp(cosine_eps, math.pi - cosine_eps))
    if past_pi == "easy":
        return torch.where(cos > 0, torch.cos(moved), cos)
    if past_pi == "linear":
        sine = torch.sin(margin) if isinstance(margin, Tensor) else math.sin(margin)
        return torch.where(moved < math.pi, torch.cos(moved), cos - margin * sine)
    return torch.cos(moved)


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
        past_pi: PastPi = "linear",
        cosine_eps: CosineEps = 0.0,
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        self.margin = margin
        self.fixed_scale = scale
        self.gradient = gradient
        self.past_pi = past_pi
        self.cosine_eps = cosine_eps

    def _bent(self, cos: Tensor) -> Tensor:
        return widened(cos, self.margin * self.rise, self.past_pi, self.cosine_eps)

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The cosine of the widened angle, see `Margin.target`."""
        if self.gradient == "detached":
            return of_slope_one(cos, self._bent)
        return self._bent(cos)

    @property
    def others_limit(self) -> float | None:
        """Where others are cut off, see `Margin.others_limit`."""
        if self.gradient == "detached" and self.cosine_eps:
            return None  # they keep their slope
        return reach(self.cosine_eps)

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The cosines of the rest, see `Margin.others`."""
        if self.gradient == "detached" and self.cosine_eps:
            return of_slope_one(cos, lambda fixed: clamped(fixed, self.cosine_eps))
        return clamped(cos, self.cosine_eps)
