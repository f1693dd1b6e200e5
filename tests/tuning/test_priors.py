"""The point that theory gives: where it is added, and where not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from facerec.config import override
from facerec.domains import LogUniform, Uniform
from facerec.tuning import priors
from tests.tuning.conftest import PAPER, small_base, small_sweep

WIDE = {"loss.margin": Uniform(0.0, 0.7), "loss.scale": LogUniform(4.0, 96.0)}


def test_the_papers_values_at_the_least_scale_come_after_the_points(toy_shards: Path) -> None:
    sweep = small_sweep(small_base(toy_shards), space=WIDE)
    points = priors.with_points(sweep).points
    least = 11 / 12 * math.log(11 * 0.999 / 0.001)  # twelve identities
    assert points == (PAPER, {"loss.margin": 0.4, "loss.scale": round(least, 2)})
    assert priors.with_points(priors.with_points(sweep)).points == points


@pytest.mark.parametrize(
    "changes",
    [
        {},  # 8.5 is below the range
        {"space": WIDE, "trials": 1},  # no trial is left for it
        {"space": WIDE, "points": ()},
        {"space": {"loss.margin": Uniform(0.0, 0.7)}, "points": ({"loss.margin": 0.4},)},
        {"space": WIDE, "loss.name": "uniface"},  # no softmax
    ],
)
def test_elsewhere_nothing_is_added(changes: dict[str, Any], toy_shards: Path) -> None:
    name = changes.pop("loss.name", "cosface")
    sweep = small_sweep(override(small_base(toy_shards), {"loss.name": name}), **changes)
    assert priors.with_points(sweep) == sweep
