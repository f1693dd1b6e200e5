"""Thresholds and centers: one pair at a time, by hand, against tiles."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facerec import history
from facerec.backbones import build
from facerec.data.shards import Shards
from facerec.evaluation import geometry
from facerec.evaluation.embed import embed
from facerec.train import train
from tests.test_train import silent, toy_config

NAMES = {f"threshold.{name}" for name in ("gap", "violations", "error", "best", "spread")} | {
    f"geometry.{name}"
    for name in (
        *("nearest_min", "nearest_mean", "nearest_p5", "min_avg"),
        *("effective_rank", "mean_length"),
    )
}


def cosine(one: Tensor, two: Tensor) -> float:
    return float(torch.dot(one, two)) / math.dist(one, 0 * one) / math.dist(two, 0 * two)


def least_cuts(wrong: Callable[[float], float], scores: list[float]) -> list[float]:
    """Middles between neighbouring scores where `wrong` is least, ascending."""
    ends = sorted(set(scores))
    middles = [(low + high) / 2 for low, high in itertools.pairwise(ends)]
    counts = [round(wrong(t), 12) for t in middles]
    least = min(counts, default=0.0)
    return [t for t, count in zip(middles, counts, strict=True) if count == least]


def slow_thresholds(x: Tensor, labels: Tensor, w: Tensor) -> dict[str, float]:
    table = [[cosine(image, center) for center in w] for image in x]
    y: list[int] = labels.tolist()
    own = [row[label] for row, label in zip(table, y, strict=True)]
    hardest = [
        max(c for j, c in enumerate(row) if j != label) for row, label in zip(table, y, strict=True)
    ]

    def wrong(t: float) -> float:
        return (sum(a < t for a in own) + sum(b > t for b in hardest)) / len(y) / 2

    best = least_cuts(wrong, [*own, *hardest])[-1]
    each = []
    for label, count in Counter(y).items():
        if count < 2:
            continue
        scores = [row[label] for row in table]
        others = len(y) - count

        def own_wrong(
            t: float, label: int = label, count: int = count, others: int = others
        ) -> float:
            pairs = [(row[label], mine == label) for row, mine in zip(table, y, strict=True)]
            below = sum(score < t for score, mine in pairs if mine)
            above = sum(score >= t for score, mine in pairs if not mine)
            return below / count + above / others

        each.append(least_cuts(own_wrong, scores)[-1])
    return {
        "threshold.gap": min(own) - max(hardest),
        "threshold.violations": sum(a <= max(hardest) for a in own) / len(y),
        "threshold.error": wrong(best),
        "threshold.best": best,
        "threshold.spread": float(np.std(each)),
    }


def slow_uniformity(w: Tensor) -> dict[str, float]:
    unit = [center / center.norm() for center in w]

    def nearest(points: list[Tensor]) -> list[float]:
        return [
            min(float((one - two).norm()) for j, two in enumerate(points) if j != i)
            for i, one in enumerate(points)
        ]

    angular = nearest(unit)
    singular = np.linalg.svd(torch.stack(unit).numpy(), compute_uv=False)
    share = singular / singular.sum()
    return {
        "geometry.nearest_min": min(angular),
        "geometry.nearest_mean": sum(angular) / len(angular),
        "geometry.nearest_p5": float(np.percentile(angular, 5)),
        "geometry.min_avg": sum(d**2 for d in nearest(list(w))) / len(w),
        "geometry.effective_rank": math.prod(p**-p for p in share if p > 0),
        "geometry.mean_length": float(sum(unit, torch.zeros_like(unit[0])).norm()) / len(w),
    }


def draw(classes: int, images: int, size: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes + images)
    w = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=generator)
    x = w[labels] + noise * torch.randn(images, size, generator=generator, dtype=torch.float64)
    return 3 * x, labels, w * (1 + torch.arange(classes) % 3)[:, None]


@pytest.mark.parametrize("tile", [3, 4096])
@pytest.mark.parametrize(
    ("classes", "images", "size", "noise"),
    [(7, 20, 5, 0.3), (7, 30, 5, 1.5), (2, 9, 3, 0.5), (13, 11, 24, 1.0), (9, 40, 2, 3.0)],
)
def test_every_number_by_hand(
    monkeypatch: pytest.MonkeyPatch, tile: int, classes: int, images: int, size: int, noise: float
) -> None:
    monkeypatch.setattr(geometry, "_TILE", tile)
    x, labels, w = draw(classes, images, size, noise)
    before = [t.clone() for t in (x, labels, w)]
    found = geometry.unified_threshold(x, labels, w) | geometry.uniformity(w)
    assert found == pytest.approx(slow_thresholds(x, labels, w) | slow_uniformity(w), abs=1e-9)
    assert found.keys() == NAMES
    assert all(torch.equal(a, b) for a, b in zip(before, (x, labels, w), strict=True))


def test_one_threshold_for_all_is_told_from_one_threshold_each() -> None:
    w = torch.eye(4, dtype=torch.float64)[:2]
    labels = torch.tensor([0, 1])
    # Cosines .8 and .5, and .2 and .4: each image is nearest to its own center, but the threshold
    # that accepts the second also accepts the first for the other class.
    x = torch.tensor([[0.8, 0.5, 0.11**0.5, 0], [0.2, 0.4, 0, 0.8**0.5]], dtype=torch.float64)
    found = geometry.unified_threshold(x, labels, w)
    assert found["threshold.gap"] == pytest.approx(-0.1)
    assert found["threshold.violations"] == 0.5
    assert found["threshold.error"] == 0.25
    assert found["threshold.best"] == pytest.approx(0.65)  # of .5 to .8; .2 to .4 is as good
    x = torch.tensor([[0.8, 0.3, 0.27**0.5, 0], [0.2, 0.4, 0, 0.8**0.5]], dtype=torch.float64)
    found = geometry.unified_threshold(x, labels, w)
    assert found["threshold.gap"] == pytest.approx(0.1)
    assert found["threshold.violations"] == found["threshold.error"] == 0
    assert found["threshold.best"] == pytest.approx(0.35)


def test_the_published_min_avg() -> None:
    folder = os.environ.get("FACEREC_GOLDENS")
    if folder is None:
        pytest.skip("FACEREC_GOLDENS names no folder of golden vectors")
    arrays = np.load(Path(folder) / "uniformface.npz")
    for case in ("basic_fp64", "beta_fp64"):
        weight = torch.from_numpy(arrays[f"{case}/weight_after_move"])
        met = torch.from_numpy(np.unique(arrays[f"{case}/labels"]))  # it measured in the batch
        found = geometry.uniformity(weight[met])["geometry.min_avg"]
        assert found == pytest.approx(float(arrays[f"{case}/min_avg_squared"]), rel=1e-12)


def test_centers_in_closed_form() -> None:
    cross = torch.cat([torch.eye(4), -torch.eye(4)]).double() * 5
    found = geometry.uniformity(cross)
    assert found["geometry.nearest_mean"] == pytest.approx(math.sqrt(2))
    assert found["geometry.min_avg"] == pytest.approx(50)
    assert found["geometry.effective_rank"] == pytest.approx(4)
    assert found["geometry.mean_length"] == pytest.approx(0, abs=1e-12)
    line = geometry.uniformity(torch.ones(6, 4) * torch.arange(1, 7)[:, None])
    assert line["geometry.effective_rank"] == pytest.approx(1, abs=1e-3)
    assert line["geometry.mean_length"] == pytest.approx(1)
    assert line["geometry.nearest_mean"] == pytest.approx(0, abs=1e-6)
    assert line["geometry.min_avg"] == pytest.approx(4)


def test_close_centers_far_from_the_origin_keep_their_distance() -> None:
    centers = torch.full((4, 8), 1000.0) + 0.01 * torch.arange(4)[:, None]
    exact = float((centers[1] - centers[0]).double().square().sum())
    assert geometry.uniformity(centers)["geometry.min_avg"] == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_what_has_no_number_is_nan(value: float) -> None:
    x, labels, w = draw(5, 12, 4, 0.5)
    spoiled = w.clone()
    spoiled[2] = value
    found = geometry.unified_threshold(x, labels, spoiled) | geometry.uniformity(spoiled)
    zero = {"geometry.min_avg"} if value == 0 else set()  # a distance to the origin is one
    assert {name for name in NAMES if math.isnan(found[name])} == NAMES - zero
    x[3] = value
    assert all(math.isnan(v) for v in geometry.unified_threshold(x, labels, w).values())


def test_few_classes_images_or_directions() -> None:
    x, labels, w = draw(5, 12, 4, 0.5)
    one = geometry.unified_threshold(x, labels * 0, w[:1]) | geometry.uniformity(w[:1])
    assert one.keys() == NAMES
    whole = {name for name, value in one.items() if not math.isnan(value)}
    assert whole == {"geometry.effective_rank", "geometry.mean_length"}
    none = geometry.unified_threshold(x[:0], labels[:0], w)
    assert all(math.isnan(value) for value in none.values())
    single = geometry.unified_threshold(x[:1], labels[:1], w)
    assert math.isnan(single["threshold.spread"])
    assert not math.isnan(single["threshold.gap"])
    collapsed = geometry.unified_threshold(torch.ones_like(x), labels, torch.ones_like(w))
    assert collapsed["threshold.violations"] == 1
    assert math.isnan(collapsed["threshold.error"])
    assert math.isnan(collapsed["threshold.best"])
    assert math.isnan(collapsed["threshold.spread"])
    assert math.isnan(geometry.uniformity(torch.full((3, 4), 1e30))["geometry.min_avg"])


def test_the_choice_is_fixed_small_and_of_whole_classes() -> None:
    labels = np.random.default_rng(1).integers(0, 40, 1000).astype(np.int32)
    rows = geometry.choose(labels, 1)
    assert rows.tolist() == sorted(set(geometry.choose(labels, 1).tolist()))
    assert rows.tolist() != geometry.choose(labels, 2).tolist()
    assert len(rows) == 125
    counts = sorted(Counter(labels[rows].tolist()).values())
    assert counts[1:] == [8] * 15
    assert len(geometry.choose(labels[:50], 1)) == 16
    assert geometry.choose(labels[:5], 1).tolist() == [0, 1, 2, 3, 4]
    assert len(geometry.choose(np.arange(40_000, dtype=np.int32) // 3, 1)) == 4096
    assert len(geometry.choose(labels[:0], 1)) == 0


def test_images_of_a_split(toy_shards: Path) -> None:
    torch.manual_seed(0)
    backbone = build("tiny", {}, embedding_size=12).train()
    split, centers = Shards(toy_shards).split(), torch.randn(12, 12)
    rows = geometry.choose(split.labels(), 1)
    found = geometry.measure(backbone, split, rows, centers)
    assert found.keys() == NAMES
    assert backbone.training
    assert all(math.isfinite(value) for value in found.values())
    direct = embed(backbone, split, rows=rows, flip=False)
    vectors, labels = torch.from_numpy(direct.vectors), torch.from_numpy(direct.labels).long()
    by_hand = slow_thresholds(vectors, labels, centers) | slow_uniformity(centers)
    assert found == pytest.approx(by_hand, abs=1e-5)


def test_each_epoch_has_them_unless_turned_off(toy_shards: Path, tmp_path: Path) -> None:
    config = toy_config(toy_shards, epochs=2, loss__name="uniface", eval__every=2)
    last = train(config, run=tmp_path / "on", report=silent)
    rows = history.read(tmp_path / "on")
    assert all(rows[0][name] is not None for name in NAMES)
    assert NAMES | {"train.threshold", "train.norm", "train.norm_std"} <= last.keys()
    off = train(toy_config(toy_shards, epochs=1, eval__geometry=False), report=silent)
    assert not NAMES & off.keys()
