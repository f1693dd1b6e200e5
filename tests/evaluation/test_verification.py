"""Ten-fold verification against the definition, told as loops over folds, thresholds and pairs."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from facerec.evaluation.metrics import Verification, verification, verification_from_distances

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Slow(NamedTuple):
    accuracies: list[float]
    thresholds: list[float]
    vals: list[float]
    fars: list[float]


def fold_numbers(count: int, folds: int) -> list[int]:
    """Contiguous; the first count % folds folds are one longer."""
    sizes = [count // folds + (fold < count % folds) for fold in range(folds)]
    return [fold for fold, size in enumerate(sizes) for _ in range(size)]


def slow_verification(distances: list[float], same: list[bool], folds: int) -> Slow:
    numbers = fold_numbers(len(same), folds)
    result = Slow([], [], [], [])
    for fold in range(folds):
        test = [k for k in range(len(same)) if numbers[k] == fold]
        rest = [k for k in range(len(same)) if numbers[k] != fold] if folds > 1 else test
        best, best_right = 0.0, -1
        for threshold in np.arange(0, 4, 0.01).tolist():
            right = sum((distances[k] < threshold) == same[k] for k in rest)
            if right > best_right:
                best, best_right = threshold, right
        result.thresholds.append(best)
        result.accuracies.append(sum((distances[k] < best) == same[k] for k in test) / len(test))
        threshold = slow_val_threshold(
            [distances[k] for k in rest if not same[k]], np.arange(0, 4, 0.001).tolist()
        )
        for rates, wanted in ((result.vals, True), (result.fars, False)):
            part = [distances[k] for k in test if same[k] == wanted]
            if part:
                rates.append(sum(d < threshold for d in part) / len(part))
    return result


def slow_val_threshold(impostors: list[float], thresholds: list[float]) -> float:
    """Where the FAR is 1e-3 among `impostors`."""
    ordered = np.sort(impostors)
    rates = [int(np.sum(ordered < t)) / len(ordered) if impostors else 0.0 for t in thresholds]
    if max(rates) < 1e-3:
        return 0.0
    exact = [t for t, rate in zip(thresholds, rates, strict=True) if rate == 1e-3]
    if exact:
        return max(exact)
    low, far_low = max((t, rate) for t, rate in zip(thresholds, rates, strict=True) if rate < 1e-3)
    high, far_high = min(
        (t, rate) for t, rate in zip(thresholds, rates, strict=True) if rate > 1e-3
    )
    return low + (1e-3 - far_low) / (far_high - far_low) * (high - low)


def assert_same(found: Verification, distances: Floats, same: Bools, folds: int) -> None:
    slow = slow_verification(distances.tolist(), same.tolist(), folds)
    assert found.reason == ""
    np.testing.assert_allclose(found.fold_accuracies, slow.accuracies, rtol=1e-12)
    assert found.thresholds.tolist() == slow.thresholds
    assert found.accuracy == pytest.approx(sum(slow.accuracies) / folds, rel=1e-12)
    spread = math.sqrt(sum((a - found.accuracy) ** 2 for a in slow.accuracies) / folds)
    assert found.accuracy_std == pytest.approx(spread, rel=1e-9, abs=1e-12)
    assert found.val == pytest.approx(sum(slow.vals) / len(slow.vals), rel=1e-12)
    assert found.far == pytest.approx(sum(slow.fars) / len(slow.fars), rel=1e-12)


def draw(seed: int, count: int, kind: str) -> tuple[Floats, Bools]:
    generator = np.random.default_rng(seed)
    same = generator.random(count) < 0.5
    distances = np.clip(np.where(same, 0.9, 1.5) + 0.35 * generator.standard_normal(count), 0, 4)
    if kind == "ties":  # on the grid of thresholds, so that `<` and `<=` differ
        distances = generator.choice(np.arange(0, 4, 0.01)[70:180:10], count)
    if kind == "edges":
        distances = generator.choice([0.0, 0.005, 0.01, 2.0, 3.99, 3.995, 3.999, 4.0], count)
    if kind == "separable":
        distances = np.where(same, 0.5, 1.5) + 0.2 * generator.random(count)
    return distances, same


@pytest.mark.parametrize("kind", ["noisy", "ties", "edges", "separable"])
@pytest.mark.parametrize(("count", "folds"), [(200, 10), (207, 10), (90, 3), (50, 1), (12, 12)])
def test_as_defined(kind: str, count: int, folds: int) -> None:
    distances, same = draw(count + folds, count, kind)
    assert_same(verification_from_distances(distances, same, folds), distances, same, folds)


@pytest.mark.slow
def test_many_pairs_in_one_class_reach_the_rates_between() -> None:
    generator = np.random.default_rng(3)
    same = np.tile([True, False, False, False], 750)  # 2,025 different pairs on nine folds
    distances = np.where(same, 1.0, 1.8) + 0.3 * generator.standard_normal(3000)
    found = verification_from_distances(distances, same)
    assert_same(found, distances, same, 10)
    assert 0 < found.val < 1


@pytest.mark.parametrize("first", [0.5, 0.9995])
def test_val_takes_the_highest_threshold_of_an_exact_hit(first: float) -> None:
    # One fold, 1,000 different pairs: the FAR is exactly 1e-3 from above `first` up to 1.2.
    different = np.concatenate([[first], np.full(999, 1.2)])
    distances = np.concatenate([different, [1.1995, 1.3]])
    same = np.arange(1002) >= 1000
    found = verification_from_distances(distances, same, folds=1)
    assert (found.val, found.far) == (0.5, 1e-3)
    assert_same(found, distances, same, 1)


def test_val_interpolates_between_highest_and_lowest() -> None:
    # FAR 0 up to 1.000 (one tie on the grid), then 2 of 500 at once: 1e-3 is a quarter of 4e-3.
    different = np.concatenate([[1.0004, 1.0004], np.full(498, 2.0)])
    distances = np.concatenate([different, [1.0002, 1.0003]])
    same = np.arange(502) >= 500
    found = verification_from_distances(distances, same, folds=1)
    assert (found.val, found.far) == (0.5, 0.0)  # the threshold is 1.00025
    assert_same(found, distances, same, 1)


def test_val_out_of_reach_is_zero() -> None:
    same = np.tile([True, False], 50)
    distances = np.where(same, 0.2, 4.0)  # no threshold accepts a different pair
    found = verification_from_distances(distances, same)
    assert (found.accuracy, found.val, found.far) == (1.0, 0.0, 0.0)
    assert_same(found, distances, same, 10)


def test_the_lowest_of_equally_good_thresholds() -> None:
    found = verification_from_distances(np.tile([0.5, 1.5], 10), np.tile([True, False], 10))
    np.testing.assert_allclose(found.thresholds, 0.51)


def test_folds_follow_the_file() -> None:
    # The last fold alone is upside down, so it alone fails: a shuffle would spread it.
    same = np.tile([True, False], 50)
    distances = np.where(same, 0.5, 1.5)
    distances[90:] = 2.0 - distances[90:]
    found = verification_from_distances(distances, same)
    assert found.fold_accuracies.tolist() == [1.0] * 9 + [0.0]


def test_embeddings_are_normalised_and_paired_in_order() -> None:
    generator = np.random.default_rng(5)
    same = generator.random(100) < 0.5
    first = generator.standard_normal((100, 16))
    noise = generator.standard_normal((100, 16))
    second = np.where(same[:, None], first + 0.8 * noise, noise)
    embeddings = np.stack([first, second], axis=1).reshape(200, 16)
    embeddings *= generator.uniform(0.1, 10, (200, 1))
    distances = np.zeros(100)
    for k in range(100):
        one, two = (embeddings[2 * k + i] / np.linalg.norm(embeddings[2 * k + i]) for i in (0, 1))
        distances[k] = sum((a - b) ** 2 for a, b in zip(one, two, strict=True))
    assert_same(verification(embeddings, same), distances, same, 10)
    assert_same(verification(embeddings.astype(np.float32), same.tolist()), distances, same, 10)


def test_a_fold_of_one_kind_has_no_say_in_the_other_rate() -> None:
    same = np.array([True] * 10 + [False] * 10)
    distances = np.linspace(0.1, 2.0, 20)
    assert_same(verification_from_distances(distances, same, 2), distances, same, 2)


BROKEN = {
    "nan": (np.full((40, 4), np.nan), "not finite"),
    "one infinite": (np.where(np.arange(160).reshape(40, 4) == 77, np.inf, 1.0), "not finite"),
    "too long to square": (np.full((40, 4), 1e200), "not finite"),
    "constant": (np.ones((40, 4)), "collapsed"),
    "zero": (np.zeros((40, 4)), "collapsed"),
    "collapsed to a line": (np.outer(np.arange(1, 41), np.full(4, 2.0)), "collapsed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_embeddings_give_nan_and_a_reason(case: str) -> None:
    embeddings, reason = BROKEN[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = verification(embeddings, np.tile([True, False], 10))
    assert reason in found.reason
    numbers = (found.accuracy, found.accuracy_std, found.val, found.far)
    assert all(math.isnan(number) for number in numbers)
    assert np.isnan(found.fold_accuracies).all()
    assert found.fold_accuracies.shape == found.thresholds.shape == (10,)


@pytest.mark.parametrize(
    ("same", "reason"),
    [
        ([True] * 20, "all 20 pairs are same"),
        ([False] * 20, "all 20 pairs are different"),
        ([True, False, True], "3 pairs cannot be cut into 10 folds"),
        ([], "0 pairs"),
    ],
)
def test_pairs_that_admit_no_accuracy(same: list[bool], reason: str) -> None:
    found = verification_from_distances(np.linspace(0, 1, len(same)), same)
    assert math.isnan(found.accuracy)
    assert reason in found.reason


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"embeddings \(5, 3\) do not fit 3 pairs"):
        verification(np.ones((5, 3)), [True, False, True])
    with pytest.raises(ValueError, match=r"distances \(5,\) and same \(4,\)"):
        verification_from_distances(np.ones(5), np.ones(4))
    with pytest.raises(ValueError, match="folds = 0: takes 1 or more"):
        verification_from_distances(np.ones(5), np.ones(5), folds=0)
