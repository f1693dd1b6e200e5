"""Which numbers a set gives, under which names, and what is refused beforehand."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.__main__ import main as data_prep
from facerec.backbones import build
from facerec.backbones.base import Backbone, shrink
from facerec.data.shards import DataError, Shards
from facerec.evaluation import metrics
from facerec.evaluation.embed import embed
from facerec.evaluation.protocols import EvaluationSet, open_sets
from tests.conftest import write_toy_pairs, write_toy_shards


class Colours(Backbone):
    """A net that knows the mean colours of the four quarters of an image."""

    def __init__(self) -> None:
        super().__init__(input_size=64, embedding_size=12)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, views: int = 1) -> Tensor:
        means = torch.nn.functional.adaptive_avg_pool2d(shrink(images, self.input_size), 2)
        return means.flatten(1) * self.scale


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 identities of 10 images in val: enough for FAR 1e-2."""
    folder = tmp_path_factory.mktemp("many") / "many"
    return write_toy_shards(folder, identities=2, images=10, val=30)


def test_val_scores_the_first_eight_images_of_each_identity(many: Path) -> None:
    backbone, shards = Colours(), Shards(many)
    found = EvaluationSet("val", shards, "val").measure(backbone)
    whole = embed(backbone, shards.split("val"))
    chosen: list[int] = []
    for label in sorted(set(whole.labels.tolist())):
        mine = [row for row in range(len(whole.keys)) if whole.labels[row] == label]
        chosen += sorted(mine, key=lambda row: whole.keys[row])[:8]
    expected = metrics.tar_at_far(whole.vectors[chosen], whole.labels[chosen])
    assert found.metrics == {"val.tar": expected.tar, "val.tar@far=1e-2": expected.tars["1e-2"]}
    assert 0.05 < found.metrics["val.tar"] < 1
    assert found.parts[0].protocol.startswith("all pairs v1, flip=on, images per identity<=8")
    assert found.measures[1].threshold == expected.thresholds["1e-2"]
    assert found.notes == (
        "val: 240 images of 30 identities, 840 genuine and 27840 impostor pairs; "
        "val.tar is the mean TAR at FAR 1e-2",
    )


def test_pairs_are_verified_in_ten_folds(toy_pairs: Path) -> None:
    backbone, shards = Colours(), Shards(toy_pairs)
    found = EvaluationSet("toys", shards).measure(backbone)
    pairs, vectors = shards.pairs(), embed(backbone, shards.split()).vectors
    assert pairs is not None
    ends = [end for pair in zip(pairs.first, pairs.second, strict=True) for end in pair]
    expected = metrics.verification(vectors[ends], pairs.same)
    assert found.metrics == {
        "toys.accuracy": expected.accuracy,
        "toys.accuracy_std": expected.accuracy_std,
        "toys.val@far=1e-3": expected.val,
    }
    assert expected.accuracy > 0.8
    folds = [m for m in found.measures if m.fold is not None]
    assert [m.fold for m in folds] == list(range(10))
    assert [m.value for m in folds] == expected.fold_accuracies.tolist()
    assert [m.threshold for m in folds] == expected.thresholds.tolist()
    assert found.notes == ("toys: 80 pairs, 40 of them same, 10 folds",)


@pytest.mark.parametrize("scale", [math.nan, math.inf, 0.0])
def test_a_broken_net_gives_nan_and_a_note(many: Path, toy_pairs: Path, scale: float) -> None:
    backbone = Colours()
    backbone.scale.data.fill_(scale)
    for item in open_sets(Shards(many), [toy_pairs], backbone):
        found = item.measure(backbone)
        assert all(math.isnan(value) for value in found.metrics.values())
        reason = "collapsed" if scale == 0 else "not finite"
        assert found.notes[-1].startswith(f"{item.name}: no number: ")
        assert reason in found.notes[-1]


def test_a_val_that_is_too_small_says_what_it_needs(tmp_path: Path) -> None:
    folder = write_toy_shards(tmp_path / "few", identities=2, images=9, val=10)
    found = EvaluationSet("val", Shards(folder), "val").measure(Colours())
    assert math.isnan(found.metrics["val.tar"])
    assert list(found.metrics) == ["val.tar"]
    assert "FAR 0.01 needs 10000: about 19 identities of 8 images" in found.notes[-1]


def test_open_sets_names_them(toy_shards: Path, toy_pairs: Path, tmp_path: Path) -> None:
    backbone = Colours()
    no_val = write_toy_shards(tmp_path / "no_val", identities=3, images=4, val=0)
    sets = open_sets(Shards(toy_shards), [toy_pairs, no_val, toy_shards], backbone)
    named = [(item.name, item.shards.path, item.split) for item in sets]
    assert named == [
        ("val", toy_shards, "val"),
        ("pairs", toy_pairs, "train"),
        ("no_val", no_val, "train"),
        ("toy.val", toy_shards, "val"),
    ]
    assert open_sets(Shards(no_val), [], backbone) == []
    assert [
        item.name for item in open_sets(None, [toy_pairs / "." / ".." / "pairs"], backbone)
    ] == ["pairs"]


def test_what_is_refused_beforehand(toy_shards: Path, toy_pairs: Path, tmp_path: Path) -> None:
    tiny = build("tiny", {}, embedding_size=8)
    small = write_toy_pairs(tmp_path / "small", side=48)
    with pytest.raises(DataError, match=r"^small \(.*small\): images of 48 x 48 .*64 x 64"):
        open_sets(Shards(toy_shards), [small], tiny)
    with pytest.raises(DataError, match="48 x 48"):
        EvaluationSet("small", Shards(small)).measure(tiny)
    other = write_toy_pairs(tmp_path / "pairs")
    with pytest.raises(DataError, match="both sets are called pairs"):
        open_sets(None, [toy_pairs, other], tiny)
    with pytest.raises(DataError, match="no such folder"):
        open_sets(None, [tmp_path / "nothing"], tiny)
    with pytest.raises(DataError, match="has no confirm split"):
        EvaluationSet("confirm", Shards(toy_shards), "confirm").measure(tiny)


class GreyPixels(Backbone):
    def __init__(self) -> None:
        super().__init__(input_size=112, embedding_size=112 * 112)

    def forward(self, images: Tensor, views: int = 1) -> Tensor:
        grey = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        return (((images + 1) / 2) * grey).sum(dim=1).flatten(1)


@pytest.mark.slow
@pytest.mark.skipif("FACEREC_DATA" not in os.environ, reason="FACEREC_DATA names no face data")
@pytest.mark.parametrize(("name", "accuracy"), [("lfw_f78", 0.613), ("orl_a", 0.85)])
def test_pixels_of_real_faces(name: str, accuracy: float, tmp_path: Path) -> None:
    # The floor that was measured for these sets with pixels, by cosine, without the mirror image.
    source = Path(os.environ["FACEREC_DATA"]) / "verification" / f"{name}.bin"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    assert data_prep(["bin", str(source), str(tmp_path / name)]) == 0
    shards = Shards(tmp_path / name)
    pairs, vectors = shards.pairs(), embed(GreyPixels(), shards.split(), flip=False).vectors
    assert pairs is not None
    ends = np.stack([pairs.first, pairs.second], axis=1).ravel()
    assert metrics.verification(vectors[ends], pairs.same).accuracy == pytest.approx(
        accuracy, abs=0.02
    )
