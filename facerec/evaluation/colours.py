"""Whether a net takes RGB or BGR images, as far as a verification set can tell.

A net that is fed the other order of colours than it was trained on still works, only worse, and
nothing says so. So the same pairs are verified with the images in both orders: both accuracies come
from the same folds, and the other order is called better only where the mean of the folds'
differences is above what chance gives (one-sided paired t-test over the folds, 5 %): on an easy set
the two orders differ by a pair or two either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from facerec.backbones.base import Backbone
from facerec.data.shards import DataError, Shards
from facerec.evaluation import metrics
from facerec.evaluation.embed import embed
from facerec.evaluation.metrics import Verification
from facerec.values import one_of

ORDERS = ("RGB", "BGR")
_LEVEL = 0.05


@dataclass(frozen=True)
class ColourCheck:
    """What both orders of colours gave.

    Attributes:
        stated: The order that the net is said to take: `RGB` or `BGR`.
        accuracy: 10-fold accuracy in that order, a fraction; NaN where it could not be measured.
        other_accuracy: In the other order.
        warning: A sentence where the other order is better, or where nothing could be measured;
            empty where all is well.
    """

    stated: str
    accuracy: float
    other_accuracy: float
    warning: str


def compare_colours(verify: Callable[[str], Verification], stated: str = "RGB") -> ColourCheck:
    """Verifies in both orders and says whether the other one is better.

    Args:
        verify: Gives the verification of one set with its images in the order named, `RGB` or
            `BGR`; always with the same pairs and folds.
        stated: The order that the net is said to take.

    Raises:
        ValueError: An order that is neither.
    """
    one_of("stated", stated, ORDERS)
    other = next(order for order in ORDERS if order != stated)
    own, reverse = verify(stated), verify(other)
    warning = own.reason or reverse.reason
    if warning:
        warning = f"{stated} and {other} images could not be compared: {warning}"
    elif _better(reverse.fold_accuracies, own.fold_accuracies):
        warning = (
            f"the net is said to take {stated} images, but verifies {other} images better: "
            f"accuracy {reverse.accuracy:.4f} against {own.accuracy:.4f} on the same pairs"
        )
    return ColourCheck(stated, own.accuracy, reverse.accuracy, warning)


def check_colours(
    backbone: Backbone,
    shards: Shards,
    stated: str = "RGB",
    *,
    vectors: NDArray[np.float32] | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> ColourCheck:
    """Compares both orders on a prepared verification set; takes one or two passes over it.

    Args:
        backbone: On `device` already. It takes RGB images, as all backbones do; a net trained on
            BGR turns them itself, and `stated` only names the order in the sentence.
        shards: A set with pairs.
        stated: The order that the net inside was trained on, as far as is known.
        vectors: The set's embeddings by `backbone` (n, D), where they are at hand.
        batch_size: Images per pass, at most.
        device: Where the backbone is.

    Raises:
        DataError: A set without pairs, or a damaged image.
        ValueError: Images that the backbone does not take, or an order that is none.
    """
    pairs = shards.pairs()
    if pairs is None:
        raise DataError(
            f"{shards.place}: has no pairs; the order of colours is checked on a verification set"
        )
    ends = np.stack([pairs.first, pairs.second], axis=1).ravel()

    def verify(order: str) -> Verification:
        if order == stated and vectors is not None:
            return metrics.verification(vectors[ends], pairs.same)
        net = backbone if order == stated else _Reversed(backbone)
        found = embed(net, shards.split(), batch_size=batch_size, device=device)
        return metrics.verification(found.vectors[ends], pairs.same)

    return compare_colours(verify, stated)


class _Reversed(Backbone):
    """A backbone that sees red as blue."""

    def __init__(self, net: Backbone) -> None:
        super().__init__(net.input_size, net.embedding_size)
        self.net = net

    def forward(self, images: Tensor, views: int = 1) -> Tensor:
        """(b, 3, H, W) -> (b, D)."""
        embeddings: Tensor = self.net(images.flip(1), views)
        return embeddings


def _better(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether accuracies (k,) are above others of the same folds by more than chance gives."""
    differences = one - other
    folds = len(differences)
    if folds < 2:
        return False
    error = differences.std(ddof=1) / np.sqrt(folds)
    return bool(differences.mean() > stats.t.ppf(1 - _LEVEL, folds - 1) * error)
