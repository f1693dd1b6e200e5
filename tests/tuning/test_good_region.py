"""The good region: ranges, shares and options, of what lies within one standard error."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from facerec.domains import Choice, Domain, IntUniform, LogUniform, Uniform
from facerec.tuning.good_region import good_region, searched

SPACE: dict[str, Domain] = {
    "loss.margin": Uniform(0.0, 0.8),
    "loss.scale": LogUniform(16.0, 64.0),
    "loss.bias_init": Choice((None, "zero", 2)),
    "head.queue_size": IntUniform(1, 1000, log=True),
}
SETTINGS = pd.DataFrame(
    {
        "loss.margin": [0.1, 0.3, 0.5, 0.7, 0.0],
        "loss.scale": [16.0, 32.0, 64.0, 20.0, 50.0],
        "loss.bias_init": pd.array(["zero", None, "zero", "2", "2"], dtype="str"),
        "head.queue_size": pd.array([10, 1, 100, 7, 1000], dtype="Int64"),
    }
)
VALUES = [0.50, 0.52, 0.49, 0.40, math.nan]


def test_what_lies_within_one_standard_error_of_the_best() -> None:
    found = good_region(SETTINGS, VALUES, SPACE, 0.025).set_index("key")
    margin, scale = found.loc["loss.margin"], found.loc["loss.scale"]
    assert (margin["low"], margin["high"], margin["best"]) == (0.1, 0.3, 0.3)
    assert margin["share"] == pytest.approx(0.25)
    assert (scale["low"], scale["high"], scale["best"]) == (16.0, 32.0, 32.0)
    assert scale["share"] == pytest.approx(0.5)  # a factor of 2 in one of 4
    choice = found.loc["loss.bias_init"]
    assert (choice["options"], choice["best"]) == ("None, zero", None)
    assert choice["share"] == pytest.approx(2 / 3)
    assert math.isnan(choice["low"])
    queue = found.loc["head.queue_size"]
    assert (queue["low"], queue["high"], queue["best"]) == (1, 10, 1)
    assert queue["share"] == pytest.approx(1 / 3)
    assert set(found["trials"]) == {2}
    assert set(found["note"]) == {""}


@pytest.mark.parametrize("error", [0.0, 0.01, math.nan])
def test_one_trial_alone_is_said_to_be_alone(error: float) -> None:
    found = good_region(SETTINGS, VALUES, SPACE, error)
    assert set(found["trials"]) == {1}
    assert found["note"].str.startswith("one trial alone lies there").all()
    assert found["share"].tolist() == pytest.approx([0.0, 0.0, 1 / 3, 0.0])


def test_no_score_no_region() -> None:
    found = good_region(SETTINGS, [math.nan] * 5, SPACE, 0.1)
    assert len(found) == 0
    assert list(found)[:3] == ["key", "low", "high"]


def test_cells_of_tables_are_what_was_searched() -> None:
    whole, mixed = IntUniform(1, 9), Choice((1, 2.5, True, None))
    assert [searched(whole, 3.0), searched(Uniform(0.0, 1.0), 1.0000001)] == [3, 1.0]
    assert [searched(mixed, cell) for cell in (1.0, "2.5", "True", math.nan)] == [
        1,
        2.5,
        True,
        None,
    ]
    with pytest.raises(ValueError, match="'ones' is none of the options"):
        searched(mixed, "ones")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values \(2,\) for 5 settings"):
        good_region(SETTINGS, [0.1, 0.2], SPACE, 0.1)
    with pytest.raises(ValueError, match="columns"):
        good_region(SETTINGS.drop(columns="loss.scale"), VALUES, SPACE, 0.1)
    with pytest.raises(ValueError, match=r"standard_error -0\.1: takes 0 or more"):
        good_region(SETTINGS, VALUES, SPACE, -0.1)
