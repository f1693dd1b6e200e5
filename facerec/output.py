"""What a head gives for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor


class HeadOutput(NamedTuple):
    """What one batch gives.

    Attributes:
        loss: The loss (0-d), mean over the global batch; the same on all workers.
        terms: Term -> its part of the loss (0-d), attached to the graph until it is logged.
        stats: Detached numbers (0-d): `accuracy` (share of the rows whose own class is the nearest
            of all sampled ones, without margin), `norm` and `norm_std` of the embeddings;
            `target_cos` where the loss compares cosines; `bias` (mean over the classes) and
            `threshold` (bias / scale, a cosine) where there is a bias.
        watched: Detached numbers (0-d) that tell a training past saving, and stand in no history:
            `pair_cos` (mean cosine of two rows of the batch) and `bias_reach` (|mean bias| over
            `Objective.bias_limit`) where cosines are compared and there is a bias.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    stats: Mapping[str, Tensor]
    watched: Mapping[str, Tensor] = MappingProxyType({})
