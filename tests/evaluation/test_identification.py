"""Search and 1:N, against lists that are sorted as a whole."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facerec.evaluation import identification
from facerec.evaluation.identification import cmc, identify
from facerec.evaluation.search import Best, Highest, search

Array = NDArray[Any]
Ints = NDArray[np.int64]
CORNERS = np.array([[(n >> bit & 1) - 0.5 for bit in range(4)] for n in range(16)])  # length 1


def slow_identify(
    probes: Array, whose: Ints, gallery: Array, known: Ints
) -> tuple[dict[int, float], dict[str, float]]:
    """The whole table of scores, each row sorted; the mates taken out, the rest sorted."""
    table = probes @ gallery.T
    mates = [known.tolist().index(subject) for subject in whose.tolist()]
    order = [sorted(range(len(gallery)), key=lambda g, q=q: (-table[q, g], g))
             for q in range(len(probes))]  # fmt: skip
    ranks = {
        rank: sum(mates[q] in order[q][:rank] for q in range(len(probes))) / len(probes)
        for rank in (1, 5, 10)
    }
    wrong = sorted(
        (table[q, g] for q in range(len(probes)) for g in range(len(gallery)) if g != mates[q]),
        reverse=True,
    )
    tpirs = {}
    for name, rate in (("0.01", 0.01), ("0.1", 0.1)):
        threshold = wrong[math.ceil(len(probes) * rate) - 1]
        above = sum(table[q, mates[q]] > threshold for q in range(len(probes)))
        tpirs[name] = above / len(probes)
    return ranks, tpirs


def draw(seed: int, probes: int, gallery: int, ties: bool) -> tuple[Array, Ints, Array, Ints]:
    generator = np.random.default_rng(seed)
    subjects = generator.permutation(gallery) * 3
    features = generator.standard_normal((gallery, 12))
    whose = generator.integers(0, gallery, probes)
    found = features[whose] + 1.5 * generator.standard_normal((probes, 12))
    if ties:  # scores of 4-d corners are few and exact
        features = CORNERS[generator.integers(0, 16, gallery)]
        found = features[whose] * generator.choice([-1, 1, 1, 1], (probes, 4))
    else:
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found, subjects[whose], features, subjects


def wrong_table(probes: Array, whose: Ints, gallery: Array, known: Ints) -> Array:
    return np.where(whose[:, None] == known, -math.inf, probes @ gallery.T)


def check_wrong(scores: Array, owners: Ints, table: Array) -> None:
    """The highest 1000 of all, each of the probe that it is said to be of, once."""
    everything = sorted(table[table > -math.inf].tolist(), reverse=True)
    np.testing.assert_allclose(scores, everything[:1000], rtol=0, atol=1e-12)
    for probe, row in enumerate(table):
        mine, last = scores[owners == probe], scores[-1]
        np.testing.assert_allclose(mine, np.sort(row)[::-1][: len(mine)], rtol=0, atol=1e-12)
        assert (row > last + 1e-12).sum() <= len(mine) <= (row >= last - 1e-12).sum()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("probes", "gallery"), [(300, 40), (57, 120), (1, 30), (30, 4)])
def test_one_to_many_as_defined(
    probes: int, gallery: int, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = draw(probes, probes, gallery, ties)
    found = identify(*given)
    assert found.reason == ""
    ranks, tpirs = slow_identify(*given)
    assert dict(found.ranks) == ranks
    assert dict(found.tpirs) == tpirs
    assert found.mate_ranks.shape == found.mate_scores.shape == (probes,)
    check_wrong(found.wrong_scores, found.wrong_probes, wrong_table(*given))
    curve = cmc(found.mate_ranks, 10)
    assert [curve[rank - 1] for rank in (1, 5, 10)] == list(ranks.values())
    monkeypatch.setattr(identification, "BLOCK", 8)  # rows in parts of one or two
    again = identify(*given)
    assert (dict(again.ranks), dict(again.tpirs)) == (ranks, tpirs)
    check_wrong(again.wrong_scores, again.wrong_probes, wrong_table(*given))


def test_a_mate_need_not_be_first_to_be_above_the_threshold() -> None:
    # FPIR 0.1 of 20 probes is the second highest wrong score; both are of probe 0.
    gallery = np.eye(20)
    probes = np.eye(20) * 0.5
    probes[0, 1:3] = 0.9, 0.8
    probes[1, 1] = 0.85
    found = identify(probes, np.arange(20), gallery, np.arange(20))
    assert found.ranks[1] == 19 / 20
    assert found.ranks[5] == 1.0
    assert found.thresholds["0.1"] == 0.8
    assert found.tpirs["0.1"] == 1 / 20


def test_of_equal_scores_the_first_of_the_gallery_comes_first() -> None:
    found = identify(CORNERS[[0, 0]], [1, 2], CORNERS[[0, 0, 5]], [1, 2, 3])
    assert found.mate_ranks.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"probes": np.full((4, 3), math.nan)}, "not finite"),
        ({"gallery": np.ones((5, 3))}, "collapsed"),
        ({"probe_subjects": [0, 1, 2, 9]}, "has 0 mates of probe 3 (subject 9)"),
        ({"gallery_subjects": [0, 1, 2, 3, 1]}, "has 2 mates of probe 1 (subject 1)"),
        ({"probes": np.empty((0, 3)), "probe_subjects": []}, "0 probes"),
    ],
)
def test_one_to_many_without_a_number(change: dict[str, Any], reason: str) -> None:
    generator = np.random.default_rng(0)
    given = {
        "probes": generator.standard_normal((4, 3)),
        "probe_subjects": [0, 1, 2, 3],
        "gallery": generator.standard_normal((5, 3)),
        "gallery_subjects": [0, 1, 2, 3, 4],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = identify(**(given | change))
    assert reason in found.reason
    assert all(math.isnan(n) for n in (*found.ranks.values(), *found.tpirs.values()))
    assert np.isnan(cmc(found.mate_ranks, 3)).all()


def test_a_gallery_of_one_has_no_wrong_scores() -> None:
    found = identify([[1.0, 0.0]], [7], [[0.0, 1.0]], [7])
    assert found.ranks[1] == 1.0
    assert math.isnan(found.tpirs["0.01"])
    assert found.reason == "FPIR 0.1: 1 scores with others wanted, there are 0"


def slow_search(queries: Array, base: Array, k: int) -> tuple[Array, Ints]:
    table = queries @ base.T
    rows = np.argsort(-table, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(table, rows, axis=1), rows


@pytest.mark.parametrize("block", [1, 7, 64, 5000])
@pytest.mark.parametrize("k", [1, 10, 90])
def test_search_is_exact(k: int, block: int) -> None:
    generator = np.random.default_rng(k)
    base, queries = generator.standard_normal((90, 8)), generator.standard_normal((9, 8))
    scores, rows = search(queries, base, k, block)
    expected = slow_search(queries, base, k)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_allclose(scores, expected[0], rtol=0, atol=1e-13)
    single = search(queries.astype(np.float32), base.astype(np.float32), k, block)[0]
    assert single.dtype == np.float32


@pytest.mark.parametrize("block", [1, 7, 500])
def test_search_among_ties_takes_the_first_rows(block: int) -> None:
    generator = np.random.default_rng(1)
    base = CORNERS[generator.integers(0, 16, 150)]
    scores, rows = search(CORNERS, base, 25, block)
    expected = slow_search(CORNERS, base, 25)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(scores, expected[0])


def test_search_never_finds_what_is_not_finite() -> None:
    base = np.eye(6)
    base[2] = math.nan
    for block in (1, 6):
        scores, rows = search(np.eye(6)[:1], base, 6, block)
        assert rows.tolist() == [[0, 1, 3, 4, 5, -1]]
        assert scores[0, -1] == -math.inf
    with pytest.raises(ValueError, match="k = 7: takes 1 to 6"):
        search(np.eye(6), base, 7)
    with pytest.raises(ValueError, match=r"queries \(6, 6\) and base \(6, 5\)"):
        search(np.eye(6), base[:, 1:], 2)


def test_the_highest_of_many_tiles() -> None:
    generator = np.random.default_rng(2)
    tiles = [generator.standard_normal((9, 11)) for _ in range(12)]
    table = np.concatenate(tiles)
    order = np.argsort(-table.ravel())[:40]
    for keep in (40, 90):  # the first tile alone is more than twice the one, less than the other
        highest = Highest(keep)
        for number, tile in enumerate(tiles):
            highest.add(9 * number, tile)
        scores, rows = highest.descending()
        np.testing.assert_array_equal(scores[:40], table.ravel()[order])
        np.testing.assert_array_equal(rows[:40], order // 11)
        assert len(scores) == len(rows) == keep
    few = Highest(40)
    few.add(7, np.array([[1.0, -math.inf], [3.0, math.nan]]))
    assert [part.tolist() for part in few.descending()] == [[3.0, 1.0], [8, 7]]
    assert [part.tolist() for part in Highest(3).descending()] == [[], []]
    best = Best(2, 3, np.dtype(np.float64))
    best.add(0, np.array([[1.0, 2.0], [5.0, 4.0]]))
    best.add(2, np.array([[3.0, 2.0], [4.0, 0.0]]))
    assert best.rows.tolist() == [[2, 1, 3], [0, 1, 2]]


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"gallery \(4, 3\) and subjects \(3,\)"):
        identify(np.ones((4, 3)), np.ones(4), np.ones((4, 3)), np.ones(3))
    with pytest.raises(ValueError, match="differ in size"):
        identify(np.ones((4, 3)), np.ones(4), np.ones((4, 2)), np.ones(4))
