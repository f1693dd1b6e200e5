"""MagFace: a margin that grows with the embedding's norm, and a pull towards long embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.losses.arcface import PastPi, widened
from facerec.losses.arguments import Interval
from facerec.losses.base import AngleMargin, Margin, Scale, Warmup

Norm = Annotated[float, Interval(0.0, open_low=True)]


class MagFace(Margin):
    """The longer the embedding, the wider its margin: norms come to tell the quality of images.

    Formula: a = clip(‖x‖, l, u), m(a) = m_l + K (a - l) with K = (m_u - m_l) / (u - l),
    z_y = s cos(θ_y + m(a)) (`arc`) or s (cos θ_y - m(a)) (`cos`, Mag-CosFace), z_j = s cos θ_j, and
    λ (a / u² + 1 / a) is added to the loss of each row, smallest at a = u. The gradient passes
    through a in both places, and is zero where the norm is outside l .. u.

    Paper: MagFace: A Universal Representation for Face Recognition and Quality Assessment, CVPR
    2021, section 3.2. Only if λ ≥ s K u² l² / (u² - l²), 22.59 in the paper's setting, does each
    row's loss fall at the norm l, whatever its angle, so that its best norm is not the lowest one.
    s is the real scale here, where the authors' code puts 64. Embeddings must not be normalised on
    their way to this loss. For models of small norms the authors advise l = 1, u = 51, m_l = 0.45,
    m_u = 1, λ = 5.

    Args:
        margin_low: m_l, the margin at the norm l, in radians (`arc`) or units of the cosine
            (`cos`). 0.45 in the paper.
        margin_high: m_u, the margin at the norm u, not below margin_low. 0.8 in the paper.
        norm_low: l, above 0. 10 in the paper.
        norm_high: u, above norm_low. 110 in the paper.
        lambda_g: λ, not below the bound; None takes lambda_ratio times the bound. The authors'
            scripts and the paper use 35, the default of their training program (20) is too small.
        lambda_ratio: λ over its bound, 1 or more, where lambda_g is None. The default makes λ 35 in
            the paper's setting, and follows the other keywords elsewhere.
        scale: s, above 0. 64 in the paper.
        variant: The margin: `arc` is ArcFace's, `cos` CosFace's.
        past_pi: What the target of `arc` becomes where θ + m(a) passes π: `none`, `easy`, `linear`
            or `clip`, see `ArcFace`. `easy` in the authors' code, with `linear` as its option.
        margin_warmup: Fraction of training over which m(a) rises linearly from 0.

    Attributes:
        lambda_g: λ.

    Raises:
        ValueError: margin_high below margin_low, norm_high not above norm_low, λ under its bound,
            or a margin above 1 with `cos`.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin_low": Uniform(0.3, 0.5),
        "margin_high": Uniform(0.5, 1.0),
        "norm_low": Choice((1.0, 10.0)),
        "norm_high": Choice((51.0, 110.0)),
        "lambda_ratio": LogUniform(1.0, 4.0),
    }

    def __init__(
        self,
        margin_low: AngleMargin = 0.45,
        margin_high: AngleMargin = 0.8,
        norm_low: Norm = 10.0,
        norm_high: Norm = 110.0,
        lambda_g: Annotated[float | None, Interval(0.0)] = None,
        lambda_ratio: Annotated[float, Interval(1.0)] = 375 / 242,  # 35 in the paper's setting
        scale: Scale = 64.0,
        variant: Literal["arc", "cos"] = "arc",
        past_pi: PastPi = "easy",
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        if margin_high < margin_low:
            raise ValueError(
                f"margin_high = {margin_high}: MagFace takes margin_low = {margin_low} or more; "
                f"try {margin_low}"
            )
        if norm_high <= norm_low:
            raise ValueError(
                f"norm_high = {norm_high}: MagFace takes numbers above norm_low = {norm_low}; "
                f"try {2 * norm_low}"
            )
        if variant == "cos" and margin_high > 1:
            raise ValueError(
                f"margin_high = {margin_high}: MagFace takes 0 to 1 (units of the cosine) with "
                "variant=cos; try 1, or variant=arc for radians"
            )
        self.margin_low = margin_low
        self.slope = (margin_high - margin_low) / (norm_high - norm_low)
        self.norm_low = norm_low
        self.norm_high = norm_high
        self.fixed_scale = scale
        self.variant = variant
        self.past_pi = past_pi
        high, low = norm_high**2, norm_low**2
        bound = scale * self.slope * high * low / (high - low)
        if lambda_g is not None and lambda_g < bound * (1 - 1e-5):  # six digits are shown
            raise ValueError(
                f"lambda_g = {lambda_g}: MagFace takes {bound:.6g} or more (s K u² l² / (u² - l²), "
                f"under which a row's best norm may be the lowest); try {bound:.6g}"
            )
        self.lambda_g = lambda_ratio * bound if lambda_g is None else lambda_g

    def clamped_norm(self, norm: Tensor) -> Tensor:
        """The a of each row: (B,) -> (B,)."""
        return norm.clamp(self.norm_low, self.norm_high)

    def margins(self, norm: Tensor) -> Tensor:
        """The m(a) of each row: (B,) -> (B,)."""
        above = self.clamped_norm(norm) - self.norm_low
        return (self.margin_low + self.slope * above) * self.rise

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The target with the margin of its row, see `Margin.target`."""
        margins = self.margins(norm)
        return cos - margins if self.variant == "cos" else widened(cos, margins, self.past_pi)

    def penalty(self, norm: Tensor) -> Tensor:
        """λ (a / u² + 1 / a), see `Margin.penalty`."""
        length = self.clamped_norm(norm)
        return self.lambda_g * (length / self.norm_high**2 + 1.0 / length)
