"""CurricularFace: the running hardness by hand, hard classes, and rules past π."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from facerec.domains import Scalar
from facerec.losses.curricularface import CurricularFace
from tests.losses.margins import (
    LABELS,
    assert_finite_at_the_ends,
    assert_formula,
    bend,
    make,
    points,
    slopes,
)
from tests.losses.test_formulas import cosine

RULES = ["none", "easy", "linear", "clip"]
ONE = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES)
def test_formula_and_state_over_two_batches(rule: str) -> None:
    x, w = points()
    m, momentum, t = 0.7, 0.3, 0.0
    args: dict[str, Scalar] = {
        "margin": m,
        "scale": 8.0,
        "cosine_momentum": momentum,
        "past_pi": rule,
    }
    head = make("curricularface", w, {**args})
    for batch in (x, x[::-1].copy()):
        mean = np.mean([cosine(row, w[y]) for row, y in zip(batch, LABELS, strict=True)])
        t = momentum * float(mean) + (1 - momentum) * t

        def others(c: float, own: float, row: int, t: float = t) -> float:
            return c * (t + c) if c > math.cos(math.acos(own) + m) else c

        assert_formula(head, batch, w, lambda c, norm, row: bend(c, m, rule), others)
        assert isinstance(head.margin, CurricularFace)
        assert float(head.margin.hardness) == pytest.approx(t, abs=1e-14)


def test_hard_classes_shrink_early_and_their_slope_is_t_plus_2c() -> None:
    margin = CurricularFace().double()
    own = torch.tensor([0.4], dtype=torch.float64)
    for t in (0.0, 0.7):
        margin.hardness.fill_(t)
        cos = torch.tensor([[-0.9, 0.3, 0.6]], dtype=torch.float64).requires_grad_()
        found = margin.others(cos, own, ONE)
        assert found.tolist()[0] == pytest.approx([-0.9, 0.3 * (t + 0.3), 0.6 * (t + 0.6)])
        assert slopes(found, cos).tolist()[0] == pytest.approx([1, t + 0.6, t + 1.2])


def test_the_linear_rule_does_not_enter_the_comparison() -> None:
    """At θ = π the target is -1.24 by the linear rule, and -0.88 is what classes are held to."""
    own = torch.tensor([-1.0], dtype=torch.float64)
    cos = torch.tensor([[-0.95, -0.8]], dtype=torch.float64)
    margin = CurricularFace(0.5).double()
    assert float(margin.target(own, ONE)) == pytest.approx(-1 - 0.5 * math.sin(0.5))
    assert margin.others(cos, own, ONE).tolist()[0] == pytest.approx([-0.95, 0.64])


def test_evaluation_leaves_the_state_alone_and_the_state_is_saved() -> None:
    x, w = points()
    head = make("curricularface", w, {})
    rows, labels = torch.from_numpy(x), torch.tensor(LABELS)
    head(rows, labels)
    after = head.state_dict()["margin.hardness"].clone()
    assert float(after) != 0
    head.eval()
    head(rows, labels)
    assert torch.equal(head.state_dict()["margin.hardness"], after)


@pytest.mark.parametrize("rule", RULES)
def test_finite_at_the_ends(rule: Any) -> None:
    assert_finite_at_the_ends(CurricularFace(past_pi=rule))
