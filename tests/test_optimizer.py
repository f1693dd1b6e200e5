from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from facerec.config import Component, OptimizerConfig
from facerec.head import ClassificationHead, build_head
from facerec.optimizer import clip_gradients, learning_rate, make_optimizer, rate_at
from facerec.parallel import ClassShard


def test_step_multiplies_at_each_milestone() -> None:
    rates = [
        learning_rate("step", t, peak=0.1, milestones=(0.5, 0.75)) for t in (0.0, 0.49, 0.5, 0.8)
    ]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_poly_and_cosine_fall_from_the_peak_to_zero_after_the_warm_up() -> None:
    for schedule in ("poly", "cosine"):
        rates = [
            learning_rate(schedule, t, peak=0.4, warmup=0.2, power=2.0)
            for t in (0.0, 0.1, 0.2, 1.0)
        ]
        assert rates == pytest.approx([0.0, 0.2, 0.4, 0.0])
    assert learning_rate("poly", 0.6, peak=1.0, warmup=0.2, power=2.0) == pytest.approx(0.25)
    assert learning_rate("cosine", 0.6, peak=1.0, warmup=0.2) == pytest.approx(0.5)


def test_one_cycle_rises_for_three_tenths_and_is_continuous() -> None:
    rates = [learning_rate("one_cycle", t / 1000, peak=1.0) for t in range(1001)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[300] == pytest.approx(1.0)
    assert rates[1000] == pytest.approx(0.0, abs=1e-12)
    assert max(abs(a - b) for a, b in pairwise(rates)) < 0.006
    assert all(math.isfinite(rate) for rate in rates)


def test_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="one_cycle"):
        learning_rate("linear", 0.5, peak=1.0)


def test_fractions_fall_on_the_very_step_where_the_epoch_ends() -> None:
    config = OptimizerConfig(schedule="step", milestones="16/28,24/28")
    for per_epoch in (1, 3, 7, 49, 958, 1916, 5686, 11372):
        total = 28 * per_epoch
        for epoch, before, after in ((16, 0.1, 0.01), (24, 0.01, 0.001)):
            step = epoch * per_epoch
            assert rate_at(config, step - 1, total, 28) == pytest.approx(before)
            assert rate_at(config, step, total, 28) == pytest.approx(after)


def test_milestones_are_numbers_or_fractions() -> None:
    assert OptimizerConfig(milestones="6/7, 0.5").milestone_fractions == (0.5, 6 / 7)
    assert OptimizerConfig(milestones="").milestone_fractions == ()
    for wrong in ("1/0", "half", "1/2/3", "8/7", "nan"):
        with pytest.raises(ValueError, match="milestones"):
            OptimizerConfig(milestones=wrong)


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.PReLU(4), nn.Linear(4, 8), nn.LayerNorm(8)
    )


def head() -> ClassificationHead:
    made = build_head(Component("uniface"), ClassShard(5, 0, 1), 8)
    assert isinstance(made, ClassificationHead)
    return made


@pytest.mark.parametrize(
    ("no_decay", "spared"),
    [
        ("", set()),
        ("norm", {"1.weight", "1.bias", "4.weight", "4.bias"}),
        ("bias", {"0.bias", "1.bias", "3.bias", "4.bias"}),
        ("prelu, bias", {"2.weight", "0.bias", "1.bias", "3.bias", "4.bias"}),
    ],
)
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_no_decay_spares_these_parameters_of_the_backbone(
    name: str, no_decay: str, spared: set[str]
) -> None:
    backbone, classes = net(), head()
    config = OptimizerConfig(name=name, no_decay=no_decay, weight_decay=0.3)
    optimizer = make_optimizer(config, backbone, classes)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    listed = [p for group in optimizer.param_groups for p in group["params"]]
    everything = [*backbone.parameters(), *classes.parameters()]
    assert sorted(map(id, listed)) == sorted(map(id, everything)), "each once"
    for key, parameter in backbone.named_parameters():
        assert decay[id(parameter)] == (0.0 if key in spared else 0.3), key
    assert all(decay[id(parameter)] == 0.3 for parameter in classes.parameters())


def test_an_unknown_kind_of_no_decay_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no_decay = 'norms'.*Did you mean norm\?"):
        OptimizerConfig(no_decay="bias,norms")


@pytest.mark.parametrize("scope", ["all", "backbone"])
def test_the_clip_takes_the_norm_of_its_scope(scope: str) -> None:
    torch.manual_seed(0)
    backbone, classes = net(), head()
    for parameter in [*backbone.parameters(), *classes.parameters()]:
        parameter.grad = torch.randn_like(parameter)
    own = [p.grad.clone() for p in backbone.parameters() if p.grad is not None]
    rest = [p.grad.clone() for p in classes.parameters() if p.grad is not None]
    clip_gradients(OptimizerConfig(clip_norm=0.5, clip_scope=scope), backbone, classes)
    inside = own + rest if scope == "all" else own
    factor = 0.5 / torch.cat([gradient.flatten() for gradient in inside]).norm()
    assert factor < 1
    for parameter, gradient in zip(backbone.parameters(), own, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * factor)
    for parameter, gradient in zip(classes.parameters(), rest, strict=True):
        kept = gradient * factor if scope == "all" else gradient
        torch.testing.assert_close(parameter.grad, kept)
