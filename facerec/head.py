"""The classification head: everything that has a class axis, for every loss, whole or sharded.

Over 300 lines, because the way of one batch through the head is read in one place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facerec.confidence import ConfidenceHead
from facerec.domains import Scalar
from facerec.draws import class_sample, normal_rows
from facerec.fused import Form, reduced
from facerec.losses import LOSSES, build
from facerec.losses.base import Loss, Regularizer, unit
from facerec.losses.scf import ConfidenceLikelihood
from facerec.output import HeadOutput
from facerec.parallel import ClassColumns, ClassShard
from facerec.queue import EmbeddingQueue
from facerec.rows import Sampled, rows_of, sampled


class LossComponent(Protocol):
    """A loss by name with its keywords (`facerec.config.Component` is one)."""

    @property
    def name(self) -> str:
        """An entry of `LOSSES`."""

    @property
    def args(self) -> Mapping[str, Scalar]:
        """Keywords that differ from the defaults."""


class _Found(NamedTuple):
    """Rows against the centers of this worker, each (B,).

    Attributes:
        target_cos: Own cosine, detached, on all workers.
        target: Logit of the own class, 0 where that is not here.
        as_near: Classes here that are at least as near, itself too; others may count as one.
        total: The objective's reduction over others, of all workers.
    """

    target_cos: Tensor
    target: Tensor
    as_near: Tensor
    total: Tensor


class _Compared(NamedTuple):
    """Rows against all centers: loss, own cosine, classes as near (`_Found`), scale, norm."""

    rows: Tensor
    target_cos: Tensor
    as_near: Tensor
    scale: Tensor
    norm: Tensor
    norm_once: Tensor


class ClassificationHead(nn.Module):
    """Centers of all classes (or of a worker's share) and the loss of a batch against them.

    Centers start as N(0, 0.01²), as in arcface_torch, CurricularFace and ElasticFace. Where the
    loss compares cosines only their norm matters, which sets how fast a center turns: by
    lr / ‖w‖², so these short ones (0.23 at 512 numbers) adapt quickly. The draw depends on `seed`
    and the class, not on the workers.

    With a queue (`EmbeddingQueue`) the loss runs twice: the batch against detached centers, so that
    the backbone learns from it alone, and batch and past embeddings, detached, against the centers,
    which learn from these alone; as BroadFace, with any loss. A margin's running state and its
    penalty see the batch only, and in the second run draws are made for its rows only.

    Args:
        loss: Margin, objective and regularizer, from `facerec.losses.build`.
        shard: Which classes this worker holds.
        embedding_size: D.
        sample_rate: Share of the classes that a training batch meets, above 0 to 1 (Partial FC v2,
            CVPR 2022). The batch's own classes are always among them and may make it more. No
            others have a gradient.
        center_storage: `free`: centers have any norm and are normalised in the graph. `unit`: they
            are overwritten by their normalised value before a training batch meets them, and the
            gradient is that of the normalised center, not projected (opensphere).
        queue_size: Past embeddings that are compared again, 0 or more.
        queue_compensate: Whether they move along with their centers.
        queue_start: Fraction of training before which the queue is only filled, 0 to 1.
        seed: Seed of the initial centers, of the sampling and of drawn margins.

    Attributes:
        centers: (C of this worker, D).
        bias: (C of this worker,) where the objective keeps one per class, else None.
        step: Training batches seen, 0-d, saved.
        progress: Share of the training that is done, 0 to 1; set by the loop before each batch.
        columns: The present batch's classes on this worker, for regularizers.
        sparse_gradients: Whether the gradients of sampled centers and biases are sparse tensors.
            False at first, for any optimizer; `make_optimizer` sets it, since its own move the
            sampled rows alone by them.
        trains_backbone: True: the embeddings' gradient is of use.

    Raises:
        ValueError: A sample rate, size, start or center storage that cannot be.
    """

    step: Tensor
    columns: ClassColumns
    trains_backbone = True

    def __init__(
        self,
        loss: Loss,
        shard: ClassShard,
        embedding_size: int,
        *,
        sample_rate: float = 1.0,
        center_storage: str = "free",
        queue_size: int = 0,
        queue_compensate: bool = True,
        queue_start: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate = {sample_rate}: must be above 0, and 1 at most")
        if embedding_size < 1:
            raise ValueError(f"embedding_size = {embedding_size}: must be at least 1")
        if center_storage not in ("free", "unit"):
            raise ValueError(f"center_storage = {center_storage!r}: must be free or unit")
        if queue_size < 0:
            raise ValueError(f"queue_size = {queue_size}: must be 0 (no queue) or more")
        if not 0 <= queue_start <= 1:
            raise ValueError(f"queue_start = {queue_start}: must be 0 to 1")
        self.margin, self.objective, self.regularizer = (
            loss.margin,
            loss.objective,
            loss.regularizer,
        )
        self.shard = shard
        self.sample_rate = sample_rate
        self.center_storage = center_storage
        self.queue_start = queue_start
        self.seed = self.margin.seed = seed
        self.progress = 1.0
        self.sparse_gradients = False
        self._met: Sampled | None = None  # of the present batch, where classes are sampled
        self.centers = nn.Parameter(
            0.01 * normal_rows(seed, shard.start, shard.stop, embedding_size)
        )
        self.bias: nn.Parameter | None = None
        if self.objective.per_class_bias and loss.bias_start is not None:
            self.bias = nn.Parameter(torch.full((shard.stop - shard.start,), loss.bias_start))
        self.queue: EmbeddingQueue | None = None
        if queue_size:
            self.queue = EmbeddingQueue(queue_size, embedding_size, compensate=queue_compensate)
        if self.regularizer is not None:
            self.regularizer.start(shard, embedding_size)
        self.register_buffer("step", torch.tensor(0))

    @property
    def views(self) -> int:
        """Embeddings of each image that `forward` takes at the present `progress`: 1 or 2."""
        part = self._active_regularizer()
        return 1 if part is None else part.views

    def _active_regularizer(self) -> Regularizer | None:
        part = self.regularizer
        return part if part is not None and self.progress >= part.regularizer_start else None

    @property
    def class_axis(self) -> frozenset[str]:
        """Names in the state dict whose first axis is the class axis."""
        names = {"centers"} if self.bias is None else {"centers", "bias"}
        if self.regularizer is not None:
            names |= {f"regularizer.{name}" for name in self.regularizer.class_state}
        return frozenset(names)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained: `params`, `lr_mult`, and `weight_decay` (None: the optimizer's)."""
        groups: list[dict[str, Any]] = [
            {"params": [self.centers], "lr_mult": 1.0, "weight_decay": None}
        ]
        bias = self._any_bias()
        if bias is not None:
            groups.append(
                {
                    "params": [bias],
                    "lr_mult": self.objective.bias_lr_mult,
                    "weight_decay": self.objective.bias_weight_decay,
                }
            )
        if self.regularizer is not None and (own := list(self.regularizer.parameters())):
            groups.append({"params": own, "lr_mult": 1.0, "weight_decay": None})
        return groups

    def _any_bias(self) -> nn.Parameter | None:
        """The bias of this worker's classes, or the one of all."""
        return self.objective.bias if self.bias is None else self.bias

    def sample(self, labels: Tensor) -> Tensor:
        """The classes that this training batch meets: sorted global ids, the same on all workers.

        Args:
            labels: Of the global batch (B,), and of the queue.
        """
        if self.sample_rate == 1:
            return self._all_classes(labels)
        classes = self.shard.num_classes
        return class_sample(self.seed, self.step, classes, self.sample_rate, labels)

    def _all_classes(self, labels: Tensor) -> Tensor:
        return torch.arange(self.shard.num_classes, device=labels.device)

    def centers_of(self, ids: Tensor, live: bool = True) -> Tensor:
        """Raw centers of any classes, wherever they live: (N,) -> (N, D).

        Args:
            ids: Global, the same on all workers.
            live: Whether they carry a gradient, to each center where it lives; during a sampled
                batch, only those that it meets.
        """
        if not live:
            return rows_of(self.shard, self.centers.detach(), ids)
        return rows_of(self.shard, self.centers, ids, self._met)

    def forward(self, embeddings: Tensor, labels: Tensor) -> HeadOutput:
        """The loss of a batch.

        Args:
            embeddings: Raw embeddings of this worker (b, D), or (2, b, D) where `views` is 2; any
                floating type. The head computes in float32 or better, also under autocast.
            labels: Their classes (b,), global, integer.

        Raises:
            ValueError: Shapes that do not fit, or (seen on the CPU) labels outside the classes.
        """
        self._check(embeddings, labels)
        dtype = torch.promote_types(embeddings.dtype, self.centers.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        sizes = self.shard.batch_sizes(labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            x = embeddings.to(dtype)
            x = self.shard.gather(x if x.dim() == 3 else x[None], sizes, dim=1)
            return self._classify(x, self.shard.gather(labels.long(), sizes))

    def _check(self, embeddings: Tensor, labels: Tensor) -> None:
        two = self.views > 1 and (self.training or embeddings.dim() == 3)
        expected = (*((2,) if two else ()), labels.shape[0], self.centers.shape[1])
        if labels.dim() != 1 or embeddings.shape != expected:
            raise ValueError(
                f"embeddings of shape {tuple(embeddings.shape)} with labels of shape "
                f"{tuple(labels.shape)}: needs ({'2, ' if two else ''}b, {self.centers.shape[1]}) "
                "and (b,)"
            )
        if labels.device.type == "cpu" and labels.numel():  # elsewhere a check would wait
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.shard.num_classes:
                wrong = low if low < 0 else high
                raise ValueError(f"label {wrong}: must be 0 to {self.shard.num_classes - 1}")

    def _met_centers(self, columns: ClassColumns, dtype: torch.dtype) -> Tensor:
        """The centers that this batch meets here (C, D), ready for `_compare`."""
        if self.training and self.center_storage == "unit":
            with torch.no_grad():
                columns.write_(self.centers, unit(columns.pick(self.centers)))
        if self._samples:
            self._met = sampled(self.centers, columns.classes, sparse=self.sparse_gradients)
            centers = self._met.rows.to(dtype)
        else:
            self._met, centers = None, columns.pick(self.centers).to(dtype)
        return unit(centers) if self._normalises and self._form() is None else centers

    @property
    def _samples(self) -> bool:
        """Whether batches meet, and move, a part of the classes."""
        return self.training and self.sample_rate < 1

    @property
    def _normalises(self) -> bool:
        """Whether cosines are compared and centers are not stored as unit vectors."""
        stored = self.training and self.center_storage == "unit"
        return self.margin.cosine and not stored

    def _form(self) -> Form | None:
        """What becomes of others where one number a row tells all of them, else None."""
        limit = self.margin.others_limit
        if limit is None:
            return None
        clip = self.margin.fixed_scale if self.objective.clips else None
        clip = math.inf if clip is None else clip
        return Form(self.objective.reduction, self._normalises, limit, clip)

    def _classify(self, x: Tensor, labels: Tensor) -> HeadOutput:
        """The loss of the global batch (V, B, D) against the classes of this worker."""
        regularizer = self._active_regularizer()
        if regularizer is not None and len(x) != regularizer.views:
            regularizer = None  # one view of an image, in evaluation
        if self.training and self.regularizer is not None:
            with torch.no_grad():
                self.regularizer.before(self, x, labels)
        rows, own_labels = x.flatten(0, 1), labels.repeat(len(x))
        queue = self.queue if self.training else None
        known = own_labels if queue is None else torch.cat([own_labels, queue.past_labels()])
        met = self.sample(known) if self.training else self._all_classes(labels)
        own = self.shard.columns(met, own_labels)
        centers = self._met_centers(own, x.dtype)

        broad = queue is not None and self.progress >= self.queue_start
        seen = self._compare(rows, own, centers, live=True, teaches=not broad)
        terms = {self.objective.term: seen.rows.mean()}
        if queue is not None:
            now = self.centers_of(known, live=False)
            if broad:
                past = queue.past(now[len(rows) :]).to(x.dtype)
                wide, both = self.shard.columns(met, known), torch.cat([rows.detach(), past])
                again = self._compare(both, wide, centers, live=False, teaches=True)
                terms["broad"] = again.rows.mean()
            queue.push(rows.detach(), own_labels, now[: len(rows)])
        penalty = self.margin.penalty(seen.norm_once)
        if penalty is not None:
            terms["penalty"] = penalty.mean()
        if regularizer is not None:
            self.columns = self.shard.columns(met, labels)
            terms[regularizer.term] = regularizer(self, x, labels)
        self._met = None
        if self.training:
            if self.regularizer is not None:
                with torch.no_grad():
                    self.regularizer.after(self, x, labels)
            self.step += 1
        stats = self._stats(seen)
        watched = self._watched(rows, seen.scale, stats)
        return HeadOutput(torch.stack(list(terms.values())).sum(), terms, stats, watched)

    def _compare(
        self, x: Tensor, own: ClassColumns, centers: Tensor, *, live: bool, teaches: bool
    ) -> _Compared:
        """Rows (N, D) against centers (C, D).

        Args:
            x: The rows.
            own: Their own classes.
            centers: Of the classes that are met here, from `_met_centers`.
            live: Whether they are the batch, which a margin may observe and a bias start from.
            teaches: Whether centers and bias learn from them.
        """
        if not teaches:
            centers = centers.detach()
        norm = torch.linalg.vector_norm(x, dim=1)
        rows = unit(x) if self.margin.cosine else x
        form, observed = self._form(), self.training and live
        if form is None:
            found = self._in_full(rows, norm, own, centers, observed, teaches)
        else:
            found = self._in_blocks(rows, norm, own, centers, observed, teaches, form)
        target, as_near = self.shard.all(torch.stack([found.target, found.as_near]))
        target, as_near = target.masked_fill(~own.sampled, torch.inf), as_near * own.sampled
        # Functions of the norm alone count where the row's class is, not once on each worker.
        norm_once = torch.where(own.here, norm, norm.detach())
        loss = self.objective.weigh(target, found.total, self.margin.scale(norm_once))
        scale = self.margin.scale(norm)
        return _Compared(loss, found.target_cos, as_near, scale, norm, norm_once)

    def _in_full(
        self,
        x: Tensor,
        norm: Tensor,
        own: ClassColumns,
        centers: Tensor,
        observed: bool,
        teaches: bool,
    ) -> _Found:
        """With all logits at once (N, C), for margins that change those of others."""
        shard, margin, objective = self.shard, self.margin, self.objective
        cos = F.linear(x, centers)
        own_cos = own.take(cos)
        target_cos = shard.all(own_cos.detach())
        if observed:
            margin.observe(target_cos, norm.detach(), self.step, self.progress)
        scale = margin.scale(norm)
        by_row = scale if scale.dim() == 0 else scale[:, None]
        logits = margin.others(cos, target_cos, norm) * by_row
        own.put_(logits, margin.target(own_cos, norm) * scale)
        if observed and objective.awaits_data:
            self._start_bias(shard.logsumexp(own.put_(logits.detach().clone(), -torch.inf)))
        # The clip in `shift` would turn a target masked before it into a logit of -s.
        shifted = objective.shift(logits, by_row, self._met_bias(own, teaches))
        target = own.take(shifted)
        as_near = (cos.detach() >= target_cos[:, None]).sum(dim=1).to(cos)
        total = objective.reduced(own.put_(shifted, -torch.inf), shard)
        return _Found(target_cos, target, as_near, total)

    def _in_blocks(
        self,
        x: Tensor,
        norm: Tensor,
        own: ClassColumns,
        centers: Tensor,
        observed: bool,
        teaches: bool,
        form: Form,
    ) -> _Found:
        """With a block of classes at a time: others keep their cosines."""
        shard, margin, objective = self.shard, self.margin, self.objective
        scale = margin.scale(norm)
        if observed and objective.awaits_data:
            with torch.no_grad():
                start = form._replace(reduction="logsumexp", clip=math.inf)
                parts = reduced(x, centers, scale, None, own, start).total
                self._start_bias(shard.logsumexp(parts[:, None]))
        bias = self._met_bias(own, teaches)
        added = None if bias is None else objective.bias_sign * bias
        own_cos, nearest, total = reduced(x, centers, scale, added, own, form)
        target_cos = shard.all(own_cos.detach())
        if observed:
            margin.observe(target_cos, norm.detach(), self.step, self.progress)
        if bias is not None and self.bias is not None:
            bias = bias[own.index] if len(bias) else None  # no class here: no target either
        logits = objective.shift(margin.target(own_cos, norm) * scale, scale, bias)
        target = torch.where(own.here, logits, 0.0)
        as_near = (own.here & (own_cos.detach() >= target_cos)).to(norm)
        as_near = as_near + (nearest >= target_cos).to(norm)
        if form.reduction == "logsumexp":
            total = shard.logsumexp(total[:, None])
        else:
            total = shard.all(total)
        return _Found(target_cos, target, as_near, total)

    def _met_bias(self, columns: ClassColumns, teaches: bool) -> Tensor | None:
        """The bias of the classes that are met here (C,), or the one of all (1,)."""
        if self.bias is not None and self._samples:
            bias = sampled(self.bias, columns.classes, sparse=self.sparse_gradients).rows
        elif self.bias is not None:
            bias = columns.pick(self.bias)
        elif self.objective.bias is not None:
            bias = self.shard.share(self.objective.bias)
        else:
            return None
        return bias if teaches else bias.detach()

    def _start_bias(self, total: Tensor) -> None:
        """Fills the bias from the log-sum-exp of others (B,)."""
        bias = self._any_bias()
        assert bias is not None, "only an objective with a bias awaits data for it"
        with torch.no_grad():
            bias.fill_(self.objective.start_from(total))

    def _stats(self, seen: _Compared) -> dict[str, Tensor]:
        with torch.no_grad():
            stats = {
                "accuracy": (seen.as_near == 1).to(seen.norm).mean(),
                "norm": seen.norm.mean(),
                "norm_std": seen.norm.std(correction=0),
            }
            bias = self._any_bias()
            if bias is not None:
                total = bias.sum()
                if self.bias is not None:
                    total = self.shard.all(total) / self.shard.num_classes
                stats["bias"] = total
            if self.margin.cosine:
                stats["target_cos"] = seen.target_cos.mean()
                if bias is not None and self.objective.bias_is_threshold:
                    stats["threshold"] = stats["bias"] / seen.scale.mean()
        return stats

    def _watched(self, x: Tensor, scale: Tensor, stats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            directions, number = unit(x), len(x)
            together = directions.sum(dim=0, dtype=torch.float64).square().sum()
            together = together - directions.square().sum(dtype=torch.float64)
            watched = {"pair_cos": together / (number * (number - 1) or torch.nan)}
            if "bias" in stats and self.margin.cosine:
                limit = self.objective.bias_limit(scale.mean())
                watched["bias_reach"] = stats["bias"].abs() / limit
        return watched


Head: TypeAlias = ClassificationHead | ConfidenceHead


def build_head(
    component: LossComponent,
    shard: ClassShard,
    embedding_size: int,
    *,
    queue_size: int | None = None,
    **head: Any,
) -> Head:
    """The head of a loss by name: a `ConfidenceHead` for `scf`, else a `ClassificationHead`.

    Args:
        component: `.name`, an entry of `LOSSES`, and `.args`, its keywords.
        shard: Which classes this worker holds.
        embedding_size: D.
        queue_size: See `ClassificationHead`; None is the loss's own (32,000 for `broadface`, else
            no queue).
        head: The other keywords of `ClassificationHead`.

    Raises:
        ValueError: Names the keyword, its value, the limit and the nearest right choice.
    """
    loss = build(
        component.name,
        component.args,
        num_classes=shard.num_classes,
        embedding_size=embedding_size,
        sample_rate=float(head.get("sample_rate", 1.0)),
    )
    spec = LOSSES[component.name]
    if isinstance(loss.objective, ConfidenceLikelihood):
        return ConfidenceHead(loss.objective, shard, embedding_size, seed=int(head.get("seed", 0)))
    size = spec.queue_size if queue_size is None else queue_size
    return ClassificationHead(loss, shard, embedding_size, queue_size=size, **head)
