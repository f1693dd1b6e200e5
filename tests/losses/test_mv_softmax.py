"""MV-Softmax: which classes are hard, what becomes of them, and the two margins."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from facerec.domains import Scalar
from facerec.losses.arcface import ArcFace
from facerec.losses.cosface import CosFace
from facerec.losses.mv_softmax import MVSoftmax
from tests.losses.margins import (
    assert_finite_at_the_ends,
    assert_formula,
    make,
    points,
    slopes,
)

ONE = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize("variant", ["am", "arc"])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("rule", ["easy", "none"])
def test_formula(variant: str, adaptive: bool, rule: str) -> None:
    x, w = points()
    m, t = 0.45, 0.3

    def tau(c: float) -> float:
        return c - m if variant == "am" else math.cos(math.acos(c) + m)

    def target(c: float, norm: float, row: int) -> float:
        return c if rule == "easy" and c <= 0 else tau(c)

    def others(c: float, own: float, row: int) -> float:
        if c <= tau(own):
            return c
        return c * (t + 1) + t if adaptive else c + t

    args: dict[str, Scalar] = {
        "variant": variant,
        "adaptive": adaptive,
        "past_pi": rule,
        "scale": 8.0,
    }
    assert_formula(
        make("mv_softmax", w, {**args, "margin": m, "hard_weight": t}), x, w, target, others
    )


def test_hard_classes_are_those_above_tau_also_where_the_easy_rule_keeps_the_target() -> None:
    margin = MVSoftmax(margin=0.35, hard_weight=0.2)
    own = torch.tensor([-0.1], dtype=torch.float64)
    cos = torch.tensor([[-0.5, -0.4501, -0.3, 0.8]], dtype=torch.float64).requires_grad_()
    assert margin.target(own, ONE).tolist() == [-0.1]
    found = margin.others(cos, own, ONE)
    expected = [-0.5, -0.4501, -0.3 * 1.2 + 0.2, 0.8 * 1.2 + 0.2]
    assert found.tolist()[0] == pytest.approx(expected)
    assert slopes(found, cos).tolist()[0] == pytest.approx([1, 1, 1.2, 1.2])


def test_without_weight_it_is_the_plain_margin() -> None:
    cos = torch.linspace(-1, 1, 101, dtype=torch.float64)
    square = cos.expand(101, -1)
    norm = torch.ones(101, dtype=torch.float64)
    plain: list[tuple[Any, Any]] = [
        (MVSoftmax("am", 0.35, 0.0, False, past_pi="none"), CosFace(0.35)),
        (MVSoftmax("arc", 0.6, 0.0, False, past_pi="none"), ArcFace(0.6, past_pi="none")),
        (MVSoftmax("arc", 0.6, 0.0, False, past_pi="easy"), ArcFace(0.6, past_pi="easy")),
    ]
    for ours, theirs in plain:
        torch.testing.assert_close(ours.target(cos, norm), theirs.target(cos, norm))
        assert torch.equal(ours.others(square, cos, norm), square)
    easy = MVSoftmax("am", 0.35, 0.0, False).target(cos, norm)
    torch.testing.assert_close(easy, torch.where(cos > 0, cos - 0.35, cos))


def test_warmup_moves_tau() -> None:
    margin = MVSoftmax(margin=0.4, margin_warmup=0.5)
    own, cos = 0.5 * ONE, torch.tensor([[0.2]], dtype=torch.float64)
    for progress, hard in ((0.0, False), (0.25, False), (0.5, True)):
        margin.observe(own, ONE, torch.tensor(0), progress)
        assert float(margin.target(own, ONE)) == pytest.approx(0.5 - min(1, 2 * progress) * 0.4)
        assert (float(margin.others(cos, own, ONE)) != 0.2) is hard


@pytest.mark.parametrize("variant", ["am", "arc"])
@pytest.mark.parametrize("rule", ["easy", "none"])
def test_finite_at_the_ends(variant: Any, rule: Any) -> None:
    assert_finite_at_the_ends(MVSoftmax(variant, past_pi=rule))


def test_additive_margins_over_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"margin = 1.2: .* 0 to 1 .* try 1, or variant=arc"):
        MVSoftmax(margin=1.2)
    assert MVSoftmax("arc", 1.2).margin == 1.2
