"""The confidence head: trains only how sure a finished network is of each embedding (SCF)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from facerec.draws import normal_rows
from facerec.losses.base import unit
from facerec.losses.scf import ConfidenceLikelihood
from facerec.output import HeadOutput
from facerec.parallel import ClassShard
from facerec.rows import rows_of


class ConfidenceHead(nn.Module):
    """A small net from an embedding to its confidence κ, beside fixed centers.

    Centers and backbone come from a finished run (`init_from`) and are not trained. The authors'
    confidence net reads the flattened 7 x 7 feature map (25,088 numbers, 393 M parameters); this
    one reads the raw embedding, norm included, so that it goes with every backbone:
    κ = exp(linear(relu(linear(relu(linear(x)))))), which starts near the embedding size.

    Args:
        objective: From `facerec.losses.build("scf", …)`.
        shard: Which classes this worker holds.
        embedding_size: D.
        seed: Seed of the initial weights.

    Attributes:
        centers: (C of this worker, D), not trained.
        views: Embeddings of each image that `forward` takes: 1.
        step: Training batches seen, 0-d, saved.
        progress: Share of the training that is done, set by the loop.
        trains_backbone: False: the backbone stays as it is.
    """

    step: Tensor
    views = 1
    trains_backbone = False
    class_axis = frozenset({"centers"})

    def __init__(
        self,
        objective: ConfidenceLikelihood,
        shard: ClassShard,
        embedding_size: int,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.shard = shard
        self.progress = 1.0
        rows = normal_rows(seed, shard.start, shard.stop, embedding_size)
        self.centers = nn.Parameter(0.01 * rows, requires_grad=False)
        sizes = (embedding_size, max(embedding_size // 2, 1), max(embedding_size // 4, 1))
        self.net = nn.Sequential(
            nn.Linear(sizes[0], sizes[1]),
            nn.ReLU(),
            nn.Linear(sizes[1], sizes[2]),
            nn.ReLU(),
            nn.Linear(sizes[2], 1),
        )
        for number, layer in enumerate(self.net):
            if isinstance(layer, nn.Linear):
                draw = normal_rows(seed + 1 + number, 0, layer.out_features, layer.in_features)
                with torch.no_grad():
                    layer.weight.copy_(draw * math.sqrt(2.0 / layer.in_features))
                    layer.bias.zero_()
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.01)
            last.bias.fill_(math.log(embedding_size))
        self.register_buffer("step", torch.tensor(0))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained: the net alone, see `ClassificationHead.parameter_groups`."""
        return [{"params": list(self.net.parameters()), "lr_mult": 1.0, "weight_decay": None}]

    def confidence(self, embeddings: Tensor) -> Tensor:
        """κ of raw embeddings, above 0: (B, D) -> (B,)."""
        # e^±15 on both sides of the start: a wild embedding stays finite.
        log: Tensor = self.net(embeddings).squeeze(1)
        return torch.exp(log.clamp(-15.0, 15.0))

    def forward(self, embeddings: Tensor, labels: Tensor) -> HeadOutput:
        """The loss of a batch: (b, D), (b,), see `ClassificationHead.forward`."""
        dtype = torch.promote_types(embeddings.dtype, self.centers.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        sizes = self.shard.batch_sizes(labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            # Every worker computes all rows, so that the net's gradient is the same on each.
            x = self.shard.once(self.shard.gather(embeddings.to(dtype), sizes))
            return self._rows(x, self.shard.gather(labels.long(), sizes))

    def _rows(self, x: Tensor, labels: Tensor) -> HeadOutput:
        cos = (unit(x) * unit(rows_of(self.shard, self.centers, labels).to(x.dtype))).sum(dim=1)
        confidence = self.confidence(x)
        loss = self.objective.rows(cos, confidence, x.shape[1]).mean()
        if self.training:
            self.step += 1
        with torch.no_grad():
            norm = torch.linalg.vector_norm(x, dim=1)
            stats = {
                "target_cos": cos.mean(),
                "confidence": confidence.mean(),
                "norm": norm.mean(),
                "norm_std": norm.std(correction=0),
            }
        return HeadOutput(loss, {self.objective.term: loss}, stats)
