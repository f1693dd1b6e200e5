"""SphereFace-R: the target's angle times a real number, with a scale of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.losses.arguments import Interval
from facerec.losses.base import (
    CosineEps,
    Margin,
    Scale,
    Warmup,
    angle,
    clamped,
    of_slope_one,
    reach,
)
from facerec.losses.sphereface import monotone


class SphereFaceR(Margin):
    """The target's angle is multiplied by a real number, or the angles of others divided by it.

    Formula: z_iy = s η(θ_iy), z_ij = s cos θ_ij, where η is

    - `v0`: (-1)^k cos(mθ) - 2k, k = floor(mθ/π), which falls all the way (SphereFace's ψ);
    - `v1`: cos(min(mθ, π)), flat from π/m on;
    - `v2`: cos θ: the target stays and every other becomes cos(θ_ij / m).

    Paper: SphereFace Revived: Unifying Hyperspherical Face Recognition, TPAMI 2022, with hard
    feature normalisation (SphereFace-R "HFN"). Its loss is weighted by loss_weight / s, which is
    a keyword of the softmax objective. The authors store centers normalised
    (`head.center_storage=unit`); their variants whose scale is the norm are marked as untested by
    themselves and left out.

    Args:
        margin: m, the factor on the angle, 1 (none) to 5. 1.5 in the authors' code; their later
            `SphereFace`, the same as v0, has 1.7.
        scale: s, above 0. 30 in the authors' code, 64 in their MS1M config.
        variant: One of the names above.
        gradient: `detached` treats the margin as a constant, so that the derivative of a cosine is
            s: the paper's "characteristic gradient detachment", hence the default. `exact`
            differentiates the formula.
        cosine_eps: All cosines are clamped to -1 + eps .. 1 - eps first, with a zero gradient
            outside (with `detached`: value only). 0 by default, since the ends are safe without;
            1e-5 in the authors' code.
        margin_warmup: Fraction of training over which the factor rises linearly from 1.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin": Uniform(1.1, 2.5),
        "scale": LogUniform(20.0, 80.0),
        "variant": Choice(("v0", "v1", "v2")),
    }

    def __init__(
        self,
        margin: Annotated[float, Interval(1.0, 5.0, "times the angle")] = 1.5,
        scale: Scale = 30.0,
        variant: Literal["v0", "v1", "v2"] = "v0",
        gradient: Literal["exact", "detached"] = "detached",
        cosine_eps: CosineEps = 0.0,
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        self.margin = margin
        self.fixed_scale = scale
        self.variant = variant
        self.gradient = gradient
        self.cosine_eps = cosine_eps

    @property
    def _factor(self) -> float:
        return 1.0 + (self.margin - 1.0) * self.rise

    def _harder(self, cos: Tensor) -> Tensor:
        """The target by its variant: (B,) -> (B,)."""
        cos, factor = clamped(cos, self.cosine_eps), self._factor
        if self.variant == "v2" or factor == 1:
            return cos
        multiple = factor * angle(cos)
        if self.variant == "v1":
            return torch.cos(multiple.clamp(max=math.pi))
        return monotone(torch.cos(multiple), multiple, factor)

    def _nearer(self, cos: Tensor) -> Tensor:
        """The rest by their variant: (B, C) -> (B, C)."""
        cos, factor = clamped(cos, self.cosine_eps), self._factor
        if self.variant != "v2" or factor == 1:
            return cos
        return torch.cos(angle(cos) / factor)

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The cosine of the multiplied angle, see `Margin.target`."""
        if self.gradient == "exact":
            return self._harder(cos)
        return of_slope_one(cos, self._harder)

    @property
    def others_limit(self) -> float | None:
        """Where others are cut off, see `Margin.others_limit`."""
        if self.variant == "v2" or (self.gradient == "detached" and self.cosine_eps):
            return None
        return reach(self.cosine_eps)

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The cosines of the rest, nearer in `v2`, see `Margin.others`."""
        if self.gradient == "exact":
            return self._nearer(cos)
        return of_slope_one(cos, self._nearer)
