"""The combined margin: a factor on the angle, a constant on it, a constant on the cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.losses.arguments import Interval
from facerec.losses.base import (
    AngleMargin,
    CosineEps,
    CosineMargin,
    Margin,
    Scale,
    Warmup,
    angle,
    clamped,
    of_slope_one,
    reach,
)


class CombinedMargin(Margin):
    """All three margins at once: SphereFace's factor, ArcFace's angle, CosFace's constant.

    Formula: z_iy = s (cos(m1 θ_iy + m2) - m3), z_ij = s cos θ_ij. (1, m, 0) is ArcFace, (1, 0, m)
    is CosFace.

    Paper: ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019, equation 4
    and table 2 (CM1: 1, 0.3, 0.2; CM2: 0.9, 0.4, 0.15). The authors' `CombinedMarginLoss` in
    arcface_torch is another formula, see `insightface_compat`; its inter-class filtering is
    `filter` here.

    Args:
        m1: Factor on the angle, above 0 to 5; below 1 it makes the target easier. 1 in CM1.
        m2: Radians added to the angle, 0 to below π. 0.3 in CM1.
        m3: Subtracted from the cosine, 0 to 1. 0.2 in CM1.
        scale: s, above 0. 64 in the paper.
        gradient: `exact` differentiates the formula; the default, since it is what the paper says.
            `detached` treats the margin as a constant, so that the derivative is s (arcface_torch).
        past_pi: What cos(m1 θ + m2) becomes where the angle passes π and it would rise again, so
            that the loss pulled a bad row away from its center. `linear`: cos θ - δ, the default
            because it keeps falling there; with a = π - (π - m2)/m1, what the margin has added to
            the angle where it reaches π, δ is the larger of a sin a (ArcFace's own rule: a is m2
            where m1 is 1) and 1 - cos a, without which the value would rise where a passes 2.33.
            `none`: as the formula stands (the paper's code has no rule). `easy`: the whole target
            is cos θ wherever that is not positive. `clip`: the angle stays within
            cosine_eps .. π - cosine_eps, without a gradient outside. m3 is subtracted after all
            but `easy`.
        cosine_eps: All cosines are clamped to -1 + eps .. 1 - eps first, with a zero gradient
            outside (with `detached`: value only). 0 by default, since the ends are safe without.
        filter: Others whose cosine is above it become 0 without a gradient, since they may be the
            same person under another label (arcface_torch's inter-class filtering; 0.4 for its
            noisy sets). 0, the default, turns it off.
        insightface_compat: True for arcface_torch's formula: with m1 = 1 and m3 = 0 the angle m2
            alone; with m3 above 0 that alone, m1 and m2 ignored; the rest is refused. `gradient`
            counts as detached and `past_pi` as none. False by default, since only the whole
            formula is the paper's.
        margin_warmup: Fraction of training over which m1 moves linearly from 1, m2 and m3 from 0.

    Raises:
        ValueError: insightface_compat with m3 = 0 and m1 other than 1.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "m1": Uniform(0.9, 1.4),
        "m2": Uniform(0.0, 0.5),
        "m3": Uniform(0.0, 0.4),
        "scale": LogUniform(24.0, 96.0),
        "filter": Choice((0.0, 0.2, 0.3, 0.4, 0.5)),
    }

    def __init__(
        self,
        m1: Annotated[float, Interval(0.0, 5.0, "times the angle", open_low=True)] = 1.0,
        m2: AngleMargin = 0.3,
        m3: CosineMargin = 0.2,
        scale: Scale = 64.0,
        gradient: Literal["exact", "detached"] = "exact",
        past_pi: Literal["none", "easy", "linear", "clip"] = "linear",
        cosine_eps: CosineEps = 0.0,
        filter: CosineMargin = 0.0,
        insightface_compat: bool = False,
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        if insightface_compat:
            if m3 == 0 and m1 != 1:
                raise ValueError(
                    f"m1 = {m1:g}: with insightface_compat and m3 = 0 CombinedMargin takes 1; try "
                    "m1 = 1, or insightface_compat = false for the whole formula"
                )
            if m3 > 0:
                m1, m2 = 1.0, 0.0
            gradient, past_pi = "detached", "none"
        self.m1, self.m2, self.m3 = m1, m2, m3
        self.fixed_scale = scale
        self.gradient = gradient
        self.past_pi = past_pi
        self.cosine_eps = cosine_eps
        self.filter = filter

    def _turned(self, cos: Tensor, m1: float, m2: float) -> Tensor:
        """cos(m1 θ + m2) with its rule past π, but for `easy`: (B,) -> (B,)."""
        if m1 == 1 and m2 == 0:
            return cos
        moved = m1 * angle(cos) + m2
        if self.past_pi == "clip":
            moved = moved.clamp(self.cosine_eps, math.pi - self.cosine_eps)
        turned = torch.cos(moved)
        switch = (math.pi - m2) / m1
        if self.past_pi != "linear" or switch >= math.pi:
            return turned
        added = math.pi - switch
        drop = max(added * math.sin(added), 1.0 - math.cos(added))
        return torch.where(cos > math.cos(switch), turned, cos - drop)

    def _bent(self, cos: Tensor) -> Tensor:
        """The formula with its rule past π: (B,) -> (B,)."""
        cos = clamped(cos, self.cosine_eps)
        m1, m2 = 1.0 + (self.m1 - 1.0) * self.rise, self.m2 * self.rise
        bent = self._turned(cos, m1, m2) - self.m3 * self.rise
        return torch.where(cos > 0, bent, cos) if self.past_pi == "easy" else bent

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The target's cosine with all three margins, see `Margin.target`."""
        if self.gradient == "exact":
            return self._bent(cos)
        return of_slope_one(cos, self._bent)

    @property
    def others_limit(self) -> float | None:
        """Where others are cut off, see `Margin.others_limit`."""
        if self.filter or (self.gradient == "detached" and self.cosine_eps):
            return None
        return reach(self.cosine_eps)

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The cosines of the rest, filtered, see `Margin.others`."""
        rest = clamped(cos, self.cosine_eps)
        if self.gradient == "detached" and self.cosine_eps:
            rest = of_slope_one(cos, lambda fixed: clamped(fixed, self.cosine_eps))
        return torch.where(rest > self.filter, 0.0, rest) if self.filter else rest
