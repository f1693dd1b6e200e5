"""Importance of the searched keys: whose it is, its interval, and when there is none."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import optuna
import pandas as pd
import pytest
from numpy.typing import NDArray

from facerec.domains import Choice, Domain, LogUniform, Uniform
from facerec.tuning.importance import importance

SPACE: dict[str, Domain] = {
    "loss.margin": Uniform(0.0, 0.7),
    "loss.scale": LogUniform(16.0, 96.0),
    "loss.bias_init": Choice((None, "zero")),
}


@pytest.fixture(autouse=True)
def _silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


def trials(count: int, seed: int = 3) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    settings = pd.DataFrame(
        {
            "loss.margin": generator.uniform(0.0, 0.7, count),
            "loss.scale": 16.0 * 6.0 ** generator.random(count),
            "loss.bias_init": pd.array(
                [(None, "zero")[i] for i in generator.integers(2, size=count)], dtype="str"
            ),
        }
    )
    scores = 0.5 - np.abs(np.log(settings["loss.scale"] / 30.0)).to_numpy(np.float64)
    return settings, scores + generator.normal(0, 0.05, count)


def test_the_key_that_decides_comes_first() -> None:
    settings, scores = trials(60)
    found = importance(settings, scores, SPACE, draws=30)
    assert list(found) == ["key", "importance", "low", "high", "reason"]
    assert found["key"][0] == "loss.scale"
    assert found["importance"].sum() == pytest.approx(1.0)
    assert (found["low"] <= found["importance"]).all()
    assert (found["importance"] <= found["high"]).all()
    assert found["low"][0] > found["high"][1:].max()  # the others are chance
    again = importance(settings, scores, SPACE, draws=30)
    pd.testing.assert_frame_equal(found, again)
    assert not found.equals(importance(settings, scores, SPACE, 1, draws=30))


def test_it_is_optuna_s_own() -> None:
    settings, scores = trials(50)
    numbers = {key: SPACE[key] for key in ("loss.margin", "loss.scale")}
    found = importance(settings, scores, numbers, draws=1).set_index("key")["importance"]
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    optuna.logging.set_verbosity(before)
    floats = {
        "loss.margin": optuna.distributions.FloatDistribution(0.0, 0.7),
        "loss.scale": optuna.distributions.FloatDistribution(16.0, 96.0, log=True),
    }
    for row, value in enumerate(scores):
        params = {key: float(settings[key][row]) for key in floats}
        study.add_trial(
            optuna.trial.create_trial(value=float(value), params=params, distributions=floats)
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.1)
    wanted = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert found.to_dict() == pytest.approx(wanted)


def test_what_diverged_counts_as_the_worst() -> None:
    settings, scores = trials(30)
    settings.loc[:4, "loss.margin"] = 0.69
    lost, low = scores.copy(), scores.copy()
    lost[:5], low[:5] = math.nan, -1e9
    pd.testing.assert_frame_equal(
        importance(settings, lost, SPACE, draws=2), importance(settings, low, SPACE, draws=2)
    )


def test_there_is_none_where_nothing_can_be_told() -> None:
    settings, scores = trials(12)
    few = scores.copy()
    few[3:] = math.nan
    found = importance(settings, few, SPACE)
    assert set(found["reason"]) == {"3 trials with a score: it takes 4"}
    assert found[["importance", "low", "high"]].isna().all(axis=None)
    found = importance(settings, np.full(12, 0.5), SPACE)
    assert set(found["reason"]) == {"all trials reached the same"}
    fixed = settings.assign(**{"loss.margin": 0.4})
    found = importance(fixed, scores, SPACE, draws=5).set_index("key")
    assert found.loc["loss.margin", "reason"] == "it never varied"
    assert math.isnan(found.loc["loss.margin", "importance"])
    assert found["importance"].sum() == pytest.approx(1.0)
    tied = np.where(np.arange(12) == 0, 0.1, 0.5)  # all but one are the best
    assert importance(settings, tied, SPACE, draws=5)["importance"].sum() == pytest.approx(1.0)


def test_four_trials_are_enough() -> None:
    found = importance(*trials(4), SPACE, draws=20)
    assert found["importance"].notna().all()
    assert (found["high"] - found["low"]).max() > 0.3  # and say next to nothing


def test_what_does_not_fit_is_refused() -> None:
    settings, scores = trials(5)
    with pytest.raises(ValueError, match=r"values \(4,\) for 5 settings"):
        importance(settings, scores[:4], SPACE)
    with pytest.raises(ValueError, match="0 draws: takes 1 or more"):
        importance(settings, scores, SPACE, draws=0)
