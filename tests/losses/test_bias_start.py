"""Where UniFace's bias starts: each arm re-derived, and what it does to the first step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from facerec.config import Component
from facerec.domains import Scalar
from facerec.head import ClassificationHead, build_head
from facerec.losses import build, check
from facerec.parallel import ClassShard

CLASSES, SIZE = 6, 8


def make(loss: str, args: Mapping[str, Scalar], sample_rate: float = 1.0) -> ClassificationHead:
    return build_head(Component(loss, args), ClassShard(CLASSES), SIZE, sample_rate=sample_rate)


def start(
    args: Mapping[str, Scalar], classes: int = 1000, size: int = 64, rate: float = 0.5
) -> float | None:
    return build(
        "uniface", args, num_classes=classes, embedding_size=size, sample_rate=rate
    ).bias_start


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, math.log(10 * 0.5 * 1000)),
        ({"bias_init": "zero"}, 0.0),
        ({"bias_init": "log_c"}, math.log(1000)),
        ({"bias_init": "log_c_over_eps"}, math.log(0.5 * 1000 / 0.1)),
        ({"bias_init": "log_c_over_eps", "bias_eps": 0.02}, math.log(0.5 * 1000 / 0.02)),
        ({"bias_init": "constant", "bias_value": 31.3344}, 31.3344),
        (
            {"bias_init": "analytic", "negative_weight": 0.7, "scale": 32.0},
            math.log(0.7 * (0.5 * 1000 - 1)) + 32.0**2 / 128,
        ),
    ],
)
def test_bias_by_formula(args: dict[str, Scalar], expected: float) -> None:
    assert start(args) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("classes", "expected"), [(1000, 9.210), (10572, 11.568), (93431, 13.748), (2059906, 16.841)]
)
def test_the_authors_bias(classes: int, expected: float) -> None:
    assert start({}, classes, 512, 1.0) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("weight", [0.05, 1.0, 1.7])
@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize("loss", ["cosface", "arcface"])
def test_balanced_bias_pulls_equally_at_cosine_zero(loss: str, classes: int, weight: float) -> None:
    args: dict[str, Scalar] = {
        "objective": "unified",
        "bias_init": "sphereface2_balance",
        "negative_weight": weight,
        "scale": 16.0,
    }
    parts = build(loss, args, num_classes=classes, embedding_size=SIZE, sample_rate=1.0)
    assert parts.bias_start is not None
    shift = math.sin(0.5) if loss == "arcface" else 0.35
    pull = torch.sigmoid(torch.tensor(16 * shift + parts.bias_start, dtype=torch.float64))
    push = torch.sigmoid(torch.tensor(-parts.bias_start, dtype=torch.float64))
    assert float(pull) == pytest.approx(float(push * weight * (classes - 1)), rel=1e-6)


def test_a_late_start_leaves_a_large_first_gradient() -> None:
    """At random initialisation the loss hardly moves the analytic and the measured bias."""
    classes, size = 2000, 128
    x, labels = torch.randn(64, size), torch.arange(64)
    slope = {}
    for arm in ("zero", "log_c", "analytic", "logsumexp"):
        component = Component("uniface", {"bias_init": arm, "scale": 32.0})
        head = build_head(component, ClassShard(classes), size)
        head(x, labels).loss.backward()
        assert head.objective.bias is not None
        assert head.objective.bias.grad is not None
        slope[arm] = float(head.objective.bias.grad)
    assert slope["zero"] < -500
    assert slope["log_c"] < -2
    assert abs(slope["analytic"]) < 0.3
    assert abs(slope["logsumexp"]) < 0.5


@pytest.mark.parametrize("objective", ["unified", "binary"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_logsumexp_start_is_used_at_once_and_only_once(objective: str, rate: float) -> None:
    args: dict[str, Scalar] = {"objective": objective, "bias_init": "logsumexp", "scale": 8.0}
    head = make("cosface", args, sample_rate=rate)
    x, labels = torch.randn(3, SIZE), torch.tensor([0, 4, 4])
    met = head.sample(labels)
    cos = torch.cosine_similarity(x[:, None], head.centers[met][None], dim=2)
    others = (8.0 * cos).masked_fill(met == labels[:, None], -torch.inf)
    expected = torch.logsumexp(others, 1).mean().detach()
    output = head(x, labels)
    torch.testing.assert_close(output.stats["bias"], expected)
    constant = {**args, "bias_init": "constant", "bias_value": float(expected)}
    same = make("cosface", constant, sample_rate=rate)
    torch.testing.assert_close(output.loss, same(x, labels).loss)
    torch.testing.assert_close(head(torch.randn(3, SIZE), labels).stats["bias"], expected)


def test_logsumexp_waits_for_a_batch_that_says_something() -> None:
    args: dict[str, Scalar] = {"bias_init": "logsumexp"}
    head = make("uniface", args, sample_rate=0.01)  # one class in the batch: no others
    x = torch.randn(2, SIZE)
    assert float(head(x, torch.tensor([1, 1])).stats["bias"]) == 0.0
    assert float(head(x, torch.tensor([1, 2])).stats["bias"]) != 0.0


def test_impossible_bias_starts_are_refused() -> None:
    with pytest.raises(ValueError, match="bias_init = analytic: needs more than 1 sampled class"):
        start({"bias_init": "analytic"}, classes=2, rate=0.5)
    for arm in ("analytic", "sphereface2_balance"):
        with pytest.raises(ValueError, match="InnerProduct has no constant scale"):
            check("softmax", {"objective": "unified", "bias_init": arm})
