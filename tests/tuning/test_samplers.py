"""Draws are functions of (seed, number), lie in their domains, and spread where they should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest

from facerec.domains import Choice, Domain, IntUniform, LogUniform, Uniform
from facerec.tuning import samplers

SPACE: dict[str, Domain] = {
    "real": Uniform(-1.0, 0.7),
    "log": LogUniform(16.0, 96.0),
    "int": IntUniform(2, 5),
    "log_int": IntUniform(1, 100, log=True),
    "choice": Choice(("a", None, 3)),
}


def draw(
    name: str, count: int, space: dict[str, Domain] = SPACE, **options: Any
) -> list[dict[str, Any]]:
    values: dict[str, Any] = {"trials": count, "seed": 1, "first": {}} | options
    study = optuna.create_study(sampler=samplers.build(name, space, **values))
    wanted = {key: samplers.distribution(domain) for key, domain in space.items()}
    found = []
    for _ in range(count):
        trial = study.ask(wanted)
        found.append(trial.params)
        study.tell(trial, trial.params.get("real", 0.0))
    return found


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_draws_lie_in_their_domains_and_reach_all_of_them(name: str) -> None:
    found = draw(name, 200 if name == "random" else 40)
    for key, domain in SPACE.items():
        assert all(domain.contains(setting[key]) for setting in found), key
    assert {setting["choice"] for setting in found} == {"a", None, 3}
    assert {setting["int"] for setting in found} == {2, 3, 4, 5}


def test_random_draws_have_the_domains_distribution() -> None:
    found = draw("random", 2000)
    reals = np.sort([setting["real"] for setting in found])
    logs = np.sort([math.log(setting["log"]) for setting in found])
    for values, low, high in ((reals, -1.0, 0.7), (logs, math.log(16), math.log(96))):
        uniform = (values - low) / (high - low)
        assert np.abs(uniform - np.linspace(0, 1, 2000)).max() < 0.035  # Kolmogorov, 1 %
    counts = np.bincount([setting["int"] for setting in found])[2:]
    assert counts.min() > 430


def test_draws_depend_on_seed_number_and_key_alone() -> None:
    assert draw("random", 5) == draw("random", 9)[:5]
    assert draw("random", 5) != draw("random", 5, seed=2)
    assert draw("tpe", 12, trials=20)[:10] == draw("tpe", 10, trials=20)


def test_first_draws_of_tpe_are_spread() -> None:
    space: dict[str, Domain] = {"x": Uniform(0.0, 1.0), "y": Uniform(0.0, 1.0)}

    def nearest(name: str, seed: int) -> float:
        """The smallest distance between two of 10 draws."""
        found = draw(name, 10, space, seed=seed, trials=40)
        points = np.array([[setting["x"], setting["y"]] for setting in found])
        between = np.linalg.norm(points[:, None] - points, axis=-1)
        return float(between[~np.eye(10, dtype=bool)].min())

    spread = [nearest("tpe", seed) for seed in range(1, 9)]
    drawn = [nearest("random", seed) for seed in range(1, 9)]
    assert min(spread) > max(0.1, float(np.mean(drawn)))
    assert np.mean(spread) > 2 * np.mean(drawn)


@pytest.mark.parametrize("first", [{}, {"arm": "d", "x": 0.5}])
def test_each_option_is_tried_once_by_the_first_trials(first: dict[str, Any]) -> None:
    arms = tuple("abcdefgh")
    space: dict[str, Domain] = {"arm": Choice(arms), "x": Uniform(0.0, 1.0)}
    found = [setting["arm"] for setting in draw("tpe", 8, space, first=first, trials=16)]
    assert sorted(found) == list(arms)
    assert found[0] == first.get("arm", "a")


def test_tpe_finds_what_random_search_does_not() -> None:
    space: dict[str, Domain] = {"x": Uniform(0.0, 1.0), "y": Uniform(0.0, 1.0)}

    def best(name: str, seed: int) -> float:
        sampler = samplers.build(name, space, trials=40, seed=seed, first={})
        study = optuna.create_study(direction="maximize", sampler=sampler)
        wanted = {key: samplers.distribution(domain) for key, domain in space.items()}
        for _ in range(40):
            trial = study.ask(wanted)
            x, y = trial.params["x"], trial.params["y"]
            study.tell(trial, 1 - (x - 0.2) ** 2 - (y - 0.7) ** 2)
        return float(study.best_value)

    tpe = np.median([best("tpe", seed) for seed in range(5)])
    random = np.median([best("random", seed) for seed in range(5)])
    assert 1 - tpe < (1 - random) / 2
