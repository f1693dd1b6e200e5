"""Search, 1:N and distractors, against lists that are sorted as a whole."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facerec.evaluation import identification
from facerec.evaluation.identification import cmc, identify, identify_among
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
    curve = cmc(found.mate_ranks, 10)
    assert [curve[rank - 1] for rank in (1, 5, 10)] == list(ranks.values())
    monkeypatch.setattr(identification, "BLOCK", 8)  # rows in parts of one or two
    again = identify(*given)
    assert (dict(again.ranks), dict(again.tpirs)) == (ranks, tpirs)


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
    highest, everything = Highest(40), np.sort(np.concatenate(tiles).ravel())[::-1]
    for tile in tiles:
        highest.add(tile)
    np.testing.assert_array_equal(highest.descending(), everything[:40])
    few = Highest(40)
    few.add(np.array([1.0, -math.inf, 3.0, math.nan]))
    assert few.descending().tolist() == [3.0, 1.0]
    assert len(Highest(3).descending()) == 0
    best = Best(2, 3, np.dtype(np.float64))
    best.add(0, np.array([[1.0, 2.0], [5.0, 4.0]]))
    best.add(2, np.array([[3.0, 2.0], [4.0, 0.0]]))
    assert best.rows.tolist() == [[2, 1, 3], [0, 1, 2]]


def slow_among(
    probes: Array, identities: Ints, distractors: Array, per: int
) -> tuple[list[int], float, float]:
    """Ranks of all pairs, TAR and its threshold."""
    unit, others = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (probes, distractors))
    wrong = unit @ others.T
    ranks, genuine = [], []
    for i in range(len(unit)):
        for j in range(len(unit)):
            if i != j and identities[i] == identities[j]:
                score = float(unit[i] @ unit[j])
                genuine.append(score)
                ranks.append(1 + sum(other >= score for other in wrong[i].tolist()))
    ordered = sorted(wrong.ravel().tolist(), reverse=True)
    threshold = ordered[len(ordered) // per]
    return ranks, sum(score > threshold for score in genuine) / len(genuine), threshold


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("block", [16, 4096])
def test_among_distractors_as_defined(block: int, ties: bool) -> None:
    generator = np.random.default_rng(5)
    identities = generator.integers(0, 12, 60) * 5
    own = generator.standard_normal((60, 10))
    probes = own[identities] + generator.standard_normal((60, 10))
    distractors = generator.standard_normal((700, 10)) * generator.uniform(1, 9, (700, 1))
    if ties:
        probes, distractors = (CORNERS[generator.integers(0, 16, n)] for n in (60, 700))
    ranks, tar, threshold = slow_among(probes, identities, distractors, 100)
    found = identify_among(
        probes, identities, distractors, (1, 10, 50), {"1e-2": 100, "1e-6": 10**6}, block=block
    )
    assert found.pair_ranks.tolist() == [min(rank, 51) for rank in ranks]
    for rank in (1, 10, 50):
        assert found.ranks[rank] == pytest.approx(np.mean(np.array(ranks) <= rank), rel=1e-12)
    assert found.tars["1e-2"] == tar
    assert found.thresholds["1e-2"] == pytest.approx(threshold, rel=1e-12)
    assert math.isnan(found.tars["1e-6"])
    assert found.reason == "42000 impostor pairs; FAR 1e-6 needs 100000000"
    assert found.distractors == 700


def test_distractors_are_read_from_a_file_in_blocks(tmp_path: Any) -> None:
    generator = np.random.default_rng(6)
    probes = generator.standard_normal((20, 6)).astype(np.float32)
    distractors = generator.standard_normal((500, 6)).astype(np.float32)
    np.save(tmp_path / "distractors.npy", distractors)
    mapped = np.load(tmp_path / "distractors.npy", mmap_mode="r")
    identities = np.arange(20) // 2
    found = identify_among(probes, identities, mapped, block=64)
    assert dict(found.ranks) == dict(identify_among(probes, identities, distractors).ranks)


@pytest.mark.parametrize(
    ("probes", "identities", "distractors", "reason"),
    [
        (np.full((4, 3), math.nan), [0, 0, 1, 1], np.eye(3), "embeddings are not finite"),
        (np.ones((4, 3)), [0, 0, 1, 1], np.eye(3), "collapsed"),
        (np.eye(4, 3), [0, 1, 2, 3], np.eye(3), "no identity has two images"),
        (np.eye(4, 3), [0, 0, 1, 1], np.empty((0, 3)), "no distractors"),
        (np.eye(4, 3), [0, 0, 1, 1], np.full((5, 3), math.inf), "distractors 0 to 4: not all"),
        (np.empty((0, 3)), [], np.eye(3), "no identity has two images"),
    ],
)
def test_among_distractors_without_a_number(
    probes: Array, identities: list[int], distractors: Array, reason: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = identify_among(probes, identities, distractors)
    assert reason in found.reason
    assert all(math.isnan(n) for n in (*found.ranks.values(), *found.tars.values()))


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"probes \(4, 3\) and identities \(3,\)"):
        identify_among(np.ones((4, 3)), np.ones(3), np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"distractors \(4, 2\) and probes \(4, 3\)"):
        identify_among(np.ones((4, 3)), np.ones(4), np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"gallery \(4, 3\) and subjects \(3,\)"):
        identify(np.ones((4, 3)), np.ones(4), np.ones((4, 3)), np.ones(3))
    with pytest.raises(ValueError, match="differ in size"):
        identify(np.ones((4, 3)), np.ones(4), np.ones((4, 2)), np.ones(4))
