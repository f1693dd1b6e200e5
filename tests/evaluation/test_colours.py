"""Which order of colours a net takes: by folds made by hand, and by nets that know one colour."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facerec.backbones.base import Backbone, shrink
from facerec.data.shards import DataError, Shards
from facerec.evaluation import metrics
from facerec.evaluation.colours import check_colours, compare_colours
from facerec.evaluation.embed import embed
from facerec.evaluation.metrics import Verification


class Red(Backbone):
    """Knows identities by the first channel alone, and by its weights where it looks."""

    def __init__(self, weights: tuple[float, float, float]) -> None:
        super().__init__(input_size=64, embedding_size=2)
        self.weights = torch.nn.Parameter(torch.tensor(weights))

    def forward(self, images: Tensor, views: int = 1) -> Tensor:
        means = shrink(images, self.input_size).mean(dim=(2, 3))
        angle = 3 * (means @ self.weights)
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def folds(*accuracies: float, reason: str = "") -> Verification:
    values = np.array(accuracies)
    mean = float(values.mean())
    return Verification(mean, float(values.std()), values, values, 0.5, 1e-3, reason)


GOOD = (0.91, 0.90, 0.92, 0.91, 0.90, 0.93, 0.91, 0.92, 0.90, 0.91)
BETTER = tuple(value + 0.02 + 0.01 * (fold % 2) for fold, value in enumerate(GOOD))
LUCKY = (*GOOD[:9], GOOD[9] + 0.02)  # one fold, by chance


@pytest.mark.parametrize("stated", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("own", "other", "warns"),
    [(GOOD, BETTER, True), (BETTER, GOOD, False), (GOOD, GOOD, False), (GOOD, LUCKY, False)],
)
def test_a_warning_where_the_other_order_is_better(
    stated: str, own: tuple[float, ...], other: tuple[float, ...], warns: bool
) -> None:
    wrong = "BGR" if stated == "RGB" else "RGB"
    asked: list[str] = []

    def verify(order: str) -> Verification:
        asked.append(order)
        return folds(*(own if order == stated else other))

    found = compare_colours(verify, stated)
    assert asked == [stated, wrong]
    assert (found.stated, found.accuracy) == (stated, float(np.mean(own)))
    assert found.other_accuracy == float(np.mean(other))
    expected = (
        f"the net is said to take {stated} images, but verifies {wrong} images better: accuracy "
        f"{np.mean(other):.4f} against {np.mean(own):.4f} on the same pairs"
    )
    assert found.warning == (expected if warns else "")


def test_what_cannot_be_compared() -> None:
    found = compare_colours(lambda _: folds(math.nan, math.nan, reason="all alike"), "BGR")
    assert math.isnan(found.accuracy)
    assert found.warning == "BGR and RGB images could not be compared: all alike"
    assert compare_colours(lambda order: folds(0.5 + 0.1 * (order == "BGR"))).warning == ""
    with pytest.raises(ValueError, match="stated = 'rgb': takes RGB, BGR"):
        compare_colours(lambda _: folds(*GOOD), "rgb")


@pytest.mark.parametrize("stated", ["RGB", "BGR"])
def test_a_net_that_knows_one_colour(toy_pairs: Path, stated: str) -> None:
    shards = Shards(toy_pairs)
    pairs, split = shards.pairs(), shards.split()
    assert pairs is not None
    ends = [end for pair in zip(pairs.first, pairs.second, strict=True) for end in pair]
    accuracy = []
    for weights in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)):
        vectors = embed(Red(weights), split).vectors
        accuracy.append(metrics.verification(vectors[ends], pairs.same).accuracy)
    assert accuracy[0] != accuracy[1]
    worse, better = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    if accuracy[0] > accuracy[1]:
        worse, better = better, worse

    backbone = Red(worse).train()
    found = check_colours(backbone, shards, stated)
    assert (found.accuracy, found.other_accuracy) == (min(accuracy), max(accuracy))
    assert found.warning.startswith(f"the net is said to take {stated} images, but verifies ")
    assert backbone.training
    right = check_colours(Red(better), shards, stated)
    assert (right.accuracy, right.other_accuracy, right.warning) == (*sorted(accuracy)[::-1], "")
    at_hand = check_colours(Red(better), shards, stated, vectors=embed(Red(worse), split).vectors)
    assert at_hand.accuracy == at_hand.other_accuracy == min(accuracy)


def test_a_set_without_pairs(toy_shards: Path) -> None:
    with pytest.raises(DataError, match="has no pairs; the order of colours is checked on a verif"):
        check_colours(Red((1.0, 0.0, 0.0)), Shards(toy_shards))
