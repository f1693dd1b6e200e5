"""SphereFace2: binary classification with a weight per sign and a warped cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.losses.arguments import Interval
from facerec.losses.base import (
    CosineEps,
    Margin,
    Objective,
    Reduction,
    Scale,
    Warmup,
    angle,
    clamped,
    of_slope_one,
    softplus,
)
from facerec.losses.softmax import LossWeight, over_scale


def balance_bias(weight_ratio: float, margin: Margin) -> float:
    """The bias b, added to each logit, at which both signs pull equally hard at cosine 0.

    Solves ratio · σ(-(z_y + b)) = σ(z_j + b), z_y and z_j being the margin's logits of the target
    and of another class at cosine 0 (at norm 1, where the scale depends on the norm).
    Paper: SphereFace2, ICLR 2022, section 3.3.

    Args:
        weight_ratio: Weight of the one target over that of all others together, above 0.
        margin: The margin.
    """
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    with torch.no_grad():
        scale = margin.scale(one)
        target = float(scale * margin.target(zero, one))
        others = float(scale * margin.others(zero[None], zero, one))
    slack = 1.0 - weight_ratio
    # Past e^700 one sign is out of reach and the exponential would be, too.
    gap = min(max(target - others, -700.0), 700.0)
    product = 4.0 * weight_ratio * math.exp(gap)
    root = math.sqrt(slack * slack + product)
    # slack + root cancels where the ratio passes 1; this form of the same number does not.
    total = slack + root if slack > 0 else product / (root - slack)
    return math.log(2.0 * weight_ratio) - others - math.log(total)


class SphereFace2(Margin):
    """Cosines are warped, and the margin acts on the target and, in type C, on others as well.

    Formula: with g(c) = 2 ((c + 1)/2)^t - 1,

    - `C`: z_iy = r (g(cos θ_iy) - m), z_ij = r (g(cos θ_ij) + m);
    - `A`: z_iy = r g(cos(min(θ_iy + m, π))), z_ij = r g(cos θ_ij);
    - `M`: z_iy = r g(cos(min((1 + m) θ_iy, π))), z_ij = r g(cos θ_ij).

    Paper: SphereFace2: Binary Classification is All You Need for Deep Face Recognition, ICLR 2022,
    section 3; A and M as in the authors' code. Made for the objective `weighted_binary`. The
    authors store centers normalised (`head.center_storage=unit`).

    Args:
        margin: m, 0 (none) to 1.5: units of the warped cosine in C, radians in A, and in M what
            the factor on the angle has above 1, so that one range serves a search over all three.
            The authors' code has 0.4 for C (0.5 on MS1M), 0.5 for A, and a factor of 1.7 for M,
            which is 0.7 here.
        scale: r, above 0. 40 in the authors' code, 64 on MS1M.
        warp: t, 1 (none) or more. 3 in the authors' code. It spreads the cosines of the same
            person, which lie high, and packs those of others.
        variant: `C` (the authors' choice), `A` or `M`, see above.
        gradient: `exact` differentiates the formula: the default, since it is what the paper
            says and its code of 2022 does for C. `detached` treats warp and margin as a constant,
            so that the derivative of a cosine is r (the authors' later code, and A and M).
        cosine_eps: All cosines are clamped to -1 + eps .. 1 - eps first, with a zero gradient
            outside (with `detached`: value only). 0 by default, since the ends are safe without;
            1e-8 in the authors' A and M.
        largest_angle: In A and M no angle counts as more than this, 3 to π radians; π by default,
            as the formula says, 3.14 in the authors' code.
        margin_warmup: Fraction of training over which the margin rises linearly from 0.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "margin": Uniform(0.2, 0.6),
        "scale": LogUniform(20.0, 80.0),
        "warp": Choice((1.0, 2.0, 3.0, 4.0, 6.0)),
        "variant": Choice(("C", "A", "M")),
    }

    def __init__(
        self,
        margin: Annotated[float, Interval(0.0, 1.5, "in M the factor less 1")] = 0.4,
        scale: Scale = 40.0,
        warp: Annotated[float, Interval(1.0)] = 3.0,
        variant: Literal["C", "A", "M"] = "C",
        gradient: Literal["exact", "detached"] = "exact",
        cosine_eps: CosineEps = 0.0,
        largest_angle: Annotated[float, Interval(3.0, math.pi, "radians")] = math.pi,
        margin_warmup: Warmup = 0.0,
    ) -> None:
        super().__init__(margin_warmup)
        self.margin = margin
        self.fixed_scale = scale
        self.warp = warp
        self.variant = variant
        self.gradient = gradient
        self.cosine_eps = cosine_eps
        self.largest_angle = largest_angle

    def _warped(self, cos: Tensor) -> Tensor:
        """Any cosines through g; rounding may have pushed them below -1.

        There the value is that of -1 and so is the slope, which a plain clamp would make zero.
        """
        half = (cos + 1.0) / 2.0
        half = half + (half.clamp(min=0.0) - half).detach()
        return 2.0 * half**self.warp - 1.0

    def _harder(self, cos: Tensor) -> Tensor:
        """The target by its variant: (B,) -> (B,)."""
        cos, margin = clamped(cos, self.cosine_eps), self.margin * self.rise
        if self.variant == "C":
            return self._warped(cos) - margin
        theta = angle(cos)
        moved = theta + margin if self.variant == "A" else theta * (1.0 + margin)
        return self._warped(torch.cos(moved.clamp(max=self.largest_angle)))

    def _nearer(self, cos: Tensor) -> Tensor:
        """The rest by their variant: (B, C) -> (B, C)."""
        cos = clamped(cos, self.cosine_eps)
        if self.variant == "C":
            return self._warped(cos) + self.margin * self.rise
        return self._warped(cos.clamp(min=math.cos(self.largest_angle)))

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The target's warped cosine with its margin, see `Margin.target`."""
        if self.gradient == "exact":
            return self._harder(cos)
        return of_slope_one(cos, self._harder)

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The warped cosines of the rest, nearer in C, see `Margin.others`."""
        if self.gradient == "exact":
            return self._nearer(cos)
        return of_slope_one(cos, self._nearer)


class WeightedBinaryCrossEntropy(Objective):
    """Each cosine is asked alone whether it is a match; target and others weigh differently.

    Formula: L = w/s [α log(1 + exp(-(z_y + b))) + (1 - α) Σ_{j≠y} log(1 + exp(z_j + b))], s being
    the margin's scale, and one b for all classes.

    Paper: SphereFace2, ICLR 2022, equation 5 (its λ is α here). The bias is **added** to the
    logits, opposite to UniFace's: -b / s is the threshold that the warped cosine has to pass.

    With a sample rate r below 1 the sum runs over the sampled classes, unweighted: others lose
    weight by r, as with a larger α, and `balance` counts them.

    Args:
        positive_weight: α, above 0 and below 1. 0.7 in the authors' code, 0.8 on MS1M.
        loss_weight: w, above 0, as in `Softmax`: the whole is multiplied by w over the scale, so a
            larger scale does not mean larger steps. 50 in the authors' code; None: by neither.
        bias_init: Where b starts. `balance` (the authors'): where target and others pull equally at
            cosine 0, asked of the margin, so that every margin has its own; `zero`: 0;
            `constant`: bias_value.
        bias_value: The bias of `constant`, in logits. 5.582 is the balance of 10,572 classes
            (CASIA-WebFace) at the defaults.
        bias_lr_mult: Factor on the bias's learning rate. 1 in the authors' code.
        bias_weight_decay: The bias's weight decay; None (the authors') takes the optimizer's.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "positive_weight": Uniform(0.5, 0.95),
        "bias_init": Choice(("balance", "zero", "constant")),
    }
    term: ClassVar[str] = "weighted_binary"
    reduction: ClassVar[Reduction] = "softplus"
    bias_sign: ClassVar[Literal[-1, 1]] = 1
    bias_is_threshold: ClassVar[bool] = False  # it is added, to warped cosines

    def __init__(
        self,
        positive_weight: Annotated[float, Interval(0.0, 1.0, open_low=True, open_high=True)] = 0.7,
        loss_weight: LossWeight = 50.0,
        bias_init: Literal["balance", "zero", "constant"] = "balance",
        bias_value: Annotated[float, Interval(-math.inf, unit="logits")] = 5.582,
        bias_lr_mult: Annotated[float, Interval(0.0)] = 1.0,
        bias_weight_decay: Annotated[float | None, Interval(0.0)] = None,
    ) -> None:
        super().__init__()
        self.positive_weight = positive_weight
        self.loss_weight = loss_weight
        self.bias_init = bias_init
        self.bias_value = bias_value
        self.bias_lr_mult = bias_lr_mult
        self.bias_weight_decay = bias_weight_decay

    def start(
        self, margin: Margin, *, num_classes: int, embedding_size: int, sample_rate: float
    ) -> float:
        """The bias by its rule, see `Objective.start`."""
        bias = self.bias_value if self.bias_init == "constant" else 0.0
        if self.bias_init == "balance":
            others = max(sample_rate * num_classes - 1.0, 1.0)  # a tiny sample still has some
            ratio = self.positive_weight / ((1.0 - self.positive_weight) * others)
            bias = balance_bias(ratio, margin)
        self.bias = nn.Parameter(torch.full((1,), bias))
        return bias

    def weigh(self, target: Tensor, total: Tensor, scale: Tensor) -> Tensor:
        """The loss of each row, see `Objective.weigh`."""
        positive = self.positive_weight * softplus(-target)
        rows = positive + (1.0 - self.positive_weight) * total
        return over_scale(rows, self.loss_weight, scale)
