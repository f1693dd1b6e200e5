"""SCF: how sure an embedding is of its direction, learnt beside a trained and frozen network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from facerec.domains import Choice, Domain
from facerec.losses.arguments import Interval
from facerec.losses.base import Objective, Scale

_LARGE_ORDER = 60.0  # from here on six terms of the expansion are exact to double precision


class ConfidenceLikelihood(Objective):
    """Likelihood of the class direction under a von Mises-Fisher distribution of radius r.

    Formula, with d the embedding size, κ the confidence and θ the angle to the class center:
    L = -κ cos θ - (d/2 - 1) ln(κ + ε) + ln(ε + e^-κ I_{d/2-1}(κ)) + κ + (d/2) ln 2π + d ln r.

    Paper: Spherical Confidence Learning for Face Recognition, CVPR 2021. The authors' code has
    ε = 1e-6 under both logarithms. At 512 numbers the scaled Bessel function is under 1e-6 for
    every κ below about 3,700, where its part of the gradient then vanishes and κ runs away; so ε
    is 0 by default, the logarithm being computed as such.

    Only the confidence is trained, so this loss takes no other objective and no regularizer, and it
    changes no embedding: it is left out where losses are ranked by accuracy.

    Args:
        radius: r, above 0. 64 in the code. It adds a constant.
        confidence_floor: ε, 0 or more. 0 by default; 1e-6 is the authors'.
    """

    space: ClassVar[Mapping[str, Domain]] = {"radius": Choice((30.0, 64.0))}
    term: ClassVar[str] = "confidence"

    def __init__(
        self,
        radius: Scale = 64.0,
        confidence_floor: Annotated[float, Interval(0.0)] = 0.0,
    ) -> None:
        super().__init__()
        self.radius = radius
        self.confidence_floor = confidence_floor

    def rows(self, cos: Tensor, confidence: Tensor, embedding_size: int) -> Tensor:
        """The loss of each row.

        Args:
            cos: Cosine of each embedding and its class center (B,).
            confidence: κ of each embedding, above 0 (B,).
            embedding_size: d.

        Returns:
            (B,).
        """
        order = embedding_size / 2 - 1
        bessel = log_bessel(order, confidence) - confidence
        if self.confidence_floor:
            floor = torch.full_like(bessel, math.log(self.confidence_floor))
            bessel = torch.logaddexp(floor, bessel)
        power = order * torch.log(confidence + self.confidence_floor)
        constant = embedding_size * (0.5 * math.log(2 * math.pi) + math.log(self.radius))
        return -confidence * cos - power + bessel + confidence + constant


def log_bessel(order: float, x: Tensor) -> Tensor:
    """The logarithm ln I_v(x) of the modified Bessel function of the first kind.

    Debye's uniform expansion at a large order (NIST Handbook of Mathematical Functions, 10.41.3),
    from which the stable recurrence I_{v-1} = I_{v+1} + (2 v / x) I_v leads down to the one wanted.
    Exact to some 1e-13 of the larger of 1 and the value; differentiable.

    Args:
        order: v, -1/2 or more.
        x: Above 0, any shape.
    """
    steps = max(math.ceil(_LARGE_ORDER - order), 0)
    log, above = _debye(order + steps, x), _debye(order + steps + 1, x)
    ratio = torch.exp(above - log)  # I_{v+1} / I_v
    for step in range(steps, 0, -1):
        ratio = 1.0 / (ratio + 2.0 * (order + step) / x)
        log = log - torch.log(ratio)
    return log


def _debye(order: float, x: Tensor) -> Tensor:
    z = x / order
    root = torch.sqrt(1.0 + z * z)
    t = 1.0 / root
    # ln(z / (1 + root)) is written so that it is exact for small and for large z.
    eta = root + torch.log(z) - torch.log1p(root)
    series = torch.ones_like(x)
    for number, coefficients in enumerate(_DEBYE, start=1):
        inner = torch.zeros_like(x)
        for coefficient in reversed(coefficients):
            inner = inner * (t * t) + coefficient
        series = series + inner * (t / order) ** number
    return (
        order * eta
        - 0.5 * math.log(2.0 * math.pi * order)
        - 0.5 * torch.log(root)
        + (torch.log(series))
    )


def _debye_polynomials(count: int) -> tuple[tuple[float, ...], ...]:
    """Coefficients of u_k(t) / t^k in powers of t², by their recurrence (10.41.9)."""
    u = [1.0]  # coefficients of u_k in powers of t
    found = []
    for number in range(1, count + 1):
        new = [0.0] * (len(u) + 3)
        for power, c in enumerate(u):
            # t² (1 - t²) u' / 2 + (1/8) ∫ (1 - 5 t²) u dt
            new[power + 1] += 0.5 * power * c + c / (8 * (power + 1))
            new[power + 3] -= 0.5 * power * c + 5 * c / (8 * (power + 3))
        u = new
        found.append(tuple(u[number::2]))
    return tuple(found)


_DEBYE = _debye_polynomials(7)
