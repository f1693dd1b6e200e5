"""SphereFace and SphereFace-R re-derived by slow loops, and the two keywords of softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from facerec.head import ClassificationHead
from facerec.losses.base import Loss, Margin
from facerec.losses.softmax import Softmax
from facerec.losses.sphereface import SphereFace, chebyshev, psi
from facerec.losses.sphereface_r import SphereFaceR
from facerec.parallel import ClassShard
from tests.losses.test_formulas import by_differences, cosine

Array = NDArray[np.float64]
ROWS, CLASSES, SIZE = 5, 6, 4
LABELS = [0, 3, 3, 5, 1]
ONE = torch.ones(1, dtype=torch.float64)


def slow_psi(theta: float, m: float) -> float:
    """cos(mθ) folded down at each multiple of π, one fold at a time."""
    left, sign, floor = m * theta, 1.0, 0.0
    while left > math.pi:
        left -= math.pi
        floor -= 2.0
    return floor + sign * math.cos(left)


def points() -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    x, w = 2 * rng.standard_normal((ROWS, SIZE)), rng.standard_normal((CLASSES, SIZE))
    w[5] = -1.1 * x[3] + 0.3 * rng.standard_normal(SIZE)  # a target near the far end
    w[0] = 0.9 * x[0] + 0.1 * rng.standard_normal(SIZE)  # and one near its center
    return x, w


def head_of(margin: Margin, objective: Softmax, w: Array) -> ClassificationHead:
    head = ClassificationHead(Loss(margin, objective, None), ClassShard(CLASSES), SIZE).double()
    with torch.no_grad():
        head.centers.copy_(torch.from_numpy(w))
    return head


def slow_rows(x: Array, w: Array, m: float, annealing: float, kind: str, scale: float) -> Array:
    """Cross-entropy of each row; a scale of 0 stands for the row's norm."""
    rows = []
    for row, label in zip(x, LABELS, strict=True):
        s = scale or math.sqrt(float((row * row).sum()))
        logits = []
        for j, center in enumerate(w):
            c = cosine(row, center)
            theta = math.acos(c)
            if j == label and kind == "psi":
                c += (slow_psi(theta, m) - c) / (1 + annealing)
            if j == label and kind == "flat":
                c = math.cos(min(m * theta, math.pi))
            if j != label and kind == "others":
                c = math.cos(theta / m)
            logits.append(s * c)
        rows.append(math.log(sum(math.exp(z - logits[label]) for z in logits)))
    return np.array(rows)


def check_gradients(head: ClassificationHead, slow: Any) -> None:
    """`slow(x, w)` is the loss; its differences are the head's gradients."""
    x, w = points()
    embeddings = torch.from_numpy(x).requires_grad_()
    loss = head(embeddings, torch.tensor(LABELS)).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(slow(x, w), rel=1e-10)
    assert embeddings.grad is not None
    assert head.centers.grad is not None
    for ours, theirs in (
        (embeddings.grad, by_differences(lambda v: slow(v, w), x)),
        (head.centers.grad, by_differences(lambda v: slow(x, v), w)),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-7 * max(1, abs(theirs).max()))


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_psi_is_the_folded_cosine_and_falls_all_the_way(m: int) -> None:
    theta = torch.linspace(0, math.pi, 241, dtype=torch.float64)  # multiples of π/m among them
    cos = torch.cos(theta).requires_grad_()
    folded = psi(cos, m)
    expected = [slow_psi(float(t), m) for t in theta]
    torch.testing.assert_close(
        folded.detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert bool((folded.diff() < 0).all())
    (slope,) = torch.autograd.grad(folded.sum(), cos)
    assert bool((slope > -1e-9).all())
    assert [float(slope[0]), float(slope[-1])] == pytest.approx([m * m, m * m])


@pytest.mark.parametrize(
    ("degrees", "m", "expected"), [(0, 4, 1.0), (60, 4, -1.5), (90, 4, -3.0), (180, 4, -7.0)]
)
def test_known_angles_of_psi(degrees: float, m: int, expected: float) -> None:
    cos = torch.tensor([math.cos(math.radians(degrees))], dtype=torch.float64)
    assert float(psi(cos, m)) == pytest.approx(expected, abs=1e-12)
    assert float(chebyshev(cos, m)) == pytest.approx(math.cos(m * math.radians(degrees)))


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("scale", [None, 6.0])
def test_sphereface(m: int, scale: float | None) -> None:
    margin = SphereFace(margin=m, base=3.0, gamma=0.5, power=2.0, lambda_min=0.2, scale=scale)
    head = head_of(margin, Softmax(), points()[1])
    head.step.fill_(2)  # so this is the third batch
    annealing = 3.0 * (1 + 0.5 * 3) ** -2
    check_gradients(
        head, lambda x, w: float(slow_rows(x, w, m, annealing, "psi", scale or 0).mean())
    )


@pytest.mark.parametrize("variant", ["v0", "v1", "v2"])
@pytest.mark.parametrize("m", [1.0, 1.7, 3.0])
def test_sphereface_r(variant: Any, m: float) -> None:
    margin = SphereFaceR(margin=m, scale=5.0, variant=variant, gradient="exact")
    head = head_of(margin, Softmax(loss_weight=50.0), points()[1])
    kind = {"v0": "psi", "v1": "flat", "v2": "others"}[variant]
    check_gradients(head, lambda x, w: 10 * float(slow_rows(x, w, m, 0.0, kind, 5.0).mean()))


@pytest.mark.parametrize("variant", ["v0", "v1", "v2"])
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_detached_changes_the_slope_and_not_the_value(variant: Any, eps: float) -> None:
    cos = torch.linspace(-1, 1, 41, dtype=torch.float64).requires_grad_()
    detached = SphereFaceR(2.3, variant=variant, cosine_eps=eps)
    exact = SphereFaceR(2.3, variant=variant, cosine_eps=eps, gradient="exact")
    fixed = cos.detach()
    for ours, theirs in (
        (detached.target(cos, fixed), exact.target(cos, fixed)),
        (detached.others(cos[None], fixed, fixed), exact.others(cos[None], fixed, fixed)),
    ):
        torch.testing.assert_close(ours, theirs)
        (slope,) = torch.autograd.grad(ours.sum(), cos)
        assert slope.tolist() == [1.0] * 41
    limited = exact.others(torch.tensor([[1.0]], dtype=torch.float64), ONE, ONE)
    theta = math.acos(1 - eps)
    assert float(limited) == pytest.approx(math.cos(theta / 2.3 if variant == "v2" else theta))


@pytest.mark.parametrize("variant", ["v0", "v1", "v2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_gradients_are_finite_at_the_ends(variant: Any, dtype: torch.dtype) -> None:
    ulp = torch.finfo(dtype).eps / 2
    cos = torch.tensor([-1 - ulp, -1.0, -1 + ulp, 0.0, 1 - ulp, 1.0, 1 + 2 * ulp], dtype=dtype)
    cos.requires_grad_()
    for m in (1.0, 1.5, 4.0):
        margin = SphereFaceR(margin=m, variant=variant, gradient="exact")
        value = margin.target(cos, cos.detach()) + margin.others(cos[None], cos, cos)[0]
        (slope,) = torch.autograd.grad(value.sum(), cos)
        assert bool(value.isfinite().all())
        assert bool(slope.isfinite().all())


def test_the_factor_warms_up_from_one() -> None:
    margin = SphereFaceR(margin=1.8, variant="v1", gradient="exact", margin_warmup=0.5)
    margin.observe(ONE, ONE, torch.tensor(0), 0.125)
    cos = torch.tensor([0.3], dtype=torch.float64)
    assert float(margin.target(cos, ONE)) == pytest.approx(math.cos(1.2 * math.acos(0.3)))


@pytest.mark.parametrize(
    ("margin", "batches", "expected"),
    [
        (SphereFace(), 1, 1000 / 1.12),
        (SphereFace(), 1658, 1000 / (1 + 0.12 * 1658)),
        (SphereFace(), 1659, 5.0),
        (SphereFace(base=1500.0, gamma=0.1), 1, 1363.6363636),
        (SphereFace(gamma=1e-4, power=2.0, scale=32.0), 10_000, 250.0),
        (SphereFace(base=0.0, lambda_min=0.0), 7, 0.0),
    ],
)
def test_annealing(margin: SphereFace, batches: int, expected: float) -> None:
    margin.observe(ONE, ONE, torch.tensor(batches - 1), 0.0)
    assert float(margin.annealing) == pytest.approx(expected, rel=1e-6)
    fresh = SphereFace()
    fresh.load_state_dict(margin.state_dict())
    assert float(fresh.annealing) == float(margin.annealing)


def test_annealing_starts_as_that_of_the_first_batch_and_moves_in_training_only() -> None:
    head = head_of(SphereFace(), Softmax(), points()[1])
    margin = head.margin
    assert isinstance(margin, SphereFace)
    x, labels = torch.from_numpy(points()[0]), torch.tensor(LABELS)
    found = [float(margin.annealing)]
    for training in (True, False, True):
        head.train(training)(x, labels)
        found.append(float(margin.annealing))
    first, second = 1000 / 1.12, 1000 / 1.24
    assert found == pytest.approx([first, first, first, second], rel=1e-6)


@pytest.mark.parametrize("focal", [0.5, 2.0])
def test_focal_weighs_rows_by_how_wrong_they_are(focal: float) -> None:
    x, w = points()
    rows = slow_rows(x, w, 1, 0.0, "psi", 5.0)
    fixed = (1 - np.exp(-rows)) ** focal  # a constant, so held while differences are taken
    head = head_of(SphereFace(margin=1, scale=5.0), Softmax(focal=focal), w)
    check_gradients(head, lambda x, w: float((fixed * slow_rows(x, w, 1, 0.0, "psi", 5.0)).mean()))


def test_loss_weight_over_the_norm_is_a_constant_that_short_rows_do_not_blow_up() -> None:
    x, w = points()
    x[2] *= 0.1 / math.sqrt(float((x[2] ** 2).sum()))
    norms = np.maximum(np.sqrt((x**2).sum(axis=1)), 1.0)
    head = head_of(SphereFace(margin=1), Softmax(loss_weight=3.0), w)
    embeddings = torch.from_numpy(x).requires_grad_()
    loss = head(embeddings, torch.tensor(LABELS)).loss
    loss.backward()

    def slow(v: Array) -> float:
        return float((3.0 / norms * slow_rows(v, w, 1, 0.0, "psi", 0.0)).mean())

    assert float(loss.detach()) == pytest.approx(slow(x))
    assert embeddings.grad is not None
    np.testing.assert_allclose(embeddings.grad.numpy(), by_differences(slow, x), atol=1e-6)


def test_focal_of_a_certain_row_is_zero_and_has_no_gradient() -> None:
    target = torch.tensor([900.0, torch.inf], requires_grad=True)
    others: Tensor = torch.tensor([[-torch.inf, 0.0], [1.0, 2.0]])
    objective = Softmax(focal=0.5)
    rows = objective.weigh(target, objective.reduced(others, ClassShard(2)), torch.tensor(1.0))
    (slope,) = torch.autograd.grad(rows.sum(), target)
    assert rows.tolist() == [0.0, 0.0]
    assert slope.tolist() == [0.0, 0.0]
