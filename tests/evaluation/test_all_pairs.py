"""TAR at FAR over all pairs, against a loop over all pairs."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from facerec.evaluation import metrics
from facerec.evaluation.metrics import FARS, AllPairs, tar_at_far

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def slow_tars(embeddings: Floats, labels: Ints) -> dict[str, float]:
    unit = [e / np.linalg.norm(e) for e in embeddings]
    impostors: list[float] = []
    genuine: dict[int, list[float]] = {}
    for i, j in itertools.combinations(range(len(unit)), 2):
        score = float(np.dot(unit[i], unit[j]))
        if labels[i] == labels[j]:
            genuine.setdefault(int(labels[i]), []).append(score)
        else:
            impostors.append(score)
    impostors.sort()
    tars = {}
    for name, per in FARS.items():
        if len(impostors) < 100 * per:
            continue
        # The lowest impostor score above which at most one in `per` of them lies.
        limit, above, seen = len(impostors) // per, 0, 0
        threshold = math.inf
        for score, ties in itertools.groupby(reversed(impostors)):
            above, seen = seen, seen + len(list(ties))
            if above > limit:
                break
            threshold = score
        shares = [sum(s > threshold for s in scores) / len(scores) for scores in genuine.values()]
        tars[name] = sum(shares) / len(shares)
    return tars


def assert_same(found: AllPairs, embeddings: Floats, labels: Ints) -> None:
    slow = slow_tars(embeddings, labels)
    assert found.reason == ""
    assert dict(found.tars) == pytest.approx(slow, rel=1e-12)
    assert list(found.tars) == [name for name in FARS if name in slow]
    assert found.tar == pytest.approx(sum(slow.values()) / len(slow), rel=1e-12)


def draw(seed: int, images: list[int], size: int = 8) -> tuple[Floats, Ints]:
    """Identities of so many images each, in no order, their labels with gaps."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(images)) * 3 + 5, images)
    own = generator.standard_normal((len(images), size))
    vectors = np.repeat(own, images, axis=0) + 0.5 * generator.standard_normal((len(labels), size))
    order = generator.permutation(len(labels))
    lengths = generator.uniform(0.1, 9, (len(labels), 1))
    return (vectors * lengths)[order], labels[order]


@pytest.mark.parametrize("tile", [7, 64, 2048])
@pytest.mark.parametrize("seed", [0, 1])
def test_as_defined(seed: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_TILE", tile)
    images = [1, 8, 2, 3, 8, 5, 1, 2] * 5 + [30]
    embeddings, labels = draw(seed, images)
    found = tar_at_far(embeddings, labels)
    assert_same(found, embeddings, labels)
    assert list(found.tars) == ["1e-2"]
    assert 0.05 < found.tar < 0.95
    assert found.genuine_pairs == sum(n * (n - 1) // 2 for n in images)
    assert found.impostor_pairs == math.comb(sum(images), 2) - found.genuine_pairs


def test_each_rate_that_has_enough_pairs() -> None:
    embeddings, labels = draw(2, [4] * 120)  # 114,240 impostor pairs
    found = tar_at_far(embeddings, labels)
    assert_same(found, embeddings, labels)
    assert list(found.tars) == ["1e-3", "1e-2"]
    assert found.tars["1e-3"] < found.tars["1e-2"]


def test_ties_are_refused_and_the_rate_is_never_exceeded() -> None:
    # Corners of a cube: few different scores, so thresholds fall into ties.
    generator = np.random.default_rng(4)
    labels = np.repeat(np.arange(50), 4)
    corners = generator.choice([-1.0, 1.0], (50, 4))
    flips = np.where(generator.random((200, 4)) < 0.1, -1, 1)
    embeddings = np.repeat(corners, 4, axis=0) * flips  # all of length 2: scores are exact
    found = tar_at_far(embeddings, labels)
    assert_same(found, embeddings, labels)
    assert found.tar == 0.0  # the threshold is 1, which also the genuine pairs only reach
    assert found.thresholds["1e-2"] == 1.0


def test_exactly_as_many_impostors_as_the_rate_allows() -> None:
    # 142 images of 71 identities: 9,940 impostor pairs are too few; 144 of 72: 10,224, 102 allowed.
    embeddings, labels = draw(6, [2] * 72)
    found = tar_at_far(embeddings, labels)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = unit @ unit.T
    impostors = scores[np.triu(labels[:, None] != labels[None, :], 1)]
    assert np.sum(impostors > found.thresholds["1e-2"] + 1e-12) == 102
    assert np.sum(impostors > found.thresholds["1e-2"] - 1e-12) == 103
    assert math.isnan(tar_at_far(*draw(6, [2] * 71)).tar)


def test_each_identity_weighs_the_same() -> None:
    # Identity 0: 60 images on one point, all its pairs accepted. 80 others: two images, opposite.
    generator = np.random.default_rng(7)
    own = generator.standard_normal((81, 64))
    labels = np.concatenate([np.zeros(60, np.int64), np.repeat(np.arange(1, 81), 2)])
    embeddings = own[labels]
    embeddings[61::2] *= -1
    found = tar_at_far(embeddings, labels)
    assert found.tar == pytest.approx(1 / 81)


def test_pairs_that_are_dropped_early_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels = draw(8, [3] * 100)
    whole = tar_at_far(embeddings, labels)
    monkeypatch.setattr(metrics, "_TILE", 16)  # the pool is cut down many times
    kept: list[int] = []
    highest = metrics._highest

    def counting(scores: Floats, keep: int) -> Floats:
        kept.append(len(scores))
        return highest(scores, keep)

    monkeypatch.setattr(metrics, "_highest", counting)
    tiled = tar_at_far(embeddings, labels)
    assert len(kept) > 3
    assert max(kept) < whole.impostor_pairs / 10
    assert tiled.tars == whole.tars
    assert tiled.thresholds == pytest.approx(whole.thresholds)


def test_nothing_but_direction_counts() -> None:
    embeddings, labels = draw(9, [4] * 50)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))
    one = tar_at_far(embeddings, labels)
    two = tar_at_far((embeddings @ turn * 1e-3).astype(np.float32)[::-1], labels[::-1])
    assert one.tars == two.tars


@pytest.mark.parametrize(
    ("embeddings", "reason"),
    [
        (np.full((200, 4), np.nan), "not finite"),
        (np.where(np.arange(800).reshape(200, 4) == 33, np.inf, 1.0), "not finite"),
        (np.ones((200, 4)), "collapsed"),
        (np.zeros((200, 4)), "collapsed"),
        (np.ones((200, 4)) + 1e-9 * np.eye(200, 4), "collapsed"),
    ],
)
def test_broken_embeddings_give_nan_and_a_reason(embeddings: Floats, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tar_at_far(embeddings, np.repeat(np.arange(50), 4))
    assert math.isnan(found.tar)
    assert found.tars == {}
    assert reason in found.reason


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (
            np.repeat(np.arange(10), 8),
            "2880 impostor pairs (80 images of 10 identities); "
            "FAR 0.01 needs 10000: about 19 identities of 8 images",
        ),
        (np.zeros(50), "0 impostor pairs (50 images of 1 identities)"),
        (np.empty(0), "0 impostor pairs (0 images"),
        (np.arange(200), "no identity has two images"),
    ],
)
def test_sets_that_are_too_small_say_what_they_need(labels: Ints, reason: str) -> None:
    embeddings = np.random.default_rng(0).standard_normal((len(labels), 8))
    found = tar_at_far(embeddings, labels)
    assert math.isnan(found.tar)
    assert reason in found.reason


def test_the_number_of_identities_that_is_named_suffices() -> None:
    assert not tar_at_far(*draw(0, [8] * 19)).reason
    assert tar_at_far(*draw(0, [8] * 18)).reason


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"embeddings \(4, 2\) and labels \(3,\)"):
        tar_at_far(np.ones((4, 2)), np.ones(3))
