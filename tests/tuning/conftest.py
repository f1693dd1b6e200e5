"""A sweep small enough to be tried, and a searcher on a journal of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facerec.config import Component, TrainConfig, override
from facerec.domains import LogUniform, Uniform
from facerec.presets import laptop
from facerec.tuning import journal
from facerec.tuning.search import JournalSearcher
from facerec.tuning.sweep import Sweep

PAPER = {"loss.margin": 0.4, "loss.scale": 64.0}


def small_base(shards: Path) -> TrainConfig:
    return override(
        laptop(Component("cosface")),
        {"data.train": str(shards), "data.batch_size": 40, "epochs": 2, "eval.every": 1},
    )


def small_sweep(base: TrainConfig | None = None, **changes: Any) -> Sweep:
    values: dict[str, Any] = {
        "name": "small",
        "base": base or laptop(Component("cosface")),
        "space": {"loss.margin": Uniform(0.0, 0.7), "loss.scale": LogUniform(16.0, 96.0)},
        "points": (PAPER,),
        "trials": 4,
        "confirm": 0,  # where it is not what is tried
        "early_stop": False,  # which of two trials at a time is stopped is a matter of speed
    }
    return Sweep(**values | changes)


Open = Callable[..., JournalSearcher]


@pytest.fixture
def open_searcher(tmp_path: Path) -> Open:
    """Open the test's one journal, as a sweep that starts or goes on does."""

    def open_it(sweep: Sweep, sampler: str = "random", total: int | None = None) -> JournalSearcher:
        path = tmp_path / "small.journal"
        journal.repair(path)
        return JournalSearcher(sweep, path, total=total or sweep.trials, sampler=sampler)

    return open_it
