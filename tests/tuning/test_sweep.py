"""A sweep is checked when it is made: before data is drawn, and long before Ray starts."""

from __future__ import annotations

from typing import Any

import pytest

from facerec.config import ConfigError
from facerec.domains import Choice, IntUniform, LogUniform, Uniform
from tests.tuning.conftest import PAPER, small_sweep

MARGIN = {"loss.margin": Uniform(0.0, 0.7)}


def test_a_setting_changes_the_base_and_nothing_else() -> None:
    sweep = small_sweep()
    config = sweep.config({"loss.margin": 0.1, "loss.scale": 32.0})
    assert dict(config.loss.args) == {"margin": 0.1, "scale": 32.0}
    assert config.optimizer == sweep.base.optimizer


def test_every_kind_of_domain_is_taken() -> None:
    space = {
        "loss.margin": Uniform(0.0, 0.7),
        "optimizer.lr": LogUniform(0.01, 0.2),
        "seed": IntUniform(1, 5),
        "optimizer.schedule": Choice(("cosine", "one_cycle")),
    }
    assert small_sweep(space=space, points=()).space == space


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {"loss.margn": Uniform(0, 1)}}, ["loss.margn", "margin"]),
        ({"space": {"optimiser.lr": Uniform(0.1, 1)}}, ["optimiser.lr", "optimizer.lr"]),
        ({"space": {"loss.margin": Uniform(0.0, 7.0)}}, ["loss.margin", "7"]),
        ({"space": {"data.batch_size": Uniform(8, 64)}}, ["data.batch_size", "whole number"]),
        ({"space": {"optimizer.schedule": Choice(("cosin", "poly"))}}, ["cosin", "cosine"]),
        ({"space": {"loss.margin": (0, 1)}}, ["loss.margin", "Uniform"]),
        ({"space": {"loss.name": Choice(("cosface", "arcface"))}}, ["loss.name", "one sweep each"]),
        ({"space": {"epochs": Uniform(1, 9)}}, ["epochs", "ranked"]),
        ({"space": {}}, ["space", "empty"]),
        ({"points": ({"loss.margin": 0.4},)}, ["points[0]", "lacks loss.scale"]),
        ({"points": (PAPER, PAPER | {"loss.scale": 4.0})}, ["points[1]", "loss.scale = 4.0"]),
        ({"points": (PAPER | {"loss.scal": 4.0},)}, ["loss.scal", "Did you mean loss.scale"]),
        ({"trials": 0}, ["trials = 0", "1 or more"]),
        ({"workers": -1}, ["workers = -1"]),
        ({"confirm": -1}, ["confirm = -1", "0 or more"]),
        ({"seeds": 0}, ["seeds = 0", "1 or more"]),
        ({"name": "my sweep"}, ["'my sweep'"]),
        ({"name": "../up"}, ["'../up'"]),
        ({"metric": ""}, ["metric", "val.tar"]),
    ],
)
def test_what_cannot_be_searched_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    if "space" in changes:
        changes = {"points": ()} | changes
    with pytest.raises(ConfigError) as caught:
        small_sweep(**changes)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
