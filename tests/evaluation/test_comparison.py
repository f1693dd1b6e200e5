"""Two models on the same pairs: what is told apart, how often wrongly, and what is kept of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from facerec.backbones.base import Backbone, shrink
from facerec.data.shards import DataError, Shards
from facerec.data.writer import describe, write_json, write_table
from facerec.evaluation import compare_runs, scores, table
from facerec.evaluation.comparison import compare, compare_all_pairs
from facerec.evaluation.figures.measure import Wanted
from facerec.evaluation.metrics import tar_at_far, verification_from_distances
from facerec.evaluation.protocols import EvaluationSet
from facerec.evaluation.scores import Scores
from facerec.evaluation.uncertain_folds import resample_verification
from tests.conftest import write_toy_shards
from tests.evaluation.people import People

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
RATES = {"1e-2": 100}


def cosines(one: Floats, other: Floats) -> Floats:
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other))
    found: Floats = (one * other).sum(axis=1)
    return found


def two_models(
    seed: int, count: int, each: int, noises: tuple[float, float]
) -> tuple[Floats, Floats, Bools, Ints]:
    """Scores of two models that see the same photographs, each with noise of its own."""
    people = People(seed, count, 0.4)
    ends, same = people.pairs(each)
    seen = [people.photographs(ends[:, k]) for k in (0, 1)]
    found = []
    for noise in noises:
        rows = [x + noise * people.draws.standard_normal(x.shape) for x in seen]
        found.append(cosines(*rows))
    return found[0], found[1], same, ends


def test_a_model_is_not_told_apart_from_itself() -> None:
    one, _, same, ends = two_models(0, 60, 5, (0.5, 0.5))
    for found in compare(one, one, same, ends, draws=50):
        assert (found.verdict, found.effect) == ("not distinguishable", 0.0)
    accuracy = compare(one, one, same, ends, draws=50)[0]
    assert (accuracy.metric, accuracy.low, accuracy.high) == ("accuracy", 0.0, 0.0)
    exact = verification_from_distances(2 - 2 * one, same)
    assert (accuracy.a, accuracy.b, accuracy.identities) == (exact.accuracy, exact.accuracy, 60)


def test_a_better_model_is_better_and_the_other_one_worse() -> None:
    one, other, same, ends = two_models(1, 80, 8, (0.3, 1.2))
    there, back = (compare(a, b, same, ends, draws=300)[0] for a, b in ((one, other), (other, one)))
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert 0 < there.low < there.effect < there.high
    assert there.effect == there.a - there.b == -back.effect
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_pairing_takes_out_what_is_hard_for_both() -> None:
    one, other, same, ends = two_models(2, 80, 8, (0.30, 0.35))
    paired = compare(one, other, same, ends, draws=300)[0]
    alone = resample_verification(2 - 2 * one, same, ends, draws=300).interval(0)
    assert paired.high - paired.low < 0.9 * (alone.high - alone.low)


def test_all_pairs() -> None:
    labels = np.repeat(np.arange(60), 5)
    people = People(3, 60, 0.4)
    seen = people.photographs(labels)
    bad = seen + 1.2 * people.draws.standard_normal(seen.shape)
    found = compare_all_pairs(seen, bad, labels, fars=RATES, draws=200)
    assert [one.metric for one in found] == ["tar", "tar@far=1e-2"]
    for one in found:
        assert one.a == tar_at_far(seen, labels, RATES).tar
        assert one.b == tar_at_far(bad, labels, RATES).tar
        assert one.verdict == "better"
        assert 0 < one.low < one.effect < one.high
    for one in compare_all_pairs(seen, seen, labels, fars=RATES, draws=20):
        assert (one.effect, one.low, one.high) == (0, 0, 0)
    (broken,) = compare_all_pairs(seen, seen * math.nan, labels, fars=RATES)
    assert math.isnan(broken.effect)
    assert broken.verdict == "not distinguishable"


def claims(repetitions: int, count: int, each: int, draws: int) -> float:
    """How often two models of one kind are told apart."""
    verdicts = [
        compare(*two_models(seed, count, each, (0.5, 0.5)), draws=draws, seed=seed)[0].verdict
        for seed in range(repetitions)
    ]
    return float(np.mean([verdict != "not distinguishable" for verdict in verdicts]))


def test_models_of_one_kind_are_seldom_told_apart_in_short() -> None:
    assert claims(25, 60, 4, 60) <= 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("count", "each"), [(40, 8), (150, 3), (600, 1)])
def test_models_of_one_kind_are_seldom_told_apart(count: int, each: int) -> None:
    assert claims(300, count, each, 200) <= 0.07


@pytest.mark.slow
def test_models_of_one_kind_are_seldom_told_apart_by_tar() -> None:
    verdicts = []
    for seed in range(200):
        people, labels = People(seed, 80, 0.4), np.repeat(np.arange(80), 5)
        seen = people.photographs(labels)
        models = [seen + 0.5 * people.draws.standard_normal(seen.shape) for _ in range(2)]
        found = compare_all_pairs(*models, labels, fars=RATES, draws=200, seed=seed)
        verdicts.append(found[0].verdict)
    assert np.mean([verdict != "not distinguishable" for verdict in verdicts]) <= 0.07


def kept(score: Floats, same: Bools, ends: Ints) -> Scores:
    rows = np.arange(len(same))
    fold = np.repeat(np.arange(10, dtype=np.int32), len(same) // 10)
    return Scores("lfw", 2 * rows, 2 * rows + 1, same, fold, score, ends, named=True)


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    one, other, same, ends = two_models(4, 50, 4, (0.3, 1.2))
    a, b = kept(one, same, ends), kept(other, same, ends)
    scores.write([a, replace(b, name="other", named=False)], tmp_path)
    found = scores.read(tmp_path)
    assert list(found) == ["lfw", "other"]
    for before, after in zip((a, b), found.values(), strict=True):
        for what in ("first", "second", "same", "fold", "score", "identities"):
            np.testing.assert_array_equal(getattr(before, what), getattr(after, what))
    assert (found["lfw"].named, found["other"].named) == (True, False)
    assert pq.read_schema(tmp_path / scores.FILE).names[:6] == [
        *("set", "first", "second", "same", "fold", "score")
    ]
    assert scores.compare_scores(a, found["other"], draws=60) == compare(
        one, other, same, ends, draws=60
    )


def test_scores_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one, other, same, ends = two_models(5, 50, 4, (0.3, 0.3))
    a = kept(one, same, ends)
    with pytest.raises(DataError, match="differ in same: only scores of the same pairs"):
        scores.compare_scores(a, replace(a, same=~same))
    with pytest.raises(ValueError, match="both must be of the same pairs"):
        compare(one, other[:-1], same, ends)
    with pytest.raises(DataError, match=r"has no scores.parquet: facerec evaluate RUN SET --out"):
        scores.read(tmp_path)
    (tmp_path / scores.FILE).write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match="cannot be read"):
        scores.read(tmp_path)


class Colours(Backbone):
    """A net that knows the mean colours of some squares of an image."""

    def __init__(self, squares: int = 2) -> None:
        super().__init__(input_size=64, embedding_size=3 * squares**2)
        self.squares = squares
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, views: int = 1) -> Tensor:
        small = shrink(images, self.input_size)
        return torch.nn.functional.adaptive_avg_pool2d(small, self.squares).flatten(1) * self.scale


@pytest.fixture(scope="module")
def grouped(toy_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy pairs, cut into two groups."""
    folder = tmp_path_factory.mktemp("grouped") / "faces"
    folder.mkdir()
    for path in toy_pairs.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    pairs = pq.read_table(folder / "pairs.parquet")
    names = pa.array([("east", "west")[k // 2 % 2] for k in range(len(pairs))])
    pairs = pairs.append_column("group", names)
    write_table(folder / "pairs.parquet", pairs.schema, [pairs])
    index = dict(Shards(toy_pairs).index) | {"pairs": describe(folder / "pairs.parquet")}
    write_json(folder / "index.json", index)
    return folder


def test_intervals_are_there_when_asked_for(grouped: Path, tmp_path: Path) -> None:
    item = EvaluationSet("faces", Shards(grouped))
    plain, found = item.measure(Colours()), item.measure(Colours(), wanted=Wanted(draws=60))
    assert plain.metrics == found.metrics
    assert all(one.low is None for one in plain.measures)
    assert plain.scores is None
    rows = {(one.metric, one.group): one for one in found.measures if one.fold is None}
    assert list(rows) == [
        ("accuracy", None),
        ("accuracy_std", None),
        ("val@far=1e-3", None),
        *((metric, g) for g in ("east", "west") for metric in ("accuracy", "val@far=1e-3")),
        ("accuracy_gap", list(rows)[-2][1]),
        ("val_gap@far=1e-3", list(rows)[-1][1]),
    ]
    for metric, group in rows:
        if metric == "accuracy":
            one = rows[metric, group]
            assert one.low is not None
            assert one.high is not None
            assert 0 < one.low < one.value <= one.high <= 1
    for metric, place in (("accuracy", -2), ("val@far=1e-3", -1)):
        gap = rows[list(rows)[place]]
        best, worst = str(gap.group).split(" - ")
        assert best != worst
        assert gap.value == rows[metric, best].value - rows[metric, worst].value >= 0
    assert "groups of images: no names are known" in found.notes[1]
    assert "60 draws of 120 groups" in found.notes[1]  # each image is its own: 40 same-pairs
    table.write([found], tmp_path)
    written = pq.read_table(tmp_path / "evaluation.parquet").to_pylist()
    for row, one in zip(written, found.measures, strict=True):
        assert (row["low"], row["high"], row["group"]) == pytest.approx(
            (one.low, one.high, one.group), nan_ok=True
        )
    after = scores.read(tmp_path)["faces"]
    distances = 2 - 2 * after.score
    assert verification_from_distances(distances, after.same).accuracy == found.measures[0].value


def test_all_pairs_have_intervals_too(tmp_path: Path) -> None:
    shards = Shards(write_toy_shards(tmp_path / "toy", identities=2, images=10, val=30))
    found = EvaluationSet("val", shards, "val").measure(Colours(), wanted=Wanted(draws=60))
    for one in found.measures:
        assert one.low is not None
        assert one.high is not None
        assert 0 < one.low < one.value < one.high < 1
    assert found.notes[1] == "val: 95 % intervals from 60 draws of 30 identities, known by name"
    assert found.metrics == EvaluationSet("val", shards, "val").measure(Colours()).metrics


def test_two_backbones_on_one_set(toy_pairs: Path, toy_shards: Path, tmp_path: Path) -> None:
    item = EvaluationSet("faces", Shards(toy_pairs))
    found, notes = compare_runs.compare_models(
        item, Colours(2), Colours(1), wanted=Wanted(draws=60), out=tmp_path
    )
    assert found[0].a == item.measure(Colours(2)).metrics["faces.accuracy"]
    assert found[0].b == item.measure(Colours(1)).metrics["faces.accuracy"]
    assert "60 draws of 120 groups of images" in notes[0]
    kept = [scores.read(tmp_path / which)["faces"] for which in ("a", "b")]
    assert scores.compare_scores(*kept, draws=60)[0] == found[0]
    console = Console(record=True, width=120)
    console.print(compare_runs.table(found))
    assert f"{found[0].effect:+.4f}" in console.export_text()
    better = replace(found[0], verdict="better", effect=0.1, low=0.05, high=0.15)
    assert compare_runs.sentence("lfw", "one", "two", better) == (
        "one is better than two by lfw.accuracy: +0.1000, 95 % interval +0.0500 to +0.1500"
    )
    alike = replace(found[0], verdict="not distinguishable")
    assert "one and two are not distinguishable by" in compare_runs.sentence(
        "l", "one", "two", alike
    )
    val = EvaluationSet("val", Shards(toy_shards), "val")
    every, notes = compare_runs.compare_models(val, Colours(2), Colours(1), wanted=Wanted(draws=20))
    assert every[0].metric == "tar"
    assert notes == (
        f"val: 95 % intervals from 20 draws of {every[0].identities} identities, known by name",
    )
