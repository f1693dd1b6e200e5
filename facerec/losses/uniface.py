"""UniFace: unified cross-entropy, one threshold for every sample-to-class cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.losses.arguments import Interval
from facerec.losses.base import Margin, Objective, Reduction, softplus
from facerec.losses.sphereface2 import balance_bias

BiasInit = Literal[
    "zero",
    "log_c",
    "log_10rc",
    "log_c_over_eps",
    "analytic",
    "logsumexp",
    "sphereface2_balance",
    "constant",
]


class UnifiedCrossEntropy(Objective):
    """Each cosine is asked alone whether it is a match; one bias, shared by all classes, decides.

    Formula: z⁺ = clip(s (cos θ_y - m) - b, -s, s), z⁻_j = clip(s cos θ_j - b, -s, s),
    L = log(1 + exp(-z⁺)) + l Σ_{j≠y} log(1 + exp(z⁻_j)). b / s is the learned threshold for all.

    Paper: UniFace: Unified Cross-Entropy Loss for Deep Face Recognition, ICCV 2023, equation 22
    ff.; the margin belongs to the margin part, the sum runs over the sampled classes.

    Where the bias starts decides the first steps: at 0, thousands of others push at once. None of
    these arms has been compared in print. With r the sample rate, C the classes, D the embedding
    size:

    - `zero`: 0; `log_c`: ln C; `log_10rc`: ln(10 r C), the authors' code and the default;
    - `log_c_over_eps`: ln(r C / bias_eps), the same at 0.1;
    - `analytic`: ln(l (r C - 1)) + s²/2D, the point where dL/db = 0 at random initialisation;
    - `logsumexp`: mean over the first batch of logsumexp_{j≠y} s cos θ_j, as UniTSFace starts (l
      does not enter);
    - `sphereface2_balance`: equal pull of both signs at cosine 0, SphereFace2's rule with the sign
      flipped, since UniFace subtracts its bias;
    - `constant`: bias_value.

    Args:
        bias_init: One of the names above.
        bias_value: The bias of `constant`, in logits; worth trying from 0 to 40. 18.74 is 64 times
            the threshold at which the paper's run ended (supplement, figure C).
        bias_eps: The eps of `log_c_over_eps`, above 0.
        bias_lr_mult: Factor on the bias's learning rate. 1 in the authors' code.
        bias_weight_decay: The bias's weight decay; None (the authors') takes the optimizer's, which
            pulls the threshold towards 0.
        logit_clip: `s` clips logits to -s .. s as the authors do, which stops the gradient of a
            target under m - 1 + b/s; `none` does not. Where the margin's scale is not one constant
            (plain softmax) there is nothing to clip at, and `s` does nothing.
        negative_weight: l, above 0. 1 in the code and best without sampling at 0.5 in the paper's
            scan of 0.1 to 1.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "bias_init": Choice(get_args(BiasInit)),
        "bias_lr_mult": LogUniform(0.01, 1.0),
        "bias_weight_decay": Choice((None, 0.0)),
        "negative_weight": Uniform(0.1, 1.0),
    }
    term: ClassVar[str] = "unified"
    reduction: ClassVar[Reduction] = "softplus"
    started: Tensor

    def __init__(
        self,
        bias_init: BiasInit = "log_10rc",
        bias_value: Annotated[float, Interval(-math.inf, unit="logits")] = 18.74,
        bias_eps: Annotated[float, Interval(0.0, open_low=True)] = 0.1,
        bias_lr_mult: Annotated[float, Interval(0.0)] = 1.0,
        bias_weight_decay: Annotated[float | None, Interval(0.0)] = None,
        logit_clip: Literal["s", "none"] = "s",
        negative_weight: Annotated[float, Interval(0.0, open_low=True)] = 1.0,
    ) -> None:
        super().__init__()
        self.bias_init = bias_init
        self.bias_value = bias_value
        self.bias_eps = bias_eps
        self.bias_lr_mult = bias_lr_mult
        self.bias_weight_decay = bias_weight_decay
        self.logit_clip = logit_clip
        self.negative_weight = negative_weight
        self.clips = logit_clip == "s"
        self.register_buffer("started", torch.tensor(bias_init != "logsumexp"))

    def start(
        self, margin: Margin, *, num_classes: int, embedding_size: int, sample_rate: float
    ) -> float:
        """The bias by its formula, see `Objective.start`.

        Raises:
            ValueError: The formula needs a constant scale, or more classes, than there are.
        """
        scale = margin.fixed_scale
        self.clips = self.logit_clip == "s" and scale is not None
        bias = self._formula(margin, num_classes, embedding_size, sample_rate)
        if not self.per_class_bias:
            self.bias = nn.Parameter(torch.full((1,), bias))
        return bias

    def _formula(
        self, margin: Margin, num_classes: int, embedding_size: int, sample_rate: float
    ) -> float:
        sampled = sample_rate * num_classes
        match self.bias_init:
            case "log_c":
                return math.log(num_classes)
            case "log_10rc":
                return math.log(10.0 * sampled)
            case "log_c_over_eps":
                return math.log(sampled / self.bias_eps)
            case "constant":
                return self.bias_value
            case "zero" | "logsumexp":
                return 0.0
        scale = margin.fixed_scale
        if scale is None:
            raise ValueError(
                f"bias_init = {self.bias_init}: {type(margin).__name__} has no constant scale to "
                "compute it from; logsumexp measures the same on the first batch"
            )
        others_weight = self.negative_weight * (sampled - 1.0)
        if others_weight <= 0:
            raise ValueError(
                f"bias_init = {self.bias_init}: needs more than 1 sampled class, but the sample "
                f"rate {sample_rate:g} leaves {sampled:g} of {num_classes}; log_10rc takes any"
            )
        if self.bias_init == "analytic":
            return math.log(others_weight) + scale * scale / (2.0 * embedding_size)
        return -balance_bias(1.0 / others_weight, margin)

    @property
    def awaits_data(self) -> bool:
        """Whether `logsumexp` has not yet seen a batch."""
        return self.bias_init == "logsumexp" and not bool(self.started)

    def start_from(self, total: Tensor) -> Tensor:
        """The bias from the first batch, see `Objective.start_from`."""
        mean = total.mean()
        # A batch without any other class says nothing; a bias of -inf would stay for ever.
        ready = torch.isfinite(mean)
        self.started.copy_(ready)
        return torch.where(ready, mean, 0.0)

    def bias_limit(self, scale: Tensor) -> Tensor:
        """Twice the scale where logits are clipped to it, see `Objective.bias_limit`."""
        return 2.0 * scale if self.clips else super().bias_limit(scale)

    def weigh(self, target: Tensor, total: Tensor, scale: Tensor) -> Tensor:
        """The loss of each row, see `Objective.weigh`."""
        return softplus(-target) + self.negative_weight * total


class BinaryCrossEntropy(UnifiedCrossEntropy):
    """Unified cross-entropy with a bias per class: as many thresholds as classes.

    Paper: the BCE that UniFace compares with (ICCV 2023, table 2). The bias is cut and sampled with
    the centers, so a sample rate under 1 works (it crashes in the authors' code).

    Args:
        bias_init: As in `UnifiedCrossEntropy`; every class starts from the same value.
        bias_value: As there.
        bias_eps: As there.
        bias_lr_mult: As there.
        bias_weight_decay: As there.
        logit_clip: As there.
        negative_weight: As there.
    """

    term: ClassVar[str] = "binary"
    per_class_bias: ClassVar[bool] = True
