"""NormFace: softmax over scaled cosines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from facerec.domains import Domain, LogUniform
from facerec.losses.base import Margin, Scale


class NormFace(Margin):
    """The scaled cosine without a margin.

    Formula: z_ij = s cos θ_ij.

    Paper: NormFace: L2 Hypersphere Embedding for Face Verification, ACM MM 2017, section 3.3;
    as Congenerous Cosine (CocoLoss), arXiv 1710.00870. Without a scale the loss cannot fall under
    log(1 + (C-1) exp(-C/(C-1))) (NormFace, proposition 2).

    Args:
        scale: s, above 0. 30 as in opensphere's `CocoLoss`; later work uses 64.
    """

    space: ClassVar[Mapping[str, Domain]] = {"scale": LogUniform(16.0, 96.0)}

    def __init__(self, scale: Scale = 30.0) -> None:
        super().__init__()
        self.fixed_scale = scale
