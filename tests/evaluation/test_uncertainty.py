"""Intervals by draws of identities: each draw against loops, and how often they hold the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facerec.evaluation import level_counts, uncertain_folds, uncertain_tars
from facerec.evaluation.metrics import tar_at_far, verification_from_distances
from facerec.evaluation.uncertain_folds import resample_verification
from facerec.evaluation.uncertain_tars import resample_all_pairs, resample_pair_list
from facerec.evaluation.uncertainty import (
    Interval,
    Resampled,
    draw_weights,
    identities_from_pairs,
    resample_accuracy,
)
from tests.evaluation.people import People, distances, true_accuracy, true_tar

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
RATES = {"1e-2": 100}
_SEED = 20_000  # others than those with which the method was made


def measured_pairs(seed: int, count: int, each: int, spread: float) -> tuple[Floats, Bools, Ints]:
    people = People(seed, count, spread)
    ends, same = people.pairs(each)
    apart = distances(people.photographs(ends[:, 0]), people.photographs(ends[:, 1]))
    return apart, same, ends


def test_draws_are_of_as_many_identities() -> None:
    weights = draw_weights(30, 200, 5)
    assert weights.shape == (30, 200)
    assert (weights.sum(axis=0) == 30).all()
    assert weights.var() == pytest.approx(1 - 1 / 30, rel=0.1)
    assert (weights == draw_weights(30, 200, 5)).all()
    assert (weights != draw_weights(30, 200, 6)).any()
    with pytest.raises(ValueError, match="0 identities, 5 draws: takes 1 or more"):
        draw_weights(0, 5, 0)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_what_same_pairs_and_identical_images_join(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.integers(40, size=(2, 30))
    same, contents = generator.random(30) < 0.5, generator.integers(30, size=40)
    found = identities_from_pairs(first, second, same, contents)
    group = contents.tolist()  # of each row
    for one, other in zip(first[same].tolist(), second[same].tolist(), strict=True):
        gone, stays = group[one], group[other]
        group = [stays if g == gone else g for g in group]
    ends = [group[row] for pair in zip(first, second, strict=True) for row in pair]
    for (i, a), (j, b) in itertools.combinations(enumerate(found.ravel()), 2):
        assert (a == b) == (ends[i] == ends[j])
    assert sorted(set(found.ravel().tolist())) == list(range(len(set(ends))))


def test_rows_are_the_images_where_no_content_is_known() -> None:
    found = identities_from_pairs([0, 2, 4, 1], [1, 3, 5, 6], [True, False, False, True])
    assert found.tolist() == [[0, 0], [1, 2], [3, 4], [0, 0]]


def slow_thresholds(apart: Floats, same: Bools, ends: Ints, weight: Floats, folds: int) -> Floats:
    """The best of each fold's rest, where products weigh 1 + (product - 1) / sqrt(3)."""
    weighs = np.array(
        [weight[a] if a == b else 1 + (weight[a] * weight[b] - 1) / 3**0.5 for a, b in ends]
    )
    weighs[same] *= same.sum() / weighs[same].sum()
    weighs[~same] *= (~same).sum() / weighs[~same].sum()
    found = []
    for part in np.array_split(np.arange(len(same)), folds):
        rest = np.setdiff1d(np.arange(len(same)), part)
        grid = np.arange(0, 4, 0.01)
        right = [weighs[rest] @ ((apart[rest] < t) == same[rest]) for t in grid]
        found.append(grid[np.argmax(np.round(right, 8))])
    return np.array(found)


def slow_draw(
    apart: Floats, same: Bools, ends: Ints, weight: Floats, learnt: Floats
) -> tuple[float, float]:
    """Accuracy and VAL where each pair weighs its identity, or the product of its two."""
    weighs = [weight[a] * (1.0 if a == b else weight[b]) for a, b in ends]
    mine = sum(w for w, s in zip(weighs, same, strict=True) if s)
    others = sum(weighs) - mine
    folds = len(learnt)
    parts = np.array_split(np.arange(len(same)), folds)
    accuracy = val = 0.0
    for fold in range(folds):
        rest = [k for f in range(folds) if f != fold for k in parts[f]]
        for k in parts[fold]:
            if (apart[k] < learnt[fold]) == same[k]:
                share = same.mean() / mine if same[k] else (1 - same.mean()) / others
                accuracy += share * weighs[k]
        different = sorted((k for k in rest if not same[k]), key=lambda k: apart[k])
        limit, reached = uncertain_folds.FAR * sum(weighs[k] for k in different), 0.0
        at = -math.inf
        for k in different:
            reached += weighs[k]
            if reached >= limit * (1 - 1e-12):
                at = apart[k]
                break
        val += sum(weighs[k] for k in parts[fold] if same[k] and apart[k] <= at)
    return accuracy, val / mine


def test_each_draw_is_the_procedure_on_weighted_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertain_folds, "FAR", 0.05)
    apart, same, ends = measured_pairs(3, 25, 3, 0.6)
    ends[7] = ends[7, ::-1]
    found = resample_verification(apart, same, ends, folds=4, draws=3, seed=8)
    weights = draw_weights(25, 3, 8)
    exact = verification_from_distances(apart, same, 4)
    for draw in range(3):
        weight = weights[:, draw]
        held, val = slow_draw(apart, same, ends, weight, exact.thresholds)
        new, _ = slow_draw(apart, same, ends, weight, slow_thresholds(apart, same, ends, weight, 4))
        accuracy = held + (new - held) * math.sqrt(0.5)
        assert found.draws[draw] == pytest.approx([accuracy, val], abs=1e-12)
    assert found.values.tolist() == [exact.accuracy, exact.val]


def test_even_weights_give_the_figures_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    def even(count: int, draws: int, seed: int) -> Floats:
        return np.ones((count, draws))

    monkeypatch.setattr(uncertain_folds, "draw_weights", even)
    monkeypatch.setattr(uncertain_tars, "draw_weights", even)
    apart, same, ends = measured_pairs(4, 100, 5, 0.5)
    found = resample_verification(apart, same, ends, draws=2)
    assert found.draws[:, 0] == pytest.approx(found.values[0], abs=1e-12)
    people = People(0, 60, 0.4)
    labels = np.repeat(np.arange(60), 4)
    vectors = people.photographs(labels)
    _, tars = resample_all_pairs([vectors], labels, fars=RATES, draws=2)
    exact = tar_at_far(vectors, labels, RATES).tars["1e-2"]
    assert tars.draws[:, 1] == pytest.approx(exact, abs=0.005)
    assert tars.values[1] == tars.draws[0, 1]


def test_accuracy_at_a_threshold() -> None:
    apart, same, ends = measured_pairs(5, 20, 2, 0.5)
    found = resample_accuracy([apart, apart], same, ends, [1.2, 1.0], draws=4, seed=1)
    weights = draw_weights(20, 4, 1)
    for model, threshold in enumerate((1.2, 1.0)):
        for draw in range(4):
            total, right = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
            for d, s, (a, b) in zip(apart, same.tolist(), ends, strict=True):
                weight = weights[a, draw] * (1 if a == b else weights[b, draw])
                total[s] += weight
                right[s] += weight * ((d < threshold) == s)
            expected = sum(right[s] / total[s] for s in (True, False)) / 2
            assert found.draws[draw, model] == pytest.approx(expected, rel=1e-12)
        assert found.values[model] == ((apart < threshold) == same).mean()


def test_pairs_of_strangers_are_not_counted_three_times() -> None:
    # Nobody is in two pairs: the plain binomial error is right, and products give more.
    generator = np.random.default_rng(0)
    same = np.arange(2000) % 2 == 0
    ends = np.arange(4000).reshape(2000, 2)
    ends[same, 1] = ends[same, 0]
    apart = np.where(same ^ (generator.random(2000) < 0.1), 0.5, 1.5)
    found = resample_accuracy(apart, same, ends, 1.0, draws=1000)
    value = float(found.values[0])
    plain = math.sqrt(value * (1 - value) / 2000)
    interval = found.interval(0)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * plain, rel=0.08)
    assert found.draws.std() == pytest.approx(math.sqrt(2) * plain, rel=0.08)


def test_a_figure_without_errors_has_the_binomial_bound() -> None:
    same = np.arange(40) % 2 == 0
    ends = np.stack([np.arange(40), np.arange(40) + ~same], axis=1) % 40
    apart = np.where(same, 0.5, 1.5)
    found = resample_accuracy(apart, same, ends, 1.0, draws=50).interval(0)
    assert found == Interval(1.0, 0.025 ** (1 / 40), 1.0, 40)


def test_what_cannot_be_measured_is_nan() -> None:
    apart, same, ends = measured_pairs(6, 20, 3, 0.5)
    few = resample_verification(apart, same, ends, draws=20)
    assert math.isnan(few.interval(1).low)  # 60 different pairs say nothing about a FAR of 1e-3
    assert few.interval(0).low < few.values[0] < few.interval(0).high
    broken = resample_verification(np.full(len(apart), math.nan), same, ends, draws=20)
    for figure in (0, 1):
        assert all(math.isnan(x) for x in (broken.interval(figure).low, broken.values[figure]))
    labels = np.repeat(np.arange(30), 4)
    names, nothing = resample_all_pairs([np.full((120, 3), math.nan)], labels, fars=RATES, draws=5)
    assert names == ()
    assert nothing.values.shape == (0,)
    assert resample_all_pairs([np.ones((8, 3))], np.arange(8), draws=5)[0] == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resample_verification(np.ones(3), np.ones(2), np.ones((2, 2))), r"\(P, 2\)"),
        (lambda: resample_accuracy([], [], np.empty((0, 2)), 1), "one pair or more"),
        (lambda: resample_all_pairs([np.ones((3, 2))], [0, 1]), r"one \(N, D\) or more"),
        (lambda: resample_pair_list([1.0], [True], [[0, 1]]), "ends of same pairs are equal"),
        (lambda: resample_pair_list([1.0, 2.0], [True], [[0, 0]]), "P of 1 or more"),
    ],
)
def test_shapes_that_do_not_fit(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def slow_tar(vectors: Floats, labels: Ints, weight: Floats, far: float) -> float:
    """TAR where the weighted FAR is reached; each identity weighs its draw."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    impostors, genuine = [], dict[int, list[float]]()
    for i, j in itertools.combinations(range(len(labels)), 2):
        score, (a, b) = float(unit[i] @ unit[j]), (int(labels[i]), int(labels[j]))
        if a == b:
            genuine.setdefault(a, []).append(score)
        else:
            impostors.append((score, weight[a] * weight[b]))
    impostors.sort(reverse=True)
    allowed, above, threshold = far * sum(w for _, w in impostors), 0.0, -1.0
    for score, w in impostors:
        above += w
        if above >= allowed:
            threshold = score
            break
    shares = {who: np.mean([s > threshold for s in scores]) for who, scores in genuine.items()}
    return float(sum(weight[who] * shares[who] for who in shares)) / sum(
        float(weight[who]) for who in shares
    )


def test_tar_in_each_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertain_tars, "_TILE", 50)
    labels = np.repeat(np.arange(40), [1, 3, 4, 6, 7] * 8)
    vectors = People(1, 40, 0.4).photographs(labels)
    order = np.random.default_rng(0).permutation(len(labels))
    vectors, labels = vectors[order], labels[order]
    names, found = resample_all_pairs([vectors, -vectors], labels, fars=RATES, draws=4, seed=2)
    weights = draw_weights(40, 4, 2)
    assert names == ("1e-2",)
    assert found.values[0] == pytest.approx(tar_at_far(vectors, labels, RATES).tar, abs=0.01)
    for draw in range(4):
        # Levels are an eighth of an octave apart in the data, about so in a draw.
        low, high = (slow_tar(vectors, labels, weights[:, draw], far) for far in (0.008, 0.0125))
        assert (low <= found.draws[draw]).all()  # four figures: two of each model
        assert (found.draws[draw] <= high).all()
        assert high - low < 0.1


def test_counts_of_single_identities_do_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat(np.arange(80), 5)
    vectors = People(2, 80, 0.45).photographs(labels)
    _, products = resample_all_pairs([vectors], labels, fars=RATES, draws=400)
    monkeypatch.setattr(level_counts, "PRODUCTS", 0)
    _, single = resample_all_pairs([vectors], labels, fars=RATES, draws=400)
    assert (products.surplus, single.surplus) == (2, 1)
    lengths = [r.interval(1).high - r.interval(1).low for r in (products, single)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)
    assert np.corrcoef(products.draws[:, 1], single.draws[:, 1])[0, 1] > 0.95


def test_a_list_of_all_pairs_is_all_pairs() -> None:
    labels = np.repeat(np.arange(40), 4)
    vectors = People(3, 40, 0.45).photographs(labels)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.triu_indices(len(labels), 1)
    scores = (unit[first] * unit[second]).sum(axis=1)
    ends = np.stack([labels[second], labels[first]], axis=1)
    _, whole = resample_all_pairs([vectors], labels, fars=RATES, draws=50)
    names, listed = resample_pair_list(scores, ends[:, 0] == ends[:, 1], ends, fars=RATES, draws=50)
    assert names == ("1e-2",)
    for what in ("values", "draws", "parts", "noise"):
        one, other = getattr(whole, what), getattr(listed, what)
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.004)


def test_a_gap_between_groups_keeps_what_they_share() -> None:
    apart, same, ends = measured_pairs(7, 60, 8, 0.5)
    parts = [np.flatnonzero(ends[:, 0] % 3 == k) for k in range(3)]
    found = resample_verification(apart, same, ends, parts=parts, draws=200)
    assert found.values.shape == (6,)
    for number, part in enumerate(parts):
        own = verification_from_distances(apart[part], same[part])
        assert found.values[2 * number] == own.accuracy
    gap, chosen = found.difference(0, 2), found.difference(0, 2, chosen_from=3)
    assert gap.value == found.values[0] - found.values[2]
    assert chosen.low < gap.low < gap.value < gap.high < chosen.high
    assert (chosen.high - chosen.low) / (gap.high - gap.low) == pytest.approx(1.2, abs=0.06)
    assert found.difference(2, 0).low == pytest.approx(-gap.high)


def coverage(found: Callable[[int], Interval], truth: float, repetitions: int) -> float:
    seeds = range(_SEED, _SEED + repetitions)
    hits = [i.low <= truth <= i.high for i in map(found, seeds)]
    return float(np.mean(hits))


def of_pairs(figure: Callable[..., Resampled], *arguments: Any, **keywords: Any) -> Interval:
    return figure(*arguments, **keywords).interval(0)


def ten_folds(seed: int, count: int, each: int, spread: float, draws: int) -> Interval:
    measured = measured_pairs(seed, count, each, spread)
    return of_pairs(resample_verification, *measured, draws=draws, seed=seed)


def all_pairs_tar(seed: int, count: int, each: int, spread: float, draws: int) -> Interval:
    labels = np.repeat(np.arange(count), each)
    vectors = People(seed, count, spread).photographs(labels)
    _, found = resample_all_pairs([vectors], labels, fars=RATES, draws=draws, seed=seed)
    return found.interval(1)


def test_intervals_hold_the_truth_in_short() -> None:
    truth, _ = true_accuracy(0.55)
    found = coverage(lambda seed: ten_folds(seed, 60, 4, 0.55, 60), truth, 40)
    assert 0.85 <= found <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "each", "spread"), [(30, 12, 0.35), (35, 9, 0.4), (100, 4, 0.3), (600, 1, 0.55)]
)
def test_accuracy_s_intervals_hold_the_truth(count: int, each: int, spread: float) -> None:
    truth, threshold = true_accuracy(spread)
    learnt = coverage(lambda seed: ten_folds(seed, count, each, spread, 200), truth, 400)

    def fixed(seed: int) -> Interval:
        measured = measured_pairs(seed, count, each, spread)
        return of_pairs(resample_accuracy, *measured, threshold, draws=200, seed=seed)

    assert 0.92 <= learnt <= 0.98
    assert 0.92 <= coverage(fixed, truth, 400) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("count", "each"), [(40, 8), (100, 5)])
def test_tar_s_intervals_hold_the_truth(count: int, each: int) -> None:
    truth = true_tar(0.45, 0.01)
    found = coverage(lambda seed: all_pairs_tar(seed, count, each, 0.45, 200), truth, 400)
    assert 0.92 <= found <= 0.98


@pytest.mark.slow
def test_a_gap_s_intervals_hold_the_truth() -> None:
    # Two groups that differ in nothing but who is in them: the true gap is 0.
    def gap(seed: int) -> Interval:
        apart, same, ends = measured_pairs(seed, 100, 5, 0.5)
        parts = [np.flatnonzero(ends[:, 0] % 2 == k) for k in range(2)]
        found = resample_verification(apart, same, ends, parts=parts, draws=200, seed=seed)
        return found.difference(0, 2)

    assert 0.92 <= coverage(gap, 0.0, 400) <= 0.98


def test_one_error_among_thirty_people_has_the_binomial_interval() -> None:
    right = np.ones(30)
    right[7] = 0.0
    drawn = draw_weights(30, 2000, seed=3)
    found = Resampled(
        values=np.array([right.mean()]),
        draws=(right @ drawn / 30)[:, None],
        parts=((right - right.mean()) / 30)[:, None],
        noise=np.zeros((1, 1)),
        members=np.array([30]),
        surplus=0,
    ).interval(0)
    # Clopper and Pearson's 95 % interval of 29 in 30.
    assert (found.low, found.high) == pytest.approx((0.8278, 0.9992), abs=0.01)
