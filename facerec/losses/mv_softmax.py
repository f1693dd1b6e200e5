"""MV-Softmax: other classes that pass the target with its margin are made larger still."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.losses.arcface import widened
from facerec.losses.arguments import Interval
from facerec.losses.base import Margin, Scale, Warmup

TwoUnits = Annotated[
    float, Interval(0.0, math.pi, "radians or units of the cosine", open_high=True)
]


class MVSoftmax(Margin):
    """Mis-classified rows say which other classes are hard, and those weigh more.

    Formula: τ = cos θ_y - m (`am`) or cos(θ_y + m) (`arc`); z_y = s τ; z_j = s cos θ_j where
    cos θ_j ≤ τ, else s ((T + 1) cos θ_j + T). Which classes are hard is a constant, so that the
    derivative there is s (T + 1).

    Paper: Mis-classified Vector Guided Softmax Loss for Face Recognition, AAAI 2020, the
    MV-AM-Softmax and MV-Arc-Softmax losses.

    Args:
        variant: The margin: `am` is CosFace's, `arc` ArcFace's.
        margin: m, in units of the cosine (`am`, 0 to 1) or in radians (`arc`, 0 to below π). 0.35
            in the authors' code for both; 0.5 is usual for `arc`.
        hard_weight: T, 0 or more. 0.2 in the paper.
        adaptive: Hard classes become (T + 1) cos θ_j + T, the authors' default; false: cos θ_j + T,
            with the derivative s. With false and T = 0 nothing is re-weighted.
        scale: s, above 0. 32 in the paper.
        past_pi: `easy` leaves the target as it is where its cosine is not positive, in both
            variants: the authors' default. `none`: τ everywhere. Hard classes are those above τ
            under both.
        margin_warmup: Fraction of training over which the margin rises linearly from 0.

    Raises:
        ValueError: A margin above 1 with `am`.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin": Uniform(0.2, 0.5),
        "hard_weight": Uniform(0.0, 0.4),
        "scale": LogUniform(24.0, 96.0),
        "past_pi": Choice(("easy", "none")),
    }

    def __init__(
        self,
        variant: Literal["am", "arc"] = "am",
        margin: TwoUnits = 0.35,
        hard_weight: Annotated[float, Interval(0.0)] = 0.2,
        adaptive: bool = True,
        scale: Scale = 32.0,
        past_pi: Literal["easy", "none"] = "easy",
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        if variant == "am" and margin > 1:
            raise ValueError(
                f"margin = {margin}: MVSoftmax takes 0 to 1 (units of the cosine) with "
                "variant=am; try 1, or variant=arc for radians"
            )
        self.variant = variant
        self.margin = margin
        self.hard_weight = hard_weight
        self.adaptive = adaptive
        self.fixed_scale = scale
        self.past_pi = past_pi

    def _tau(self, cos: Tensor) -> Tensor:
        """The target's cosine with its margin, without a rule: (B,) -> (B,)."""
        margin = self.margin * self.rise
        return cos - margin if self.variant == "am" else widened(cos, margin, "none")

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The target with its margin, see `Margin.target`."""
        tau = self._tau(cos)
        return torch.where(cos > 0, tau, cos) if self.past_pi == "easy" else tau

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The cosines of the rest, hard ones re-weighted, see `Margin.others`."""
        slope = 1.0 + self.hard_weight if self.adaptive else 1.0
        hard = cos > self._tau(target_cos)[:, None]
        return torch.where(hard, slope * cos + self.hard_weight, cos)
