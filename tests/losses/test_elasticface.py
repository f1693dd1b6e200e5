"""ElasticFace: the draws, who gets which, and rows without one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facerec.domains import Scalar
from facerec.draws import normal_numbers
from facerec.losses.arcface import ArcFace
from facerec.losses.elasticface import ElasticFace
from tests.losses.margins import (
    LABELS,
    assert_finite_at_the_ends,
    assert_formula,
    bend,
    make,
    points,
)

RULES = ["linear", "none", "easy", "clip"]
ZERO = torch.tensor(0)


class Fed(ElasticFace):
    """Margins as given instead of drawn."""

    fed: Tensor

    def draw(self, rows: int, step: Tensor) -> Tensor:
        return self.fed[:rows]


def fed(margins: list[float], **args: Any) -> Fed:
    margin = Fed(**args)
    margin.fed = torch.tensor(margins, dtype=torch.float64)
    return margin


@pytest.mark.parametrize(
    ("variant", "rule"), [*(("arc", rule) for rule in RULES), ("cos", "linear")]
)
def test_formula_over_two_batches(variant: str, rule: str) -> None:
    x, w = points()
    args: dict[str, Scalar] = {
        "variant": variant,
        "margin": 0.6,
        "sigma": 0.2,
        "past_pi": rule,
        "scale": 8.0,
    }
    head = make("elasticface", w, {**args})
    for step in range(2):
        drawn = (0.6 + 0.2 * normal_numbers(0, torch.tensor(step), len(LABELS))).tolist()

        def target(c: float, norm: float, row: int, e: list[float] = drawn) -> float:
            return c - e[row] if variant == "cos" else bend(c, e[row], rule)

        assert_formula(head, x, w, target)


def test_plus_gives_the_largest_margin_to_the_smallest_cosine() -> None:
    cos = torch.tensor([0.3, 0.9, -0.2, 0.6, 0.6], dtype=torch.float64)
    drawn = [0.40, 0.10, 0.50, 0.20, 0.30]
    margin = fed(drawn, variant="cos", plus=True)
    margin.observe(cos, cos, ZERO, 1.0)
    # In falling order: rows 1, 3, 4, 0, 2; of the two equal ones the earlier gets the smaller.
    expected = torch.tensor([0.40, 0.10, 0.50, 0.20, 0.30], dtype=torch.float64)
    torch.testing.assert_close(cos - margin.target(cos, cos), expected)
    margin = fed(drawn, variant="cos", plus=True, plus_assignment="reference")
    margin.observe(cos, cos, ZERO, 1.0)
    ascending, order = sorted(drawn), [1, 3, 4, 0, 2]
    official = torch.tensor([ascending[order[row]] for row in range(5)], dtype=torch.float64)
    torch.testing.assert_close(cos - margin.target(cos, cos), official)
    assert not torch.equal(expected, official)


def test_plus_is_a_sort_of_the_same_draws() -> None:
    rng = np.random.default_rng(3)
    cos = torch.from_numpy(rng.uniform(-1, 1, 64))
    plain, plus = ElasticFace("cos", plus=False), ElasticFace("cos", plus=True)
    found = []
    for margin in (plain, plus):
        margin.observe(cos, cos, ZERO, 1.0)
        found.append(cos - margin.target(cos, cos))
    torch.testing.assert_close(found[0].sort().values, found[1].sort().values)
    assert bool((found[1][cos.argsort()].diff() <= 1e-15).all())


def test_rows_without_a_draw_have_the_mean_margin() -> None:
    cos = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    margin = fed([0.7, 0.1], variant="cos", margin=0.35)
    torch.testing.assert_close(margin.target(cos, cos), cos - 0.35)
    margin.observe(cos[:2], cos[:2], ZERO, 1.0)
    found = cos - margin.target(cos, cos)
    assert found.tolist() == pytest.approx([0.7, 0.1, 0.35, 0.35])
    margin.eval()
    torch.testing.assert_close(margin.target(cos, cos), cos - 0.35)


def test_without_spread_it_is_arcface() -> None:
    cos = torch.linspace(-1, 1, 201, dtype=torch.float64)
    margin = ElasticFace(sigma=0.0)
    margin.observe(cos, cos, ZERO, 1.0)
    torch.testing.assert_close(margin.target(cos, cos), ArcFace().target(cos, cos))


@pytest.mark.parametrize("rule", ["linear", "none"])
def test_a_margin_below_0_never_passes_pi(rule: Any) -> None:
    theta = torch.tensor([0.1, 1.0, 3.1, math.pi], dtype=torch.float64)
    margin = fed([-0.3] * 4, past_pi=rule)
    cos = torch.cos(theta)
    margin.observe(cos, cos, ZERO, 1.0)
    torch.testing.assert_close(margin.target(cos, cos), torch.cos(theta - 0.3))


def test_warmup_raises_the_mean() -> None:
    margin = ElasticFace(margin_warmup=0.5)
    margin.observe(torch.zeros(4), torch.ones(4), ZERO, 0.1)
    spread = 0.05 * normal_numbers(0, ZERO, 4)
    torch.testing.assert_close(margin.draw(4, ZERO), 0.1 + spread)
    margin.eval()
    assert float(margin.target(torch.zeros(1), torch.ones(1))) == pytest.approx(-math.sin(0.1))


def test_the_seed_of_the_head_and_its_step_decide() -> None:
    x, w = points()
    rows, labels = torch.from_numpy(x), torch.tensor(LABELS)

    def losses(seed: int, steps: int, skipped: int = 0) -> list[float]:
        head = make("elasticface", w, {})
        head.margin.seed = seed
        head.step.fill_(skipped)
        return [float(head(rows, labels).loss.detach()) for _ in range(steps)]

    whole = losses(0, 3)
    assert len(set(whole)) == 3
    assert losses(0, 1, skipped=2) == whole[2:]  # as after a checkpoint
    assert losses(1, 1) != whole[:1]


@pytest.mark.parametrize("variant", ["arc", "cos"])
@pytest.mark.parametrize("rule", RULES)
def test_finite_at_the_ends(variant: Any, rule: Any) -> None:
    assert_finite_at_the_ends(ElasticFace(variant, sigma=1.0, past_pi=rule))


def test_additive_margins_over_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"margin = 1.2: .* 0 to 1 .* try 1, or variant=arc"):
        ElasticFace("cos", margin=1.2)


def split_mix(word: int) -> int:
    """SplitMix64's output function on Python's whole numbers."""
    mask = 2**64 - 1
    word &= mask
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & mask
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & mask
    return word ^ (word >> 31)


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (7, 123_456), (2**40, 2**31)])
def test_numbers_by_hand(seed: int, step: int) -> None:
    golden = 0x9E3779B97F4A7C15
    # The first outputs of the published generator from state 0.
    assert split_mix(golden) == 0xE220A8397B1DCDAF
    assert split_mix(2 * golden) == 0x6E789E6AA1B965F4
    state = np.random.SeedSequence((2, seed)).generate_state(1, np.uint64)
    start = split_mix((int(state[0]) >> 1) + step)
    uniform = [((split_mix(start + k * golden) >> 11) + 0.5) / 2**53 for k in range(1, 11)]
    expected = [
        math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)
        for u, v in zip(uniform[::2], uniform[1::2], strict=True)
    ]
    found = normal_numbers(seed, torch.tensor(step), 5)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_numbers_are_normal_and_do_not_depend_on_their_count() -> None:
    steps = torch.arange(200)
    numbers = torch.stack([normal_numbers(5, step, 500) for step in steps])
    assert torch.equal(normal_numbers(5, steps[3], 20), numbers[3, :20])
    moments = [float((numbers**power).mean()) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0.0, 1.0, 0.0, 3.0], abs=0.05)
    ranks = numbers.flatten().sort().values
    normal = 0.5 * (1 + torch.erf(ranks / math.sqrt(2)))
    even = (torch.arange(len(ranks)) + 0.5) / len(ranks)
    assert float((normal - even).abs().max()) < 1.63 / math.sqrt(len(ranks))  # Kolmogorov, 1 %
    for one, other in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])):
        assert abs(float((one * other).mean())) < 0.02
