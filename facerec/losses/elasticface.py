"""ElasticFace: a margin that is drawn anew for each image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.draws import normal_numbers
from facerec.losses.arcface import PastPi, widened
from facerec.losses.arguments import Interval
from facerec.losses.base import Margin, Scale, Warmup


class ElasticFace(Margin):
    """ArcFace or CosFace whose margin differs between images, so that classes may differ in spread.

    Formula: e_i ~ N(m, σ²), unclipped, drawn anew for each row of each batch;
    z_iy = s cos(θ_iy + e_i) (`arc`) or s (cos θ_iy - e_i) (`cos`), z_ij = s cos θ_ij.

    Paper: ElasticFace: Elastic Margin Loss for Deep Face Recognition, CVPR Workshops 2022,
    section 3. What the authors' configs publish: Arc 0.5 with σ 0.05, Arc+ 0.5 with 0.0175,
    Cos 0.35 with 0.05, Cos+ 0.35 with 0.02. The draw is a function of the seed, the step and the
    row of the whole batch, whatever the workers. Rows without a draw (of past batches, or in
    evaluation) have the mean margin.

    Args:
        variant: The margin: `arc` is ArcFace's, `cos` CosFace's.
        margin: m, in radians (`arc`, 0 to below π) or in units of the cosine (`cos`, 0 to 1).
        sigma: σ in the units of the margin, 0 or more. Margins below 0 happen where it is large.
        plus: The `+` forms: of a batch's drawn margins the largest goes to the target with the
            smallest cosine, and so on; among equal cosines the earlier row gets the smaller one.
        plus_assignment: How. `intended`: as just said and as in the paper, the default.
            `reference`: as in the authors' code, which uses the sorting permutation where its
            inverse is needed, so that rows get almost arbitrary margins; their published `+` models
            were trained so.
        scale: s, above 0. 64 in the paper.
        past_pi: What the target of `arc` becomes where θ + e passes π: `none`, `easy`, `linear` or
            `clip`, see `ArcFace`. `linear` by default as there and for the same reason, so that at
            σ = 0 the two are one; `none` in the authors' code.
        margin_warmup: Fraction of training over which m rises linearly from 0; σ stays.

    Raises:
        ValueError: A margin above 1 with `cos`.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin": Uniform(0.3, 0.6),
        "sigma": LogUniform(0.005, 0.1),
        "plus": Choice((False, True)),
        "plus_assignment": Choice(("intended", "reference")),
    }

    def __init__(
        self,
        variant: Literal["arc", "cos"] = "arc",
        margin: Annotated[
            float, Interval(0.0, math.pi, "radians or units of the cosine", open_high=True)
        ] = 0.5,
        sigma: Annotated[float, Interval(0.0, unit="radians or units of the cosine")] = 0.05,
        plus: bool = False,
        plus_assignment: Literal["intended", "reference"] = "intended",
        scale: Scale = 64.0,
        past_pi: PastPi = "linear",
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        if variant == "cos" and margin > 1:
            raise ValueError(
                f"margin = {margin}: ElasticFace takes 0 to 1 (units of the cosine) with "
                "variant=cos; try 1, or variant=arc for radians"
            )
        self.variant = variant
        self.margin = margin
        self.sigma = sigma
        self.plus = plus
        self.plus_assignment = plus_assignment
        self.fixed_scale = scale
        self.past_pi = past_pi
        self._assigned: Tensor | None = None  # not saved: a function of seed and step

    def draw(self, rows: int, step: Tensor) -> Tensor:
        """Margins in the order of drawing (rows,), float64, for the whole batch of a step (0-d)."""
        return self.margin * self.rise + self.sigma * normal_numbers(self.seed, step, rows)

    def observe(self, target_cos: Tensor, norm: Tensor, step: Tensor, progress: float) -> None:
        """Draws the margins of the batch, see `Margin.observe`."""
        super().observe(target_cos, norm, step, progress)
        margins = self.draw(len(target_cos), step).to(target_cos)
        if self.plus:
            order = target_cos.argsort(descending=True, stable=True)
            rank = order.argsort() if self.plus_assignment == "intended" else order
            margins = margins.sort().values[rank]
        self._assigned = margins

    def _margins(self, cos: Tensor) -> Tensor:
        """The margin of each row (B,): live rows stand first, and only training draws."""
        margins = cos.new_full(cos.shape, self.margin * self.rise)
        if self.training and self._assigned is not None:
            drawn = self._assigned[: len(cos)]
            margins[: len(drawn)] = drawn
        return margins

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The target with the margin of its row, see `Margin.target`."""
        margins = self._margins(cos)
        return cos - margins if self.variant == "cos" else widened(cos, margins, self.past_pi)
