"""CosFace: an additive margin on the target's cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from facerec.domains import Domain, LogUniform, Uniform
from facerec.losses.base import CosineEps, CosineMargin, Margin, Scale, Warmup, clamped, reach


class CosFace(Margin):
    """The target's cosine loses a constant.

    Formula: z_ij = s (cos θ_ij - m [j = y]).

    Paper: CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018, equation 4; the
    same as Additive Margin Softmax (arXiv 1801.05599, s = 30). The derivative of the margin is 1,
    so exact and detached gradients are the same and there is no such keyword.

    Args:
        margin: m in units of the cosine, 0 to 1. 0.35 in the paper; arcface_torch uses 0.4.
        scale: s, above 0. 64 in the paper.
        cosine_eps: Cosines are clamped to -1 + eps .. 1 - eps, with a zero gradient outside. 0 by
            default: this margin needs no clamp. 1e-4 in AdaFace's repository.
        margin_warmup: Fraction of training over which the margin rises linearly from 0.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin": Uniform(0.15, 0.5),
        "scale": LogUniform(24.0, 96.0),
    }

    def __init__(
        self,
        margin: CosineMargin = 0.35,
        scale: Scale = 64.0,
        cosine_eps: CosineEps = 0.0,
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        self.margin = margin
        self.fixed_scale = scale
        self.cosine_eps = cosine_eps

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The target's cosine less the margin, see `Margin.target`."""
        return clamped(cos, self.cosine_eps) - self.margin * self.rise

    @property
    def others_limit(self) -> float | None:
        """Where others are cut off, see `Margin.others_limit`."""
        return reach(self.cosine_eps)

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The cosines of the rest, see `Margin.others`."""
        return clamped(cos, self.cosine_eps)


def least_scale(classes: int, posterior: float) -> float:
    """The scale under which normalised softmax cannot be sure, whatever the embeddings.

    Formula: s = (C - 1) / C · ln((C - 1) P / (1 - P)): centers as far apart as C unit vectors can
    be, each embedding on its own center, no margin. A margin wants more.

    Paper: CosFace, CVPR 2018: its lower bound of s.

    Args:
        classes: C, 2 or more.
        posterior: P, the probability of the own class that shall be reached, 0 to 1, both excluded.
    """
    others = classes - 1
    return others / classes * math.log(others * posterior / (1.0 - posterior))
