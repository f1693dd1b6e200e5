"""TAR at FAR of scored pairs, against the ROC curve told point by point."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from facerec.evaluation import roc
from facerec.evaluation.roc import FARS, Rule, tar_at_far

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
COARSE = {"1e-3": 1000, "1e-2": 100, "0.05": 20, "1e-1": 10, "0.5": 2}


def slow_curve(scores: Floats, same: Bools) -> list[tuple[int, int, float]]:
    """False accepts, true accepts and threshold of each point, as scikit-learn's curve has them."""
    points = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        accepted = scores >= threshold
        points.append((int(np.sum(accepted & ~same)), int(np.sum(accepted & same)), threshold))
    kept = []
    for place, (wrong, right, threshold) in enumerate(points):
        if 0 < place < len(points) - 1:
            before, after = points[place - 1], points[place + 1]
            step, following = (wrong - before[0], right - before[1]), (after[0], after[1])
            if step == (following[0] - wrong, following[1] - right):
                continue
        kept.append((wrong, right, threshold))
    return [(0, 0, math.inf), *kept]


def slow_nearest(scores: Floats, same: Bools, far: float) -> tuple[float, float, float]:
    """The first of the flipped curve among the nearest."""
    genuine, impostors = int(same.sum()), int((~same).sum())
    flipped = slow_curve(scores, same)[::-1]
    best = min(range(len(flipped)), key=lambda k: (abs(flipped[k][0] / impostors - far), k))
    wrong, right, threshold = flipped[best]
    return right / genuine, wrong / impostors, threshold


def slow_not_exceeding(scores: Floats, same: Bools, far: float) -> tuple[float, float]:
    """The highest TAR of all thresholds that exceed the rate nowhere."""
    impostors = [float(s) for s in scores[~same]]
    found = [(0.0, 0.0)]
    for threshold in set(scores.tolist()):
        wrong = sum(s >= threshold for s in impostors)
        if wrong <= math.floor(round(far * len(impostors), 9)):
            right = sum(s >= threshold for s in scores[same].tolist())
            found.append((right / int(same.sum()), wrong / len(impostors)))
    return max(found)


def draw(seed: int, kind: str) -> tuple[Floats, Bools]:
    generator = np.random.default_rng([seed, len(kind)])
    count = int(generator.integers(4, 160))
    same = generator.random(count) < generator.choice([0.05, 0.3, 0.6])
    same[:2] = [True, False]
    scores = np.where(same, 0.4, 0.0) + 0.3 * generator.standard_normal(count)
    if kind == "ties":
        scores = np.round(scores * generator.choice([2, 5, 20])) / 8
    if kind == "separated":
        scores = np.where(same, 1.0, 0.0) + 0.2 * generator.random(count)
    if kind == "reversed":
        scores = np.where(same, 0.0, 0.5) + 0.2 * generator.random(count)
    if kind == "runs":  # long runs of impostors, alone and in equal numbers
        scores = np.where(same, np.round(scores, 1), np.arange(count) // 3 / count)
    if np.ptp(scores) == 0:
        scores[0] += 1
    return scores, same


@pytest.mark.parametrize("kind", ["noisy", "ties", "separated", "reversed", "runs"])
@pytest.mark.parametrize("seed", range(10))
def test_both_rules_as_defined(seed: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, same = draw(seed, kind)
    monkeypatch.setattr(roc, "_FURTHER", seed % 3)  # so few that often all must be sorted after all
    rates = dict(list(COARSE.items())[: 2 + seed % 4])
    near = tar_at_far(scores, same, rates, "nearest", false_accepts=0)
    below = tar_at_far(scores, same, rates, "not exceeding", false_accepts=0)
    assert (near.rule, below.rule) == ("nearest", "not exceeding")
    assert near.genuine_pairs == same.sum()
    assert near.impostor_pairs == (~same).sum()
    for name, per in rates.items():
        expected = slow_nearest(scores, same, 1 / per)
        assert (near.tars[name], near.fars[name], near.thresholds[name]) == expected
        found = (below.tars[name], below.fars[name])
        assert found[0] == slow_not_exceeding(scores, same, 1 / per)[0]
        assert found[1] <= 1 / per
        for result in (near, below):
            accepted = scores >= result.thresholds[name]
            assert np.mean(accepted[same]) == result.tars[name]
            assert np.mean(accepted[~same]) == result.fars[name]


def test_the_rules_differ_where_the_nearest_point_exceeds() -> None:
    # The second impostor's point is at FAR 2e-3, the first's at 1e-3: 1.6e-3 is nearer to 2e-3.
    impostors = np.concatenate([[0.9, 0.7], np.linspace(0.1, 0.2, 998)])
    scores = np.concatenate([[0.95, 0.8, 0.6, 0.5], impostors])
    same = np.arange(len(scores)) < 4
    near = tar_at_far(scores, same, {"1.6e-3": 625})
    below = tar_at_far(scores, same, {"1.6e-3": 625}, "not exceeding")
    assert (near.tars["1.6e-3"], near.fars["1.6e-3"]) == (1.0, 2e-3)
    assert (below.tars["1.6e-3"], below.fars["1.6e-3"]) == (0.5, 1e-3)


def test_of_two_equally_near_the_higher_rate() -> None:
    # Four impostors with a genuine pair between each two: points at 0, 0.25, 0.5, 0.75, 1.
    scores, same = np.linspace(1, 0, 9), np.arange(9) % 2 == 0
    found = tar_at_far(scores, same, {"3/8": 8}, false_accepts=0)
    assert found.fars["3/8"] == 0.25  # 1/8 lies between 0 and 0.25
    assert found.tars["3/8"] == 2 / 5


def test_a_straight_run_of_impostors_has_no_points_inside() -> None:
    # 1,000 impostors in a row after one genuine pair: the curve knows only the run's ends.
    scores = np.concatenate([[2.0], np.linspace(1, 0.5, 1000), [0.1]])
    same = np.isin(np.arange(1002), [0, 1001])
    found = tar_at_far(scores, same, {"1e-2": 100, "1e-1": 10})
    assert list(found.fars.values()) == [0.0, 0.0]  # not 0.01 and 0.1, nor the run's end, 1.0
    assert list(found.tars.values()) == [0.5, 0.5]


def test_rates_that_the_pairs_cannot_measure() -> None:
    generator = np.random.default_rng(0)
    scores, same = generator.random(2100), np.arange(2100) < 100
    found = tar_at_far(scores, same)
    assert list(found.tars) == list(FARS) == ["1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1"]
    assert [math.isnan(tar) for tar in found.tars.values()] == [True] * 3 + [False] * 3
    assert found.reasons["1e-4"] == (
        "2000 impostor pairs; FAR 1e-4 needs 10000, which leave 1 false accept"
    )
    strict = tar_at_far(scores, same, false_accepts=100)
    assert list(strict.reasons) == ["1e-6", "1e-5", "1e-4", "1e-3", "1e-2"]
    assert "FAR 1e-2 needs 10000, which leave 100 false accepts" in strict.reasons["1e-2"]


@pytest.mark.parametrize("rule", ["nearest", "not exceeding"])
@pytest.mark.parametrize(
    ("scores", "same", "reason"),
    [
        ([0.5, math.nan, 0.1], [True, False, False], "not finite"),
        ([0.5, 0.2, math.inf], [True, False, False], "not finite"),
        ([0.5] * 40, [True] * 20 + [False] * 20, "collapsed"),
        ([0.1, 0.2], [True, True], "all 2 pairs are same"),
        ([0.1, 0.2], [False, False], "all 2 pairs are different"),
        ([], [], "all 0 pairs"),
    ],
)
def test_scores_that_admit_no_number(
    scores: list[float], same: list[bool], reason: str, rule: Rule
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tar_at_far(scores, same, rule=rule)
    assert all(math.isnan(tar) for tar in found.tars.values())
    assert all(reason in sentence for sentence in found.reasons.values())
    assert list(found.reasons) == list(FARS)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores \(3,\) and same \(2,\)"):
        tar_at_far(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="takes 'nearest' or 'not exceeding'"):
        tar_at_far(np.ones(3), np.ones(3), rule="closest")  # type: ignore[arg-type]
