"""SphereFace: the target's angle times a whole number, approached by annealing (A-softmax)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from facerec.domains import Choice, Domain, LogUniform
from facerec.losses.arguments import Interval
from facerec.losses.base import Margin, angle


def monotone(cos: Tensor, multiple: Tensor, factor: float) -> Tensor:
    """(-1)^k cos(mθ) - 2k with k = floor(mθ/π): cos(mθ) that keeps falling down to θ = π.

    At θ = π itself k stays that of the angles just below (the value is the same, 1 - 2m for a whole
    m), since the next k would turn the slope around. k has no gradient.

    Args:
        cos: cos(mθ), any shape.
        multiple: mθ in radians, of the same shape.
        factor: m, 1 or more.
    """
    k = torch.floor(multiple.detach() / math.pi).clamp(max=math.ceil(factor) - 1)
    return (1 - 2 * torch.remainder(k, 2)) * cos - 2 * k


def chebyshev(cos: Tensor, order: int) -> Tensor:
    """cos(mθ) as a polynomial of cos θ, for a whole m of 1 or more: no `acos` to differentiate."""
    before, now = torch.ones_like(cos), cos
    for _ in range(order - 1):
        before, now = now, 2 * cos * now - before
    return now


def psi(cos: Tensor, order: int) -> Tensor:
    """ψ(θ) = (-1)^k cos(mθ) - 2k of equation 7, from cos θ, for a whole m."""
    return monotone(chebyshev(cos, order), order * angle(cos.detach()), order)


class SphereFace(Margin):
    """The target's angle is multiplied; the norm of the embedding stays the scale.

    Formula: z_iy = a (cos θ_iy + (ψ(θ_iy) - cos θ_iy) / (1 + λ)), z_ij = a cos θ_ij, with
    ψ(θ) = (-1)^k cos(mθ) - 2k, k = floor(mθ/π), and a = ‖x_i‖. λ = max(lambda_min,
    base (1 + gamma t)^-power) for the t-th training batch, counted from 1, so that training begins
    close to plain softmax.

    Paper: SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR 2017, equation 7; the
    annealing is that of the authors' Caffe layer. That layer also divides the gradient by the norm
    of its two coefficients; here, as in all ports, the gradient is that of the formula. λ never
    falls under lambda_min, so at the authors' 5 the target ends as 1/6 ψ + 5/6 cos: much weaker
    than m = 4 sounds. The annealing takes the place of `margin_warmup`; λ is saved with the model.

    Args:
        margin: m, a whole number, 1 (none) to 5. 4 in the paper.
        base: λ before it decays, 0 or more. 1000 in the authors' prototxt; clcarwin's widely used
            port has 1500 with gamma 0.1.
        gamma: How fast λ decays with the batches, 0 (never) or more. 0.12 in the authors' prototxt.
        power: Exponent of the decay, 0 or more. 1 in the authors' prototxt.
        lambda_min: Where λ stops, 0 (the whole margin) or more. 5 in the authors' prototxt.
        scale: A constant in place of the norm a, above 0; None (the paper's) keeps the norm.
            SV-X-Softmax normalises embeddings and has 32 (with gamma 1e-4 and power 2).
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin": Choice((1, 2, 3, 4)),
        "base": Choice((500.0, 1000.0, 1500.0)),
        "gamma": LogUniform(0.01, 0.5),
        "lambda_min": LogUniform(1.0, 20.0),
    }
    annealing: Tensor

    def __init__(
        self,
        margin: Annotated[int, Interval(1, 5)] = 4,
        base: Annotated[float, Interval(0.0)] = 1000.0,
        gamma: Annotated[float, Interval(0.0)] = 0.12,
        power: Annotated[float, Interval(0.0)] = 1.0,
        lambda_min: Annotated[float, Interval(0.0)] = 5.0,
        scale: Annotated[float | None, Interval(0.0, open_low=True)] = None,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.base = base
        self.gamma = gamma
        self.power = power
        self.lambda_min = lambda_min
        self.fixed_scale = scale
        self.register_buffer("annealing", self._annealed(torch.tensor(1.0)))

    def _annealed(self, batch: Tensor) -> Tensor:
        """λ of the given batch, counted from 1, 0-d."""
        decayed = self.base * (1.0 + self.gamma * batch) ** -self.power
        return decayed.clamp(min=self.lambda_min)

    def observe(self, target_cos: Tensor, norm: Tensor, step: Tensor, progress: float) -> None:
        """Moves λ on to this batch, see `Margin.observe`."""
        super().observe(target_cos, norm, step, progress)
        self.annealing.copy_(self._annealed((step + 1).to(self.annealing)))

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The annealed ψ, see `Margin.target`."""
        return cos + (psi(cos, self.margin) - cos) / (1.0 + self.annealing)

    def scale(self, norm: Tensor) -> Tensor:
        """The norm itself, unless a constant is given, see `Margin.scale`."""
        return norm if self.fixed_scale is None else super().scale(norm)
