"""SphereFace2 re-derived by slow loops: warped cosines, weighted binary loss, where b starts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facerec.head import ClassificationHead
from facerec.losses.arcface import ArcFace
from facerec.losses.base import Loss, Margin
from facerec.losses.softmax import InnerProduct
from facerec.losses.sphereface import SphereFace
from facerec.losses.sphereface2 import SphereFace2, WeightedBinaryCrossEntropy, balance_bias
from facerec.parallel import ClassShard
from tests.losses.test_formulas import by_differences, cosine, log1pexp

Array = NDArray[np.float64]
ROWS, CLASSES, SIZE = 4, 6, 5
LABELS = [2, 0, 0, 5]


def head_of(
    margin: Margin, objective: WeightedBinaryCrossEntropy, classes: int = CLASSES, rate: float = 1.0
) -> ClassificationHead:
    start = objective.start(margin, num_classes=classes, embedding_size=SIZE, sample_rate=rate)
    loss = Loss(margin, objective, start)
    return ClassificationHead(loss, ClassShard(classes), SIZE, sample_rate=rate).double()


def slow_logit(c: float, own: bool, variant: str, m: float, t: float, r: float) -> float:
    if own and variant != "C":
        theta = math.acos(c)
        c = math.cos(min(theta + m if variant == "A" else theta * (1 + m), math.pi))
    g = 2 * float(((c + 1) / 2) ** t) - 1
    if variant == "C":
        g += -m if own else m
    return r * g


@pytest.mark.parametrize("variant", ["C", "A", "M"])
@pytest.mark.parametrize(("m", "t"), [(0.4, 3.0), (0.7, 1.5), (0.0, 1.0)])
def test_value_and_gradients(variant: Any, m: float, t: float) -> None:
    rng = np.random.default_rng(8)
    x, w = rng.standard_normal((ROWS, SIZE)), rng.standard_normal((CLASSES, SIZE))
    w[5] = -x[3] + 0.3 * rng.standard_normal(SIZE)  # its angle passes π with the margin
    b = np.array([0.7])
    head = head_of(
        SphereFace2(margin=m, scale=6.0, warp=t, variant=variant),
        WeightedBinaryCrossEntropy(positive_weight=0.8, loss_weight=20.0),
    )
    bias = head.objective.bias
    assert bias is not None
    with torch.no_grad():
        head.centers.copy_(torch.from_numpy(w))
        bias.copy_(torch.from_numpy(b))

    def slow(x: Array, w: Array, b: Array) -> float:
        total = 0.0
        for row, label in zip(x, LABELS, strict=True):
            for j, center in enumerate(w):
                own = j == label
                z = slow_logit(cosine(row, center), own, variant, m, t, 6.0) + float(b[0])
                total += 0.8 * log1pexp(-z) if own else 0.2 * log1pexp(z)
        return 20.0 / 6.0 * total / len(x)

    embeddings = torch.from_numpy(x).requires_grad_()
    loss = head(embeddings, torch.tensor(LABELS)).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(slow(x, w, b), rel=1e-10)
    assert embeddings.grad is not None
    assert head.centers.grad is not None
    assert bias.grad is not None
    for ours, theirs in (
        (embeddings.grad, by_differences(lambda v: slow(v, w, b), x)),
        (head.centers.grad, by_differences(lambda v: slow(x, v, b), w)),
        (bias.grad, by_differences(lambda v: slow(x, w, v), b)),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-7 * max(1, abs(theirs).max()))


@pytest.mark.parametrize(
    ("alpha", "r", "m", "classes", "expected"),
    [
        (0.7, 40.0, 0.4, 1000, 7.943),
        (0.7, 40.0, 0.4, 10572, 5.582),
        (0.7, 40.0, 0.4, 85742, 3.488),
        (0.8, 64.0, 0.5, 1000, 10.484),
        (0.8, 64.0, 0.5, 10572, 8.121),
        (0.8, 64.0, 0.5, 85742, 6.027),
    ],
)
def test_the_authors_bias(alpha: float, r: float, m: float, classes: int, expected: float) -> None:
    start = WeightedBinaryCrossEntropy(positive_weight=alpha).start(
        SphereFace2(margin=m, scale=r), num_classes=classes, embedding_size=512, sample_rate=1.0
    )
    assert start == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("variant", "m"), [("A", 0.5), ("M", 0.7), ("M", 1.5)])
def test_the_authors_bias_of_the_other_types(variant: Any, m: float) -> None:
    alpha, r, t, classes = 0.7, 40.0, 3.0, 1000
    theta = math.pi / 2 + m if variant == "A" else (1 + m) * math.pi / 2
    ay = r * (2 * ((math.cos(min(math.pi, theta)) + 1) / 2) ** t - 1)
    ai = r * (2 * 0.5**t - 1)
    z = alpha / ((1 - alpha) * (classes - 1))
    expected = math.log(2 * z) - ai
    expected -= math.log(1 - z + math.sqrt((1 - z) ** 2 + 4 * z * math.exp(ay - ai)))
    start = WeightedBinaryCrossEntropy().start(
        SphereFace2(margin=m, variant=variant),
        num_classes=classes,
        embedding_size=512,
        sample_rate=1.0,
    )
    assert start == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize(
    "margin", [SphereFace2(), SphereFace2(variant="M"), ArcFace(scale=16.0), InnerProduct()]
)
def test_at_the_balance_the_bias_has_no_gradient_at_cosine_zero(
    margin: Margin, rate: float
) -> None:
    classes = 20
    head = head_of(margin, WeightedBinaryCrossEntropy(), classes, rate)
    with torch.no_grad():
        head.centers[:, -1] = 0.0
    x = torch.zeros(3, SIZE, dtype=torch.float64)
    x[:, -1] = 2.0
    head(x, torch.tensor([0, 1, 1])).loss.backward()
    bias = head.objective.bias
    assert bias is not None
    assert bias.grad is not None
    unbalanced = 50.0 / float(margin.scale(x[:1, -1])) * 0.3 * (rate * classes - 1)
    assert abs(float(bias.grad)) < 1e-5 * unbalanced


def test_the_balance_of_extremes_is_finite() -> None:
    for margin in (SphereFace2(scale=1e5), SphereFace2(scale=1e-5), SphereFace()):
        for ratio in (1e-9, 1.0, 1e9):
            assert math.isfinite(balance_bias(ratio, margin))
    bias = head_of(SphereFace2(), WeightedBinaryCrossEntropy(), classes=1).objective.bias
    assert bias is not None
    assert bool(bias.isfinite())


@pytest.mark.parametrize(("init", "expected"), [("zero", 0.0), ("constant", -2.5)])
def test_other_starts(init: Any, expected: float) -> None:
    objective = WeightedBinaryCrossEntropy(bias_init=init, bias_value=-2.5)
    bias = head_of(SphereFace2(), objective).objective.bias
    assert bias is not None
    assert bias.tolist() == [expected]


def test_the_bias_is_added() -> None:
    logits, scale = torch.tensor([[1.0, -2.0]]), torch.tensor(4.0)
    shifted = WeightedBinaryCrossEntropy().shift(logits, scale, torch.tensor([0.5]))
    assert shifted.tolist() == [[1.5, -1.5]]


def test_without_a_loss_weight_nothing_is_divided() -> None:
    target, others = torch.tensor([2.0]), torch.tensor([[-torch.inf, -1.0]])
    objective = WeightedBinaryCrossEntropy(positive_weight=0.6, loss_weight=None)
    rows = objective.weigh(target, objective.reduced(others, ClassShard(2)), torch.tensor(40.0))
    assert float(rows) == pytest.approx(0.6 * log1pexp(-2) + 0.4 * log1pexp(-1), rel=1e-6)


@pytest.mark.parametrize("variant", ["C", "A", "M"])
@pytest.mark.parametrize("eps", [0.0, 0.01])
@pytest.mark.parametrize("largest", [math.pi, 3.0])
def test_detached_changes_the_slope_and_not_the_value(
    variant: Any, eps: float, largest: float
) -> None:
    cos = torch.linspace(-1, 1, 41, dtype=torch.float64).requires_grad_()
    shared: dict[str, Any] = {"variant": variant, "cosine_eps": eps, "largest_angle": largest}
    detached, exact = SphereFace2(gradient="detached", **shared), SphereFace2(**shared)
    fixed = cos.detach()
    for ours, theirs in (
        (detached.target(cos, fixed), exact.target(cos, fixed)),
        (detached.others(cos[None], fixed, fixed), exact.others(cos[None], fixed, fixed)),
    ):
        torch.testing.assert_close(ours, theirs)
        (slope,) = torch.autograd.grad(ours.sum(), cos)
        assert slope.tolist() == [1.0] * 41
    lowest = -1 + eps
    if variant != "C":
        lowest = max(lowest, math.cos(largest))
    expected = slow_logit(lowest, False, variant, 0.4, 3.0, 1.0)
    assert float(exact.others(cos[None], fixed, fixed)[0, 0].detach()) == pytest.approx(expected)


@pytest.mark.parametrize("variant", ["C", "A", "M"])
@pytest.mark.parametrize("warp", [1.0, 1.2, 3.0])
def test_gradients_are_finite_at_the_ends(variant: Any, warp: float) -> None:
    ulp = torch.finfo(torch.float32).eps / 2
    cos = torch.tensor([-1 - 2 * ulp, -1.0, -1 + ulp, 0.0, 1 - ulp, 1.0, 1 + 2 * ulp])
    cos.requires_grad_()
    margin = SphereFace2(variant=variant, warp=warp)
    value = margin.target(cos, cos.detach()) + margin.others(cos[None], cos, cos)[0]
    (slope,) = torch.autograd.grad(value.sum(), cos)
    assert bool(value.isfinite().all())
    assert bool(slope.isfinite().all())
    if variant == "C":  # rounding below -1 does not lose the slope of -1
        assert float(slope[0]) == float(slope[1]) == (2.0 if warp == 1 else 0.0)


@pytest.mark.parametrize("variant", ["C", "A", "M"])
def test_no_margin_and_no_warp_is_the_cosine(variant: Any) -> None:
    cos = torch.linspace(-1, 1, 9, dtype=torch.float64)
    plain = SphereFace2(margin=0.0, warp=1.0, variant=variant)
    torch.testing.assert_close(plain.target(cos, cos), cos)
    torch.testing.assert_close(plain.others(cos[None], cos, cos)[0], cos)
    rising = SphereFace2(margin=0.6, warp=1.0, variant=variant, margin_warmup=0.5)
    rising.observe(cos, cos, torch.tensor(0), 0.25)
    half = SphereFace2(margin=0.3, warp=1.0, variant=variant)
    torch.testing.assert_close(rising.target(cos, cos), half.target(cos, cos))
