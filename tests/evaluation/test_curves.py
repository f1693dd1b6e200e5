"""Counts of scores and the curves read off them, against scores looked at one by one."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from facerec.evaluation import curves
from facerec.evaluation.curves import ScoreCounts, count_all_pairs, count_scores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
WIDTH = 2**-14


def draw(seed: int, count: int = 120) -> tuple[Floats, Bools]:
    """Overlapping scores, some of them on edges, some alike."""
    generator = np.random.default_rng(seed)
    same = generator.random(count) < 0.4
    scores = np.where(same, 0.3, 0.0) + generator.normal(0, 0.2, count)
    scores[::5] = np.round(scores[::5] * 8) / 8
    return scores.clip(-1, 1), same


def slow_bins(scores: list[float]) -> dict[int, int]:
    found: dict[int, int] = {}
    for score in scores:
        place = min(max(math.floor((score + 1) / WIDTH), 0), 2**15 - 1)
        found[place] = found.get(place, 0) + 1
    return found


def filled(counts: NDArray[np.int64]) -> dict[int, int]:
    return {int(place): int(counts[place]) for place in np.flatnonzero(counts)}


def test_each_score_is_in_its_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_BLOCK", 7)
    scores, same = draw(0)
    scores[:4] = 1, -1, 1 + 1e-6, -1 - 1e-6
    same[:4] = True
    found = count_scores(scores, same)
    assert filled(found.genuine) == slow_bins(scores[same].tolist())
    assert filled(found.impostors) == slow_bins(scores[~same].tolist())
    assert found.edges[[0, 1, -1]].tolist() == [-1, -1 + WIDTH, 1]
    assert len(found.edges) == len(found.genuine) + 1
    assert found.genuine_pairs == same.sum()
    assert found.skipped == 0


def test_scores_that_are_not_finite_are_only_told() -> None:
    scores, same = draw(1, 40)
    whole = count_scores(scores, same)
    broken = np.concatenate([scores, [math.nan, math.inf, -math.inf]])
    found = count_scores(broken, np.concatenate([same, [True, False, False]]))
    assert np.array_equal(found.genuine, whole.genuine)
    assert np.array_equal(found.impostors, whole.impostors)
    assert found.skipped == 3


def test_all_pairs_are_counted_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_TILE", 5)
    generator = np.random.default_rng(2)
    vectors = generator.normal(size=(18, 6)) * generator.uniform(1e-3, 1e3, (18, 1))
    labels = generator.integers(0, 5, 18)
    vectors[3], vectors[4], vectors[5, 1], vectors[6] = 0, vectors[7], math.nan, 1e200 * vectors[6]
    genuine: list[float] = []
    impostors: list[float] = []
    skipped = 0
    for one, two in itertools.combinations(range(18), 2):
        if 5 in (one, two):
            skipped += 1
            continue
        a, b = (row / max(np.abs(row).max(), 1e-9) for row in (vectors[one], vectors[two]))
        lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
        kind = genuine if labels[one] == labels[two] else impostors
        kind.append(float(a @ b) / lengths if lengths else 0.0)
    found = count_all_pairs(vectors, labels)
    assert filled(found.genuine) == slow_bins(genuine)
    assert filled(found.impostors) == slow_bins(impostors)
    assert found.skipped == skipped == 17


@pytest.mark.parametrize("seed", range(3))
def test_each_point_of_the_curve_is_exact(seed: int) -> None:
    scores, same = draw(seed)
    roc = count_scores(scores, same).roc()
    assert len(roc.far) == len(roc.tar) == len(roc.thresholds) == 2**15 + 1
    assert (roc.far[0], roc.tar[0], roc.far[-1], roc.tar[-1]) == (0, 0, 1, 1)
    assert (np.diff(roc.thresholds) < 0).all()
    for place in [*range(1, 2**15, 501), *np.flatnonzero(np.diff(roc.tar))[:40] + 1]:
        accepted = [bool(score >= roc.thresholds[place]) for score in scores]
        right = sum(a and bool(s) for a, s in zip(accepted, same, strict=True))
        wrong = sum(a and not s for a, s in zip(accepted, same, strict=True))
        assert roc.tar[place] == right / same.sum()
        assert roc.far[place] == wrong / (~same).sum()


def slow_eer(scores: Floats, same: Bools) -> tuple[float, float]:
    """By fractions, over the bins that hold a score, from the highest down."""
    places = [math.floor(score / WIDTH) for score in scores.tolist()]
    genuine = [place for place, kind in zip(places, same.tolist(), strict=True) if kind]
    impostors = [place for place, kind in zip(places, same.tolist(), strict=True) if not kind]
    before = (Fraction(0), Fraction(1))
    levels = sorted(set(places), reverse=True)
    for level, following in itertools.pairwise([*levels, -(2**14)]):
        far = Fraction(sum(place >= level for place in impostors), len(impostors))
        missed = Fraction(sum(place < level for place in genuine), len(genuine))
        if far == missed:  # from this edge down to the next bin with a score
            return float(far), (level + following + 1) / 2 * WIDTH
        if far > missed:
            share = (before[1] - before[0]) / (before[1] - before[0] + far - missed)
            rate = before[0] + share * (far - before[0])
            return float(rate), float(level + 1 - share) * WIDTH
        before = (far, missed)
    raise AssertionError


@pytest.mark.parametrize("seed", range(6))
def test_equal_errors_are_those_of_the_line_between_two_points(seed: int) -> None:
    scores, same = draw(seed, 75 + seed)
    rate, threshold = count_scores(scores, same).eer
    slow_rate, slow_threshold = slow_eer(scores, same)
    assert rate == pytest.approx(slow_rate, abs=1e-12)
    assert threshold == pytest.approx(slow_threshold, abs=1e-12)


def test_equal_errors_of_known_scores() -> None:
    apart = count_scores([0.75, 0.5, 0.25, 0.0], [True, True, False, False])
    assert apart.eer[0] == 0
    assert apart.eer[1] == pytest.approx((0.5 + 0.25) / 2, abs=WIDTH)
    # One bin takes FAR from 0 to 1 and 1 - TAR from 1/2 to 0: they meet at a third of it.
    crossed = count_scores([0.75, 0.5, 0.5], [True, True, False])
    assert crossed.eer[0] == pytest.approx(1 / 3)
    assert crossed.eer[1] == pytest.approx(0.5 + WIDTH * 2 / 3)
    # One genuine pair of two below the impostor: equal from 0.75 down to 0.5, at a half each.
    swapped = count_scores([0.875, 0.75, 0.5, 0.25], [True, False, True, False])
    assert swapped.eer[0] == 0.5
    assert swapped.eer[1] == pytest.approx((0.75 + 0.5) / 2, abs=WIDTH)


@pytest.mark.parametrize("same", [[True, True], [False, False]])
def test_pairs_of_one_kind_have_no_rate_of_the_other(same: list[bool]) -> None:
    counts = count_scores([0.5, 0.25], same)
    roc = counts.roc()
    assert np.isnan(roc.far).all() == same[0]
    assert np.isnan(roc.tar).all() != same[0]
    assert all(map(math.isnan, counts.eer))
    assert len(counts.best()[0]) == 0
    assert math.isnan(counts.threshold(0.1)) == same[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_best_rate_of_each_number_of_false_accepts(seed: int) -> None:
    scores, same = draw(seed)
    if seed == 2:  # no threshold has a single false accept
        scores[~same] = np.minimum(scores[~same], 0.25)
    counts = count_scores(scores, same)
    places = np.floor(scores / WIDTH)  # scores of one bin are accepted together
    found: dict[int, float] = {}
    for threshold in sorted(set(places.tolist()), reverse=True):
        wrong = int(sum(places[~same] >= threshold))
        found[wrong] = float(np.mean(places[same] >= threshold))
    fewest = found.pop(0, 0.0)
    impostors = int((~same).sum())
    found.setdefault(1, fewest)
    far, tar = counts.best()
    assert np.round(far * impostors).tolist() == sorted(found)
    assert np.allclose(tar, [found[wrong] for wrong in sorted(found)])
    for wrong in (0, 1, 5, 20):
        edge = counts.threshold(wrong / impostors)
        assert sum(scores[~same] >= edge) <= wrong < sum(scores[~same] >= edge - WIDTH)


def test_densities_are_the_histogram_of_the_scores() -> None:
    scores, same = draw(5, 900)
    edges, genuine, impostors = count_scores(scores, same).densities()
    bars = edges[1] - edges[0]
    assert 8 <= len(genuine) <= 240
    assert np.allclose(np.diff(edges), bars)
    for kind, density in ((same, genuine), (~same, impostors)):
        slow = [sum(low <= s < low + bars for s in scores[kind]) for low in edges[:-1]]
        assert np.allclose(density * bars * kind.sum(), slow)
        assert density.sum() * bars == pytest.approx(1)


def test_densities_of_one_score_and_of_none() -> None:
    edges, genuine, impostors = count_scores([0.5], [True]).densities()
    assert edges.tolist() == [0.5, 0.5 + WIDTH]
    assert genuine.tolist() == [1 / WIDTH]
    assert impostors.tolist() == [0]
    none = count_scores([], []).densities()
    assert [len(part) for part in none] == [2, 1, 1]
    assert none[1].sum() == none[2].sum() == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"score 4: takes cosines"):
        count_scores([0.5, 4.0], [True, False])
    with pytest.raises(ValueError, match=r"scores \(2,\) and same \(3,\)"):
        count_scores([0.5, 0.5], [True, False, True])
    with pytest.raises(ValueError, match=r"embeddings \(3, 2\) and labels \(2,\)"):
        count_all_pairs(np.zeros((3, 2)), [0, 1])
    assert isinstance(count_all_pairs(np.zeros((0, 4)), []), ScoreCounts)
