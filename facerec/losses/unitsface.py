"""UniTSFace: samples against remembered samples of all classes, with one threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from facerec.domains import Domain, LogUniform, Uniform
from facerec.losses.arguments import Interval
from facerec.losses.base import CosineMargin, HeadView, Regularizer, Scale, Warmup, unit
from facerec.losses.cosface import CosFace
from facerec.losses.uniface import UnifiedCrossEntropy
from facerec.parallel import ClassShard
from facerec.rows import of_each_class


class SampleToSample(Regularizer):
    """Unified cross-entropy against one remembered embedding of each class.

    Formula: UniFace's, with the last embedding F_j of class j in place of its center:
    z⁺ = clip(s (cos(x_i, F_y) - m) - b, -s, s), z⁻_j = clip(s cos(x_i, F_j) - b, -s, s),
    L = pair_weight · mean_i [log(1 + exp(-z⁺)) + Σ_{j≠y} log(1 + exp(z⁻_j))]. F has no gradient and
    is overwritten after each batch (where a class comes twice, by the later image).

    Paper: UniTSFace: Unified Threshold Integrated Sample-to-Sample Loss for Face Recognition,
    NeurIPS 2023. The threshold starts at mean_i logsumexp_{j≠y} s cos(x_i, F_j), as in
    the code, on the first batch that has something to be compared with. The code's memory begins
    uninitialised, so it starts the term with the second epoch; here classes that were not seen yet
    are left out. The code starts the threshold anew whenever training has pushed it to 0 or below;
    here it starts once. The code adds the term to the classification loss; the paper averages them.

    Args:
        pair_margin: m in units of the cosine, 0 to 1. 0.1 in the code.
        pair_scale: s, above 0. 64 in the code, for ten thousand classes and 512 numbers; few
            classes or short embeddings want less, as with `uniface`.
        pair_weight: Weight of the term, 0 or more. 1 in the code.
        regularizer_start: Fraction of training before which only the memory is filled. 1/28, the
            first epoch of the code's 28.
    """

    space: ClassVar[Mapping[str, Domain]] = {
        "pair_margin": Uniform(0.0, 0.3),
        "pair_scale": LogUniform(16.0, 96.0),
    }
    term: ClassVar[str] = "sample_to_sample"
    class_state: ClassVar[tuple[str, ...]] = ("memory", "seen")
    memory: Tensor
    seen: Tensor

    def __init__(
        self,
        pair_margin: CosineMargin = 0.1,
        pair_scale: Scale = 64.0,
        pair_weight: Annotated[float, Interval(0.0)] = 1.0,
        regularizer_start: Warmup = 1 / 28,
    ) -> None:
        super().__init__(regularizer_start)
        self.pair_weight = pair_weight
        self.margin = CosFace(pair_margin, pair_scale)
        self.objective = UnifiedCrossEntropy(bias_init="logsumexp")

    def start(self, shard: ClassShard, embedding_size: int) -> None:
        """Makes an empty memory, see `Regularizer.start`."""
        classes = shard.stop - shard.start
        self.register_buffer("memory", torch.zeros(classes, embedding_size))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))
        self.objective.start(
            self.margin, num_classes=shard.num_classes, embedding_size=embedding_size, sample_rate=1
        )

    def forward(self, head: HeadView, x: Tensor, labels: Tensor) -> Tensor:
        """The mean over the rows of (1, B, D), see `Regularizer.forward`."""
        shard, own, objective = head.shard, head.columns, self.objective
        seen = own.pick(self.seen)
        cos = F.linear(unit(x[0]), unit(own.pick(self.memory).to(x.dtype)))
        scale = self.margin.scale(x)
        logits = cos * scale
        own.put_(logits, self.margin.target(own.take(cos), x[0, :, 0]) * scale)
        if self.training and objective.awaits_data:
            masked = own.put_(logits.detach().masked_fill(~seen, -torch.inf), -torch.inf)
            assert objective.bias is not None
            with torch.no_grad():
                objective.bias.fill_(objective.start_from(shard.logsumexp(masked)))
        bias = None if objective.bias is None else shard.share(objective.bias)
        shifted = objective.shift(logits, scale, bias)
        known = own.take(seen.to(x.dtype).expand_as(shifted))
        target, known = shard.all(torch.stack([own.take(shifted), known]))
        target = target.masked_fill(known == 0, torch.inf)
        others = own.put_(shifted.masked_fill(~seen, -torch.inf), -torch.inf)
        rows = objective.weigh(target, objective.reduced(others, shard), scale)
        return self.pair_weight * rows.mean()

    def after(self, head: HeadView, x: Tensor, labels: Tensor) -> None:
        """Remembers the batch, see `Regularizer.after`."""
        if head.shard.start == head.shard.stop:
            return
        index, same = of_each_class(head.shard, labels)
        position = torch.arange(1, len(labels) + 1, device=labels.device)
        last = (same * position).amax(dim=1)  # 0 where the class is not in the batch
        rows = x[0][(last - 1).clamp(min=0)].to(self.memory.dtype)
        # Rows of one class write one and the same value.
        self.memory[index] = torch.where((last > 0)[:, None], rows, self.memory[index])
        self.seen[index] = self.seen[index] | (last > 0)
