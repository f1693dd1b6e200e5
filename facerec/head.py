"""The classification head: everything that has a class axis, for every loss, whole or sharded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facerec.domains import Scalar
from facerec.draws import class_sample, normal_rows
from facerec.losses import build
from facerec.losses.base import Loss, unit
from facerec.parallel import ClassColumns, ClassShard


class HeadOutput(NamedTuple):
    """What one batch gives.

    Attributes:
        loss: The loss (0-d), mean over the global batch; the same on all workers.
        terms: Term -> its part of the loss (0-d), attached to the graph until it is logged.
        stats: Detached numbers (0-d): `accuracy` (share of the rows whose own class is the nearest
            of all sampled ones, without margin), `norm` and `norm_std` of the embeddings;
            `target_cos` where the loss compares cosines; `bias` (mean over the classes) and
            `threshold` (bias / scale, a cosine) where there is a bias.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    stats: Mapping[str, Tensor]


class LossComponent(Protocol):
    """A loss by name with its keywords (`facerec.config.Component` is one)."""

    @property
    def name(self) -> str:
        """An entry of `LOSSES`."""

    @property
    def args(self) -> Mapping[str, Scalar]:
        """Keywords that differ from the defaults."""


class ClassificationHead(nn.Module):
    """Centers of all classes (or of a worker's share) and the loss of a batch against them.

    Centers start as N(0, 0.01²), as in arcface_torch, CurricularFace and ElasticFace. Where the
    loss compares cosines only their norm matters, which sets how fast a center turns: by
    lr / ‖w‖², so these short ones (0.23 at 512 numbers) adapt quickly. The draw depends on `seed`
    and the class, not on the workers.

    Args:
        loss: Margin and objective, from `facerec.losses.build`.
        shard: Which classes this worker holds.
        embedding_size: D.
        sample_rate: Share of the classes that a training batch meets, above 0 to 1 (Partial FC v2,
            CVPR 2022). The batch's own classes are always among them and may make it more.
        center_storage: `free`: centers have any norm and are normalised in the graph. `unit`: they
            are overwritten by their normalised value before each training step, and the gradient
            is that of the normalised center, not projected (opensphere).
        seed: Seed of the initial centers and of the sampling.

    Attributes:
        centers: (C of this worker, D).
        bias: (C of this worker,) where the objective keeps one per class, else None.
        step: Training batches seen, 0-d, saved.
        progress: Share of the training that is done, 0 to 1; set by the loop before each batch.
        views: Embeddings of each image that `forward` takes.

    Raises:
        ValueError: A sample rate, embedding size or center storage that cannot be.
    """

    step: Tensor
    views: int = 1

    def __init__(
        self,
        loss: Loss,
        shard: ClassShard,
        embedding_size: int,
        *,
        sample_rate: float = 1.0,
        center_storage: str = "free",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate = {sample_rate}: must be above 0, and 1 at most")
        if embedding_size < 1:
            raise ValueError(f"embedding_size = {embedding_size}: must be at least 1")
        if center_storage not in ("free", "unit"):
            raise ValueError(f"center_storage = {center_storage!r}: must be free or unit")
        self.margin, self.objective = loss.margin, loss.objective
        self.shard = shard
        self.sample_rate = sample_rate
        self.center_storage = center_storage
        self.seed = seed
        self.progress = 1.0
        self.centers = nn.Parameter(
            0.01 * normal_rows(seed, shard.start, shard.stop, embedding_size)
        )
        self.bias: nn.Parameter | None = None
        if self.objective.per_class_bias and loss.bias_start is not None:
            self.bias = nn.Parameter(torch.full((shard.stop - shard.start,), loss.bias_start))
        self.register_buffer("step", torch.tensor(0))

    @property
    def class_axis(self) -> frozenset[str]:
        """Names in the state dict whose first axis is the class axis."""
        return frozenset({"centers"} if self.bias is None else {"centers", "bias"})

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
        return groups

    def _any_bias(self) -> nn.Parameter | None:
        """The bias of this worker's classes, or the one of all."""
        return self.objective.bias if self.bias is None else self.bias

    def sample(self, labels: Tensor) -> Tensor:
        """The classes that this training batch meets: sorted global ids, the same on all workers.

        Args:
            labels: Of the global batch (B,).
        """
        if self.sample_rate == 1:
            return self._all_classes(labels)
        classes = self.shard.num_classes
        return class_sample(self.seed, int(self.step), classes, self.sample_rate, labels)

    def _all_classes(self, labels: Tensor) -> Tensor:
        return torch.arange(self.shard.num_classes, device=labels.device)

    def forward(self, embeddings: Tensor, labels: Tensor) -> HeadOutput:
        """The loss of a batch.

        Args:
            embeddings: Raw embeddings of this worker (b, D), any floating type; the head computes
                in float32 or better, also under autocast.
            labels: Their classes (b,), global, integer.

        Raises:
            ValueError: Shapes that do not fit, or (seen on the CPU) labels outside the classes.
        """
        self._check(embeddings, labels)
        dtype = torch.promote_types(embeddings.dtype, self.centers.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        sizes = self.shard.batch_sizes(labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            x = self.shard.gather(embeddings.to(dtype), sizes)
            return self._classify(x, self.shard.gather(labels.long(), sizes))

    def _check(self, embeddings: Tensor, labels: Tensor) -> None:
        expected = (labels.shape[0], self.centers.shape[1])
        if labels.dim() != 1 or embeddings.shape != expected:
            raise ValueError(
                f"embeddings of shape {tuple(embeddings.shape)} with labels of shape "
                f"{tuple(labels.shape)}: needs (b, {self.centers.shape[1]}) and (b,)"
            )
        if labels.device.type == "cpu" and labels.numel():  # elsewhere a check would wait
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.shard.num_classes:
                wrong = low if low < 0 else high
                raise ValueError(f"label {wrong}: must be 0 to {self.shard.num_classes - 1}")

    def _normalised_centers(self, columns: ClassColumns, dtype: torch.dtype) -> Tensor:
        """The centers that this batch meets here, of unit length if cosines are compared (C, D)."""
        in_place = self.training and self.center_storage == "unit"
        if in_place:
            with torch.no_grad():
                self.centers.copy_(unit(self.centers))
        centers = columns.pick(self.centers).to(dtype)
        return unit(centers) if self.margin.cosine and not in_place else centers

    def _shared_or_picked_bias(self, columns: ClassColumns) -> Tensor | None:
        if self.bias is not None:
            return columns.pick(self.bias)
        return None if self.objective.bias is None else self.shard.share(self.objective.bias)

    def _classify(self, x: Tensor, labels: Tensor) -> HeadOutput:
        """The loss of the global batch (B, D) against the classes of this worker."""
        shard, margin, objective = self.shard, self.margin, self.objective
        met = self.sample(labels) if self.training else self._all_classes(labels)
        own = shard.columns(met, labels)

        norm = torch.linalg.vector_norm(x, dim=1)
        centers = self._normalised_centers(own, x.dtype)
        cos = F.linear(unit(x) if margin.cosine else x, centers)
        own_cos = own.take(cos)
        target_cos = shard.all(own_cos.detach())
        if self.training:
            margin.observe(target_cos, norm.detach(), self.step, self.progress)

        scale = margin.scale(norm)
        by_row = scale if scale.dim() == 0 else scale[:, None]
        logits = margin.others(cos, target_cos, norm) * by_row
        own.put_(logits, margin.target(own_cos, norm) * scale)
        if self.training and objective.awaits_data:
            self._start_bias(own.put_(logits.detach().clone(), -torch.inf))
        # The clip in `shift` would turn a target masked before it into a logit of -s.
        shifted = objective.shift(logits, by_row, self._shared_or_picked_bias(own))
        as_near = (cos.detach() >= target_cos[:, None]).sum(dim=1).to(cos)
        target, as_near = shard.all(torch.stack([own.take(shifted), as_near]))
        target = target.masked_fill(~own.sampled, torch.inf)
        others = own.put_(shifted, -torch.inf)

        # Functions of the norm alone count where the row's class is, not once on each worker.
        norm_once = torch.where(own.here, norm, norm.detach())
        rows = objective.combine(target, others, shard, margin.scale(norm_once))
        terms = {objective.term: rows.mean()}
        penalty = margin.penalty(norm_once)
        if penalty is not None:
            terms["penalty"] = penalty.mean()
        if self.training:
            self.step += 1
        stats = self._stats(target_cos, norm, as_near, scale)
        return HeadOutput(torch.stack(list(terms.values())).sum(), terms, stats)

    def _start_bias(self, others: Tensor) -> None:
        bias = self._any_bias()
        assert bias is not None, "only an objective with a bias awaits data for it"
        with torch.no_grad():
            bias.fill_(self.objective.start_from(others, self.shard))

    def _stats(
        self, target_cos: Tensor, norm: Tensor, as_near: Tensor, scale: Tensor
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            stats = {
                "accuracy": (as_near == 1).to(norm).mean(),
                "norm": norm.mean(),
                "norm_std": norm.std(correction=0),
            }
            bias = self._any_bias()
            if bias is not None:
                total = bias.sum()
                if self.bias is not None:
                    total = self.shard.all(total) / self.shard.num_classes
                stats["bias"] = total
            if self.margin.cosine:
                stats["target_cos"] = target_cos.mean()
                if bias is not None:
                    stats["threshold"] = stats["bias"] / scale.mean()
        return stats


def build_head(
    component: LossComponent,
    shard: ClassShard,
    embedding_size: int,
    *,
    sample_rate: float = 1.0,
    center_storage: str = "free",
    seed: int = 0,
) -> ClassificationHead:
    """The head of a loss by name.

    Args:
        component: `.name`, an entry of `LOSSES`, and `.args`, its keywords.
        shard: Which classes this worker holds.
        embedding_size: D.
        sample_rate: See `ClassificationHead`.
        center_storage: See `ClassificationHead`.
        seed: See `ClassificationHead`.

    Raises:
        ValueError: Names the keyword, its value, the limit and the nearest right choice.
    """
    loss = build(
        component.name,
        component.args,
        num_classes=shard.num_classes,
        embedding_size=embedding_size,
        sample_rate=sample_rate,
    )
    return ClassificationHead(
        loss,
        shard,
        embedding_size,
        sample_rate=sample_rate,
        center_storage=center_storage,
        seed=seed,
    )
