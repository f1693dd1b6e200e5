"""The combined margin: the whole formula, its special cases, and arcface_torch's own reading."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from facerec.head import ClassificationHead
from facerec.losses.arcface import ArcFace
from facerec.losses.base import Loss
from facerec.losses.combined import CombinedMargin
from facerec.losses.cosface import CosFace
from facerec.losses.softmax import Softmax
from facerec.parallel import ClassShard
from tests.losses.test_formulas import by_differences, cosine

RULES = ["none", "easy", "linear", "clip"]
COS = torch.linspace(-1, 1, 201, dtype=torch.float64)


def slow_target(c: float, m1: float, m2: float, m3: float, rule: str) -> float:
    theta = math.acos(min(max(c, -1.0), 1.0))
    moved = m1 * theta + m2
    if rule == "easy" and c <= 0:
        return c
    if rule == "linear" and moved >= math.pi:
        added = math.pi - (math.pi - m2) / m1
        return c - max(added * math.sin(added), 1 - math.cos(added)) - m3
    if rule == "clip":
        moved = min(moved, math.pi)
    return math.cos(moved) - m3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("m", [(1.0, 0.3, 0.2), (0.9, 0.4, 0.15), (1.35, 0.0, 0.0), (4.0, 0.1, 0)])
def test_value_and_gradients(rule: Any, m: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(5)
    x, w, labels = rng.standard_normal((4, 4)), rng.standard_normal((5, 4)), [0, 3, 3, 1]
    w[1] = -x[3] + 0.1 * rng.standard_normal(4)  # its angle passes π with the margin

    def slow(x: Any, w: Any) -> float:
        total = 0.0
        for row, label in zip(x, labels, strict=True):
            cos = [cosine(row, center) for center in w]
            cos[label] = slow_target(cos[label], *m, rule)
            total += math.log(sum(math.exp(5 * (c - cos[label])) for c in cos))
        return total / 4

    margin = CombinedMargin(*m, scale=5.0, past_pi=rule)
    head = ClassificationHead(Loss(margin, Softmax(), None), ClassShard(5), 4).double()
    with torch.no_grad():
        head.centers.copy_(torch.from_numpy(w))
    embeddings = torch.from_numpy(x).requires_grad_()
    loss = head(embeddings, torch.tensor(labels)).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(slow(x, w), rel=1e-10)
    assert embeddings.grad is not None
    assert head.centers.grad is not None
    for ours, theirs in (
        (embeddings.grad, by_differences(lambda v: slow(v, w), x)),
        (head.centers.grad, by_differences(lambda v: slow(x, v), w)),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-7 * max(1, abs(theirs).max()))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gradient", ["exact", "detached"])
@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_special_cases_are_arcface_and_cosface(rule: Any, gradient: Any, eps: float) -> None:
    def both(margin: Any) -> list[torch.Tensor]:
        cos = COS.clone().requires_grad_()
        value = margin.target(cos, cos.detach())
        others = margin.others(cos[None], COS, COS)
        (slope,) = torch.autograd.grad(value.sum() + others.sum(), cos)
        return [value.detach(), others.detach(), slope]

    arc = CombinedMargin(1.0, 0.5, 0.0, 64.0, gradient, rule, eps)
    torch.testing.assert_close(both(arc), both(ArcFace(0.5, 64.0, gradient, rule, eps)))
    if rule != "easy" and gradient == "exact":
        cos = CombinedMargin(1.0, 0.0, 0.35, 64.0, gradient, rule, eps)
        torch.testing.assert_close(both(cos), both(CosFace(0.35, cosine_eps=eps)))


@pytest.mark.parametrize("m1", [0.9, 1.0, 1.4, 4.0])
@pytest.mark.parametrize("m2", [0.0, 0.5, 2.8])
def test_by_the_linear_rule_the_target_always_falls(m1: float, m2: float) -> None:
    falling = COS.flip(0)
    target = CombinedMargin(m1, m2, 0.1).target(falling, falling)
    assert bool((target.diff() < 0).all())
    assert bool((target <= falling + 1e-12).all()) or m1 < 1


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_the_filter_silences_near_others(gradient: Any) -> None:
    cos = torch.tensor([[0.41, 0.4, -0.9]], dtype=torch.float64).requires_grad_()
    margin = CombinedMargin(gradient=gradient, filter=0.4)
    rest = margin.others(cos, cos[:, 0].detach(), cos[:, 0].detach())
    assert rest.tolist() == [[0.0, 0.4, -0.9]]
    (slope,) = torch.autograd.grad(rest.sum(), cos)
    assert slope.tolist() == [[0.0, 1.0, 1.0]]
    assert margin.target(cos[:, 0], cos[:, 0]).item() != 0
    assert CombinedMargin().others(cos, cos[:, 0], cos[:, 0]) is cos


def test_insightface_compat_is_an_arc_or_a_constant() -> None:
    cos = COS.clone().requires_grad_()
    arc = CombinedMargin(1.0, 0.5, 0.0, insightface_compat=True).target(cos, COS)
    expected = torch.cos(torch.acos(COS) + 0.5)
    torch.testing.assert_close(arc.detach(), expected)
    (slope,) = torch.autograd.grad(arc.sum(), cos)
    assert slope.tolist() == [1.0] * len(COS)
    constant = CombinedMargin(1.35, 0.5, 0.4, insightface_compat=True)  # m1 and m2 do nothing
    torch.testing.assert_close(constant.target(COS, COS), COS - 0.4)
    assert CombinedMargin(1.35, 0.5, 0.0).m1 == 1.35
    with pytest.raises(ValueError, match=r"m1 = 1.35: .* try m1 = 1, or insightface_compat"):
        CombinedMargin(1.35, 0.5, 0.0, insightface_compat=True)


@pytest.mark.parametrize("rule", RULES)
def test_exact_gradients_are_finite_at_the_ends(rule: Any) -> None:
    ulp = torch.finfo(torch.float32).eps / 2
    cos = torch.tensor([-1 - 2 * ulp, -1.0, -1 + ulp, 0.0, 1 - ulp, 1.0, 1 + 2 * ulp])
    cos.requires_grad_()
    for m1 in (0.5, 1.0, 5.0):
        value = CombinedMargin(m1, past_pi=rule).target(cos, cos)
        (slope,) = torch.autograd.grad(value.sum(), cos)
        assert bool(value.isfinite().all())
        assert bool(slope.isfinite().all())


def test_warmup_moves_all_three() -> None:
    rising = CombinedMargin(1.4, 0.5, 0.4, margin_warmup=0.5)
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.9, 1.0)):
        rising.observe(COS, COS, torch.tensor(0), progress)
        fixed = CombinedMargin(1 + 0.4 * share, 0.5 * share, 0.4 * share)
        torch.testing.assert_close(rising.target(COS, COS), fixed.target(COS, COS))
