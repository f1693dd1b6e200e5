"""MagFace: margins and penalty by the norm, the gradient through both, and the bound on λ."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from facerec.domains import Scalar
from facerec.losses.magface import MagFace
from tests.losses.margins import (
    assert_finite_at_the_ends,
    assert_formula,
    bend,
    make,
    points,
)

RULES = ["easy", "linear", "none", "clip"]


@pytest.mark.parametrize(("variant", "rule"), [*(("arc", rule) for rule in RULES), ("cos", "easy")])
def test_formula(variant: str, rule: str) -> None:
    x, w = points(4.0, 130.0)
    low, high, short, long, weight = 0.3, 0.9, 8.0, 100.0, 40.0
    args: dict[str, Scalar] = {
        "margin_low": low,
        "margin_high": high,
        "norm_low": short,
        "norm_high": long,
    }
    head = make(
        "magface",
        w,
        {**args, "lambda_g": weight, "scale": 8.0, "variant": variant, "past_pi": rule},
    )

    def clipped(norm: float) -> float:
        return min(max(norm, short), long)

    def target(c: float, norm: float, row: int) -> float:
        margin = (high - low) / (long - short) * (clipped(norm) - short) + low
        return c - margin if variant == "cos" else bend(c, margin, rule)

    def penalty(norm: float) -> float:
        return weight * (clipped(norm) / long**2 + 1 / clipped(norm))

    assert_formula(head, x, w, target, penalty=penalty)


def test_margins_and_their_slopes() -> None:
    norm = torch.tensor([1.0, 10.0, 60.0, 110.0, 500.0], dtype=torch.float64).requires_grad_()
    margins = MagFace().margins(norm)
    assert margins.tolist() == pytest.approx([0.45, 0.45, 0.625, 0.8, 0.8])
    (slope,) = torch.autograd.grad(margins.sum(), norm)
    assert slope[[0, 2, 4]].tolist() == pytest.approx([0.0, 0.0035, 0.0])


def test_the_penalty_is_smallest_at_the_upper_norm() -> None:
    norm = torch.linspace(1, 200, 400, dtype=torch.float64)
    penalty = MagFace().penalty(norm)
    inside = (norm >= 10) & (norm <= 110)
    assert bool((penalty[inside].diff() < 0).all())
    assert float(penalty.min()) == pytest.approx(35 * 2 / 110)
    assert float(penalty.max()) == pytest.approx(35 * (10 / 110**2 + 1 / 10))


def test_the_default_weight_is_the_papers_and_follows_the_bound() -> None:
    assert MagFace().lambda_g == pytest.approx(35.0, rel=1e-14)
    assert MagFace(scale=32.0).lambda_g == pytest.approx(17.5, rel=1e-14)
    assert MagFace(lambda_ratio=1.0).lambda_g == pytest.approx(22.58666666666667)
    assert MagFace(lambda_g=30.0, lambda_ratio=4.0).lambda_g == 30.0
    assert MagFace(margin_low=0.5, margin_high=0.5).lambda_g == 0.0


def test_at_the_bound_the_penalty_falls_at_the_lowest_norm_as_fast_as_the_margin_can_raise() -> (
    None
):
    margin = MagFace(0.3, 0.9, 5.0, 50.0, lambda_ratio=1.0, scale=32.0)
    norm = torch.tensor([5.0], dtype=torch.float64).requires_grad_()
    penalty = margin.penalty(norm)
    assert penalty is not None
    (slope,) = torch.autograd.grad(penalty.sum(), norm)
    assert float(slope) == pytest.approx(-32.0 * (0.9 - 0.3) / 45)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lambda_g": 20.0}, "lambda_g = 20.0: .*takes 22.5867 or more .*try 22.5867"),
        ({"lambda_g": 35.0, "scale": 128.0}, "takes 45.1733 or more"),
        ({"margin_high": 0.4}, "margin_high = 0.4: .*margin_low = 0.45 or more; try 0.45"),
        ({"norm_high": 10.0}, "norm_high = 10.0: .*above norm_low = 10.0; try 20"),
        ({"variant": "cos", "margin_high": 1.1}, "margin_high = 1.1: .*0 to 1 .*try 1, or"),
    ],
)
def test_what_cannot_be_is_refused_and_what_is_proposed_is_right(
    args: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        MagFace(**args)
    keyword, proposed = next(iter(args)), str(caught.value).split("; try ")[1].split(",")[0]
    if keyword != "variant":
        assert MagFace(**{**args, keyword: float(proposed)})


def test_warmup_raises_margins_and_leaves_the_penalty() -> None:
    margin, norm = MagFace(margin_warmup=0.5), torch.tensor([60.0], dtype=torch.float64)
    whole = margin.penalty(norm)
    margin.observe(norm, norm, torch.tensor(0), 0.25)
    assert float(margin.margins(norm)) == pytest.approx(0.625 / 2)
    assert torch.equal(margin.penalty(norm), whole)
    cos = torch.tensor([0.3], dtype=torch.float64)
    assert float(margin.target(cos, norm)) == pytest.approx(math.cos(math.acos(0.3) + 0.3125))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("variant", ["arc", "cos"])
def test_finite_at_the_ends(rule: Any, variant: Any) -> None:
    assert_finite_at_the_ends(MagFace(past_pi=rule, variant=variant))
