"""What a loss is made of: a margin, an objective, perhaps a regularizer; and its table entry.

Vocabulary of the papers: the *target* is the labelled class, *others* are the rest. Shapes: B rows
of the batch over all workers, C classes on this worker, D numbers of an embedding. A part knows no
device, rank or file; what has a class axis belongs to the head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facerec.domains import Domain, Scalar
from facerec.losses.arguments import Interval
from facerec.parallel import ClassColumns, ClassShard

CosineMargin = Annotated[float, Interval(0.0, 1.0, "units of the cosine")]
AngleMargin = Annotated[float, Interval(0.0, math.pi, "radians", open_high=True)]
Scale = Annotated[float, Interval(0.0, open_low=True)]
CosineEps = Annotated[float, Interval(0.0, 0.1, "units of the cosine")]
Warmup = Annotated[float, Interval(0.0, 1.0, "fraction of training")]
Reduction = Literal["logsumexp", "softplus"]

SHORTEST = 1e-5  # as UniFace's normalisation; half precision cannot hold much less


def unit(x: Tensor) -> Tensor:
    """Rows divided by their norms, (N, D) -> (N, D).

    A row shorter than 1e-5 has no direction: it becomes zero, with a zero gradient, where a floor
    under the norm would give it 1e5 times the gradient of others.
    """
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / norm.masked_fill(norm < SHORTEST, torch.inf)


def angle(cos: Tensor) -> Tensor:
    """The angle of a cosine in radians, safe at and beyond -1 and 1.

    There the angle is exactly pi or 0 and its gradient, infinite in truth, is zero; everywhere else
    nothing is changed. The cosine is replaced before `acos` runs, because an infinite gradient
    becomes NaN even in a branch that `where` does not select.

    Args:
        cos: Cosines, any shape; rounding may have pushed them beyond 1.
    """
    edge = cos.abs() >= 1
    ends = (cos < 0).to(cos.dtype) * math.pi
    return torch.where(edge, ends, torch.acos(cos.masked_fill(edge, 0.0)))


def reach(cosine_eps: float) -> float:
    """The largest cosine that `clamped` lets pass; infinity at eps 0."""
    return 1.0 - cosine_eps if cosine_eps else math.inf


def clamped(cos: Tensor, cosine_eps: float) -> Tensor:
    """Cosines within -1 + eps .. 1 - eps, with a zero gradient outside; unchanged at eps 0."""
    limit = 1.0 - cosine_eps
    return cos.clamp(-limit, limit) if cosine_eps else cos


def of_slope_one(cos: Tensor, bend: Callable[[Tensor], Tensor]) -> Tensor:
    """What `bend` makes of cosines, its change taken as a constant: the derivative is 1."""
    fixed = cos.detach()
    return cos + (bend(fixed) - fixed)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact to double precision (PyTorch's default is linear above 20)."""
    return F.softplus(x, threshold=40.0)


class Margin(nn.Module):
    """Cosines in, cosines out: how the target is made harder (and others, where a paper does so).

    Attributes:
        space: Keyword -> what is worth searching.
        cosine: False where the head shall hand in inner products instead of cosines.
        fixed_scale: The scale where it is a constant of the loss, else None.
        seed: Of the run, set by the head; for margins that draw.
    """

    space: ClassVar[Mapping[str, Domain]] = {}
    cosine: ClassVar[bool] = True
    fixed_scale: float | None = None
    seed: int = 0

    def __init__(self, margin_warmup: float = 0.0) -> None:
        super().__init__()
        self.margin_warmup = margin_warmup
        self.rise = 1.0

    def observe(self, target_cos: Tensor, norm: Tensor, step: Tensor, progress: float) -> None:
        """Sees each training batch before `target` and `others`; subclasses call it first.

        Args:
            target_cos: Cosines of the rows with their own class (B,), detached, on all workers.
            norm: Norms of the raw embeddings (B,), detached.
            step: Number of training batches seen before this one, 0-d.
            progress: Share of the training that is done, 0 to 1.
        """
        self.rise = min(1.0, progress / self.margin_warmup) if self.margin_warmup else 1.0

    def target(self, cos: Tensor, norm: Tensor) -> Tensor:
        """The target's cosine with its margin: (B,), (B,) -> (B,)."""
        return cos

    def others(self, cos: Tensor, target_cos: Tensor, norm: Tensor) -> Tensor:
        """The cosines of the rest: (B, C), (B,) detached, (B,) -> (B, C)."""
        return cos

    @property
    def others_limit(self) -> float | None:
        """±cosine where `others` cuts off, infinity for nowhere; None if it does any more.

        None makes the head hold the whole matrix. Margins without `others` need not say anything.
        """
        return math.inf if type(self).others is Margin.others else None

    def scale(self, norm: Tensor) -> Tensor:
        """What cosines are multiplied with: (B,) -> () or (B,), 0 or more."""
        return norm.new_full((), 1.0 if self.fixed_scale is None else self.fixed_scale)

    def penalty(self, norm: Tensor) -> Tensor | None:
        """A term on the norms, added to the loss: (B,) -> (B,); None where there is none."""
        return None


class Objective(nn.Module):
    """Scaled cosines to a loss per row.

    Attributes:
        space: Keyword -> what is worth searching.
        term: Name of its column in the history, `loss.<term>`.
        reduction: What is made of the logits of others: one number a row.
        per_class_bias: True where the head keeps a bias per class beside the centers.
        bias_sign: Whether the bias is added to the logits or subtracted.
        clips: Whether logits are then clipped to ± the scale, which is one constant.
        bias_is_threshold: True where bias / scale is the cosine that parts match from non-match.
        bias: The one bias of all classes, where the objective has one.
        bias_lr_mult: Factor on the learning rate of the bias.
        bias_weight_decay: Weight decay of the bias; None is the optimizer's.
    """

    space: ClassVar[Mapping[str, Domain]] = {}
    term: ClassVar[str]
    reduction: ClassVar[Reduction]
    per_class_bias: ClassVar[bool] = False
    bias_sign: ClassVar[Literal[-1, 1]] = -1
    clips: bool = False
    bias_is_threshold: ClassVar[bool] = True
    bias: nn.Parameter | None
    bias_lr_mult: float = 1.0
    bias_weight_decay: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("bias", None)

    def start(
        self, margin: Margin, *, num_classes: int, embedding_size: int, sample_rate: float
    ) -> float | None:
        """Sets what the data fixes; returns the bias to start from, None where there is none."""
        return None

    @property
    def awaits_data(self) -> bool:
        """Whether the bias still waits for the first training batch."""
        return False

    def start_from(self, total: Tensor) -> Tensor:
        """The bias (0-d) from the first batch: log-sum-exp of the scaled cosines of others (B,)."""
        raise NotImplementedError(f"{type(self).__name__} has no bias to start from data")

    def bias_limit(self, scale: Tensor) -> Tensor:
        """The |bias| beyond which no logit depends on its cosine: mean scale () -> ().

        Cosines with a margin rarely leave -3 to 3, and e^-100 is 0 in single precision.
        """
        return 3.0 * scale + 100.0

    def shift(self, logits: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """Bias and clip, any shape, with the target's logit still in its column."""
        shifted = logits if bias is None else logits + self.bias_sign * bias
        return shifted.clamp(-scale, scale) if self.clips else shifted

    def reduced(self, others: Tensor, shard: ClassShard) -> Tensor:
        """Over the classes of all workers, (B, C) with the target's column at -inf -> (B,)."""
        soft = self.reduction == "logsumexp"
        return shard.logsumexp(others) if soft else shard.sum(softplus(others))

    def weigh(self, target: Tensor, total: Tensor, scale: Tensor) -> Tensor:
        """The loss of each row from its target (infinite where left out) and others: (B,)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it combines")


class HeadView(Protocol):
    """What a regularizer sees of the head."""

    shard: ClassShard
    centers: nn.Parameter

    @property
    def columns(self) -> ClassColumns:
        """The sampled classes of this worker for the present batch, and whose is whose."""

    def centers_of(self, ids: Tensor, live: bool = True) -> Tensor:
        """Raw centers of any classes, wherever they live: (N,) -> (N, D)."""


class Regularizer(nn.Module):
    """A term over centers or embeddings, added to the loss.

    Its parts get the embeddings `x` of the global batch (V, B, D), V being `views`, and their
    labels (B,). A term that every worker computes in full from embeddings goes through
    `head.shard.once`; one over centers does not, since each worker differentiates its own.

    Attributes:
        space: Keyword -> what is worth searching.
        term: Name in `REGULARIZERS` and of its column in the history, `loss.<term>`.
        views: Embeddings of each image that it compares (2: two dropout draws).
        class_state: Names of buffers with a class axis, which are cut and saved like centers.
        regularizer_start: Fraction of training before which the term is off.
    """

    space: ClassVar[Mapping[str, Domain]] = {}
    term: ClassVar[str]
    views: ClassVar[int] = 1
    class_state: ClassVar[tuple[str, ...]] = ()

    def __init__(self, regularizer_start: float = 0.0) -> None:
        super().__init__()
        self.regularizer_start = regularizer_start

    def start(self, shard: ClassShard, embedding_size: int) -> None:
        """Makes the buffers of `class_state`, before a checkpoint is loaded."""

    def before(self, head: HeadView, x: Tensor, labels: Tensor) -> None:
        """In training, without gradients, before the batch meets the centers."""

    def forward(self, head: HeadView, x: Tensor, labels: Tensor) -> Tensor:
        """The term (0-d)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it adds")

    def after(self, head: HeadView, x: Tensor, labels: Tensor) -> None:
        """In training, without gradients, when the loss is known."""


class Loss(NamedTuple):
    """The parts of a loss, ready for a head; `bias_start` is the bias to begin with."""

    margin: Margin
    objective: Objective
    bias_start: float | None
    regularizer: Regularizer | None = None


@dataclass(frozen=True)
class LossSpec:
    """An entry of `LOSSES`: which parts, and where this loss departs from their defaults.

    Args:
        margin: The margin's class.
        objective: The objective's class.
        changed: Keyword -> the default of this loss.
        searched: Keyword -> the domain of this loss where it is not the part's own.
        regularizer: The regularizer's class, where it has one.
        queue_size: Past embeddings that the head compares again, where the loss is about that.
        composable: Whether it takes another objective and a regularizer.
    """

    margin: type[Margin]
    objective: type[Objective]
    changed: Mapping[str, Scalar] = field(default_factory=dict)
    searched: Mapping[str, Domain] = field(default_factory=dict)
    regularizer: type[Regularizer] | None = None
    queue_size: int = 0
    composable: bool = True

    @property
    def parts(self) -> tuple[type[Margin] | type[Objective] | type[Regularizer], ...]:
        """The classes that take its keywords."""
        own = (self.margin, self.objective)
        return own if self.regularizer is None else (*own, self.regularizer)

    @property
    def space(self) -> dict[str, Domain]:
        """Dotted key -> what is worth searching, over all parts."""
        merged = {k: domain for part in self.parts for k, domain in part.space.items()}
        return {
            f"loss.{keyword}": domain for keyword, domain in {**merged, **self.searched}.items()
        }
