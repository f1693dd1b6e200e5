"""AdaFace: the running statistics by hand, the three kinds of margin, and no gradient by norms."""

from __future__ import annotations

import math

import pytest
import torch

from facerec.domains import Scalar
from facerec.losses.adaface import AdaFace
from tests.losses.margins import (
    LABELS,
    assert_finite_at_the_ends,
    assert_formula,
    make,
    points,
)

ZERO = torch.tensor(0)


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def by_hand(norms: list[float], mean: float, std: float, momentum: float) -> tuple[float, float]:
    kept = [clip(n, 1e-3, 100.0) for n in norms]
    average = sum(kept) / len(kept)
    deviation = math.sqrt(sum((n - average) ** 2 for n in kept) / (len(kept) - 1))
    return (
        momentum * average + (1 - momentum) * mean,
        momentum * deviation + (1 - momentum) * std,
    )


@pytest.mark.parametrize("eps", [1e-3, 0.1, 0.0])
def test_formula_and_state_over_three_batches(eps: float) -> None:
    m, h, momentum = 0.45, 0.6, 0.3
    mean, std = 20.0, 100.0
    args: dict[str, Scalar] = {
        "margin": m,
        "concentration": h,
        "norm_momentum": momentum,
        "cosine_eps": eps,
    }
    head = make("adaface", points()[1], {**args, "scale": 8.0})
    for shortest, longest in ((5.0, 40.0), (1e-4, 900.0), (30.0, 30.5)):
        x, w = points(shortest, longest)
        norms = [math.sqrt(float((row**2).sum())) for row in x]
        mean, std = by_hand(norms, mean, std, momentum)
        # Detached: the quality stays that of the point where the gradient is taken.
        quality = [clip(h * (clip(n, 1e-3, 100) - mean) / (std + 1e-3), -1, 1) for n in norms]

        def target(c: float, norm: float, row: int, q: list[float] = quality) -> float:
            theta = math.acos(clip(c, -1 + eps, 1 - eps)) - m * q[row]
            return math.cos(clip(theta, eps, math.pi - eps)) - m - m * q[row]

        if shortest < 1:
            # Central differences of a row of length 1e-4 need another step: values only.
            loss = head(torch.from_numpy(x), torch.tensor(LABELS)).loss
            assert bool(loss.isfinite())
        else:
            assert_formula(head, x, w, target, lambda c, own, row: clip(c, -1 + eps, 1 - eps))
        assert isinstance(head.margin, AdaFace)
        assert float(head.margin.batch_mean) == pytest.approx(mean, rel=1e-13)
        assert float(head.margin.batch_std) == pytest.approx(std, rel=1e-13)


@pytest.mark.parametrize("theta", [0.5, 1.2, 2.0])
def test_the_three_kinds_of_margin(theta: float) -> None:
    margin = AdaFace(margin=0.4, concentration=1.0).double()
    margin.batch_std.fill_(1.0)
    cos = torch.full((3,), math.cos(theta), dtype=torch.float64)
    norm = torch.tensor([1.0, 20.0, 90.0], dtype=torch.float64)
    assert margin.quality(norm).tolist() == [-1.0, 0.0, 1.0]
    expected = [math.cos(theta + 0.4), math.cos(theta) - 0.4, math.cos(theta - 0.4) - 0.8]
    assert margin.target(cos, norm).tolist() == pytest.approx(expected)


def test_no_gradient_passes_through_norms() -> None:
    margin = AdaFace().double()
    norm = torch.tensor([3.0, 50.0], dtype=torch.float64).requires_grad_()
    assert not margin.target(torch.tensor([0.1, 0.9], dtype=torch.float64), norm).requires_grad


def test_one_row_leaves_the_statistics_alone() -> None:
    margin = AdaFace(norm_momentum=1.0)
    for rows, expected in ((1, (20.0, 100.0)), (2, (7.0, 0.0)), (1, (7.0, 0.0))):
        margin.observe(torch.zeros(rows), torch.full((rows,), 7.0), ZERO, 0.0)
        assert (float(margin.batch_mean), float(margin.batch_std)) == expected


def test_evaluation_leaves_the_state_alone_and_the_state_is_saved() -> None:
    x, w = points(5.0, 40.0)
    head = make("adaface", w, {})
    rows, labels = torch.from_numpy(x), torch.tensor(LABELS)
    head(rows, labels)
    state = {name: value.clone() for name, value in head.state_dict().items()}
    assert float(state["margin.batch_mean"]) != 20
    assert float(state["margin.batch_std"]) != 100
    head.eval()
    head(rows[:3] * 5, labels[:3])
    for name, value in head.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("eps", [1e-3, 0.0])
@pytest.mark.parametrize("concentration", [0.333, 50.0])
def test_finite_at_the_ends(eps: float, concentration: float) -> None:
    assert_finite_at_the_ends(AdaFace(cosine_eps=eps, concentration=concentration))
