"""Identification among distractors, against lists that are sorted as a whole."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facerec.evaluation.distractors import identify_among
from tests.evaluation.test_identification import CORNERS

Array = NDArray[Any]
Ints = NDArray[np.int64]


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
    unit, others = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (probes, distractors))
    pairs = [(i, j) for i in range(60) for j in range(60) if i != j]
    pairs = [(i, j) for i, j in pairs if identities[i] == identities[j]]
    assert found.pair_probes.tolist() == [i for i, _ in pairs]
    np.testing.assert_allclose(found.pair_scores, [unit[i] @ unit[j] for i, j in pairs], atol=1e-12)
    wrong = unit @ others.T
    kept = 4 * (60 * 700 // 100 + 1)
    everything = np.sort(wrong.ravel())[::-1]
    np.testing.assert_allclose(found.wrong_scores, everything[:kept], rtol=0, atol=1e-12)
    for score, probe in zip(found.wrong_scores[::9], found.wrong_probes[::9], strict=True):
        assert np.abs(wrong[probe] - score).min() < 1e-12


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
