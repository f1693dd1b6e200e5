"""Past embeddings that a head compares again (BroadFace), with any loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class EmbeddingQueue(nn.Module):
    """The last embeddings of the training, their labels, and their class centers at that time.

    Paper: BroadFace: Looking at Tens of Thousands of People at Once for Face Recognition, ECCV
    2020. Centers have moved since an embedding was made; compensation moves it
    along: e* = e + ‖e‖ / ‖p‖ (w - p), with w the center now and p the one then.

    It holds 2 · size · embedding_size numbers on each worker, all of which are saved.

    Args:
        size: Embeddings that are kept; the oldest go first.
        embedding_size: D.
        compensate: Whether embeddings follow their centers. The published code leaves it off by
            default, the paper's method has it on.

    Attributes:
        embeddings: (size, D), raw.
        labels: (size,).
        centers: The raw centers of their classes when they came (size, D).
        written: Embeddings that ever came, 0-d.
    """

    embeddings: Tensor
    labels: Tensor
    centers: Tensor
    written: Tensor

    def __init__(self, size: int, embedding_size: int, *, compensate: bool = True) -> None:
        super().__init__()
        self.size = size
        self.compensate = compensate
        self.register_buffer("embeddings", torch.zeros(size, embedding_size))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("centers", torch.zeros(size, embedding_size))
        self.register_buffer("written", torch.tensor(0))
        self._count = 0  # what `written` holds, without asking the device

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*args, **keywords)
        self._count = int(self.written)

    def order(self) -> Tensor:
        """Where the embeddings stand, the oldest first (N,)."""
        first = max(self._count - self.size, 0)
        return torch.arange(first, self._count, device=self.labels.device) % self.size

    def past_labels(self) -> Tensor:
        """The classes of the embeddings, the oldest first (N,)."""
        return self.labels[self.order()]

    def past(self, centers: Tensor) -> Tensor:
        """The embeddings, the oldest first, moved along with their centers (N, D).

        Args:
            centers: The raw centers of their classes now (N, D).
        """
        order = self.order()
        embeddings = self.embeddings[order]
        if not self.compensate:
            return embeddings
        then = self.centers[order]
        length = torch.linalg.vector_norm(then, dim=1, keepdim=True)
        # A center without a length has no direction that could be followed.
        length = length.masked_fill(length == 0, torch.inf)
        norm = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
        moved: Tensor = embeddings + norm / length * (centers - then)
        return moved

    def push(self, embeddings: Tensor, labels: Tensor, centers: Tensor) -> None:
        """Appends a batch, (B, D), (B,), (B, D), in its order; of more than fit, the last ones."""
        kept = min(len(labels), self.size)
        self._count += len(labels)
        place = torch.arange(self._count - kept, self._count, device=labels.device) % self.size
        with torch.no_grad():
            self.embeddings[place] = embeddings[-kept:].to(self.embeddings.dtype)
            self.labels[place] = labels[-kept:]
            self.centers[place] = centers[-kept:].to(self.centers.dtype)
            self.written.fill_(self._count)
