"""Quality: curves against slow loops, degenerate input, and the command from end to end."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.image import imread
from numpy.typing import NDArray
from scipy import stats

from facerec import backbones, checkpoint, config
from facerec.cli import main
from facerec.config import TrainConfig, override
from facerec.data.folder import ImageFiles, images_in
from facerec.data.images import decode
from facerec.data.shards import Shards, TemplateSet
from facerec.data.shards import Subjects as People
from facerec.evaluation import protocols, quality_plots
from facerec.evaluation.embed import embed
from facerec.evaluation.quality import (
    ORACLE,
    RANDOM,
    RejectCurve,
    _counts,
    error_versus_reject,
)
from facerec.evaluation.quality_images import (
    _subjects,
    image_files,
    measure,
    pixels_of,
    prepared_images,
)
from facerec.evaluation.quality_pairs import (
    Compared,
    all_pairs,
    first_images,
    nothing_compared,
    oracle,
    pair_list,
)
from facerec.evaluation.quality_scalars import laplacian_variance, spearman, spread
from facerec.head import build_head
from facerec.model import open_confidence
from facerec.parallel import ClassShard

Floats = NDArray[np.float64]


def of_people(
    seed: int, people: int, each: int, share: float, told: float = 0.0
) -> tuple[Compared, Floats]:
    """Pairs of images of which some are bad, and a scalar that tells `told` of which they are."""
    generator = np.random.default_rng(seed)
    whose = np.repeat(np.arange(people), each)
    bad = generator.random(len(whose)) < share
    genuine = np.array(
        [
            (person * each + one, person * each + other)
            for person in range(people)
            for one, other in itertools.combinations(range(each), 2)
        ]
    )
    difficulty = 0.2 * generator.random(people)[whose[genuine[:, 0]]]
    chance = difficulty + 0.5 * bad[genuine].any(axis=1)
    missed = generator.random(len(genuine)) < chance
    scalar = generator.normal(size=len(whose)) - told * bad
    return Compared(np.arange(len(whose)), whose, genuine, missed, "1e-3", 0.3), scalar


def slow_error(scalar: Sequence[float], compared: Compared, percent: int) -> float:
    """FNMR after a percent of the images, by words rather than by arrays."""
    order = sorted(range(len(scalar)), key=lambda image: scalar[image])
    kept = set(order[percent * len(order) // 100 :])
    left = [
        missed
        for pair, missed in zip(compared.genuine.tolist(), compared.missed.tolist(), strict=True)
        if kept.issuperset(pair)
    ]
    return sum(left) / len(left) if left else math.nan


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(6, 7, 3)).astype(np.uint8)
    grey = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in pixels.tolist()]
    found = [
        grey[y - 1][x] + grey[y + 1][x] + grey[y][x - 1] + grey[y][x + 1] - 4 * grey[y][x]
        for y in range(1, 5)
        for x in range(1, 6)
    ]
    mean = sum(found) / len(found)
    wanted = sum((value - mean) ** 2 for value in found) / len(found)
    assert laplacian_variance(pixels) == pytest.approx(wanted, rel=1e-12)
    assert laplacian_variance(np.full((5, 5, 3), 90, np.uint8)) == pytest.approx(0, abs=1e-20)
    with pytest.raises(ValueError, match=r"pixels \(2, 7, 3\): \(H, W, 3\) is wanted"):
        laplacian_variance(pixels[:2])


def test_scalars_are_ranked_and_spread() -> None:
    generator = np.random.default_rng(1)
    one, other = generator.integers(6, size=(2, 40)).astype(np.float64)
    one[3], other[5] = math.nan, math.inf
    both = np.isfinite(one) & np.isfinite(other)
    wanted = stats.spearmanr(one[both], other[both]).statistic
    assert spearman(one, other) == pytest.approx(wanted)
    assert math.isnan(spearman(one, np.ones(40)))
    values = np.array([5.0, math.nan, 1.0, 4.0, -math.inf, 2.0, 3.0])
    images, ranks = spread(values, 3)
    assert (values[images].tolist(), ranks.tolist()) == ([1, 3, 5], [1, 3, 5])
    assert spread(values, 48)[0].tolist() == [2, 5, 6, 3, 0]
    assert len(spread(np.array([math.nan]), 4)[0]) == 0


def test_errors_and_areas_are_those_of_slow_loops() -> None:
    compared, scalar = of_people(0, 12, 4, 0.3, 1.0)
    curve, random, best = error_versus_reject({"scalar": scalar}, compared, draws=50)
    wanted = [slow_error(scalar.tolist(), compared, percent) for percent in range(51)]
    assert np.allclose(curve.errors, wanted, rtol=1e-12)
    places = np.argsort(oracle(compared)).tolist()
    known = [slow_error(places, compared, percent) for percent in range(51)]
    assert (best.quality, random.quality) == (ORACLE, RANDOM)
    assert np.allclose(best.errors, known, rtol=1e-12)
    assert (random.errors == wanted[0]).all()
    for area, ideal, up_to in zip(curve.areas, best.areas, (20, 50), strict=True):
        mean, least = (
            sum((part[k] + part[k + 1]) / 2 for k in range(up_to)) / up_to
            for part in (wanted, known)
        )
        assert area.up_to == up_to
        assert area.area.value == pytest.approx(mean)
        assert area.difference.value == pytest.approx(mean - wanted[0])
        assert area.gain == pytest.approx((wanted[0] - mean) / (wanted[0] - least))
        assert area.area.low < mean < area.area.high
        assert ideal.gain == pytest.approx(1)
        assert math.isnan(ideal.area.low)
        assert area.area.identities == 12


def test_a_drawn_identity_brings_all_its_images_again() -> None:
    compared, scalar = of_people(3, 6, 3, 0.4)
    times = np.array([[2.0, 1.0], [0.0, 1.0], [1.0, 1.0], [3.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    order = np.argsort(scalar)
    left, misses = _counts(order, compared, times)
    copies = [image for image in order for _ in range(int(times[compared.identities[image], 0]))]
    for percent in range(51):
        kept = set(copies[percent * len(copies) // 100 :])
        pairs = [
            (times[compared.identities[one], 0], missed)
            for (one, other), missed in zip(compared.genuine, compared.missed, strict=True)
            if one in kept and other in kept
        ]
        assert left[0, percent] == sum(weight for weight, _ in pairs)
        assert misses[0, percent] == sum(weight for weight, missed in pairs if missed)
    once = _counts(order, compared, None)
    assert np.array_equal(left[1], once[0][0])
    assert np.array_equal(misses[1], once[1][0])


def test_someone_who_knows_rejects_what_most_errors_share() -> None:
    genuine = np.array([(0, 1), (0, 2), (0, 3), (4, 5), (5, 6), (7, 8)])
    missed = np.array([True, True, True, True, False, False])
    compared = Compared(np.arange(9), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2]), genuine, missed)
    # 0 is in three errors; of 4 and 5, in one each, 4 is in fewer pairs.
    assert oracle(compared).tolist()[:2] == [0, 4]
    assert sorted(oracle(compared).tolist()) == list(range(9))


@pytest.mark.parametrize(
    ("told", "verdict"), [(3.0, "yes"), (0.0, "not distinguishable"), (-3.0, "no")]
)
def test_the_verdict_says_what_the_scalar_tells(told: float, verdict: str) -> None:
    compared, scalar = of_people(6, 150, 4, 0.5, told)
    curve, *_ = error_versus_reject({"scalar": scalar}, compared, draws=200)
    assert [area.verdict for area in curve.areas] == [verdict] * 2
    bare, *_ = error_versus_reject({"scalar": scalar}, compared, draws=0)
    assert bare.areas[0].area.value == curve.areas[0].area.value
    assert (bare.areas[0].verdict, math.isnan(bare.areas[0].area.low)) == ("", True)


@pytest.mark.slow
def test_a_scalar_that_tells_nothing_is_rarely_believed() -> None:
    """A verdict at 95 %: with nothing to tell it is `yes` or `no` 5 times in 100."""
    believed = 0
    for seed in range(400):
        compared, scalar = of_people(seed, 80, 4, 0.3)
        curve, *_ = error_versus_reject({"scalar": scalar}, compared, draws=200, seed=seed)
        believed += curve.areas[0].verdict != "not distinguishable"
    assert 0.02 <= believed / 400 <= 0.08


def test_what_admits_no_number_is_nan_with_a_reason() -> None:
    compared, scalar = of_people(0, 12, 4, 0.3)
    broken = np.where(np.arange(48) < 2, math.nan, scalar)
    given = {"good": scalar, "flat": np.full(48, 3.5), "broken": broken}
    good, flat, holes, _, _ = error_versus_reject(given, compared, draws=20)
    assert good.reason == ""
    assert flat.reason == "flat is 3.5 for all 48 images"
    assert holes.reason == "2 of 48 images have no finite broken"
    for curve in (flat, holes):
        assert np.isnan(curve.errors).all()
        assert math.isnan(curve.areas[0].area.value)
        assert curve.areas[0].verdict == ""
    for curve in error_versus_reject({"none": []}, nothing_compared("nobody is known")):
        assert curve.reason == "nobody is known"
    flawless = Compared(
        compared.rows, compared.identities, compared.genuine, compared.missed & False
    )
    curve, *_ = error_versus_reject({"good": scalar}, flawless, draws=20)
    assert (curve.areas[0].area.value, curve.areas[0].area.low) == (0.0, 0.0)
    assert curve.areas[0].verdict == "not distinguishable"
    assert math.isnan(curve.areas[0].gain)
    few = Compared(np.arange(4), np.array([0, 0, 1, 1]), np.array([(0, 1)]), np.array([True]))
    curve, *_ = error_versus_reject({"good": np.arange(4.0)}, few, draws=20)
    assert curve.errors[:25].tolist() == [1.0] * 25
    assert np.isnan(curve.errors[25:]).all()  # no pair is left
    assert (curve.areas[0].area.value, math.isnan(curve.areas[1].area.value)) == (1.0, True)
    with pytest.raises(ValueError, match=r"good \(2,\): \(48,\) is wanted"):
        error_versus_reject({"good": [1.0, 2.0]}, compared)


def test_a_list_of_pairs_has_the_threshold_of_its_lowest_measurable_rate() -> None:
    generator = np.random.default_rng(2)
    same = np.arange(500) % 2 == 0
    scores = np.round(generator.normal(0.5 * same, 0.25), 2)  # with ties
    ends = generator.permutation(1000).reshape(500, 2) + 7
    people = np.stack([np.arange(500), np.where(same, np.arange(500), np.arange(500) + 500)], 1)
    found = pair_list(scores, same, ends, people)
    assert found.far == "1e-1"  # 250 impostor pairs leave two false accepts at 1e-2
    wrong = (scores[~same] > found.threshold).sum()
    assert wrong <= 25 < (scores[~same] >= found.threshold).sum()
    assert np.array_equal(found.rows[found.genuine], ends[same])
    assert np.array_equal(found.missed, scores[same] <= found.threshold)
    assert (np.diff(found.identities[found.genuine]) == 0).all()
    assert found.identities.max() == 749
    for count, reason in ((40, "20 impostor pairs; FAR 1e-1 needs 100"), (0, "all 0 pairs")):
        none = pair_list(scores[:count], same[:count], ends[:count], people[:count])
        assert reason in none.reason
        assert (none.far, len(none.rows), math.isnan(none.threshold)) == ("", 0, True)
    with pytest.raises(ValueError, match=r"ends \(3, 2\)"):
        pair_list(scores, same, ends[:3], people)


def test_all_pairs_are_compared_once() -> None:
    generator = np.random.default_rng(3)
    labels = generator.permutation(np.repeat([4, 9, 2, 30], (20, 1, 18, 18)))
    vectors = generator.normal(size=(57, 8)) + 2 * generator.normal(size=(31, 8))[labels]
    rows = np.arange(57) * 3
    found = all_pairs(vectors, labels, rows)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = list(itertools.combinations(range(57), 2))
    impostors = [unit[i] @ unit[j] for i, j in pairs if labels[i] != labels[j]]
    assert found.far == "1e-1"  # 1,100 impostor pairs; 10,000 would do for 1e-2
    assert sum(score > found.threshold for score in impostors) == len(impostors) // 10
    wanted = {pair: unit[pair[0]] @ unit[pair[1]] <= found.threshold for pair in pairs}
    wanted = {pair: missed for pair, missed in wanted.items() if len({*labels[[*pair]]}) == 1}
    given = zip(map(tuple, np.sort(found.genuine).tolist()), found.missed.tolist(), strict=True)
    assert dict(given) == wanted
    assert len(found.missed) == len(wanted)
    assert np.array_equal(found.rows, rows)
    assert "impostor pairs" in all_pairs(vectors[:9], labels[:9], rows[:9]).reason
    collapsed = all_pairs(np.ones((57, 8)), labels, rows)
    assert "collapsed" in collapsed.reason


def test_the_images_of_an_identity_are_those_that_evaluate_takes(toy_shards: Path) -> None:
    split = Shards(toy_shards).split("val")
    keys = split.columns(["key"])["key"].astype(str)
    found = first_images(split.labels(), keys, protocols.IMAGES_PER_IDENTITY)
    assert np.array_equal(found, protocols._first_images(split))
    assert len(found) == 160
    assert first_images([3, -1, 3, 3], ["b", "a", "c", "a"], 2).tolist() == [0, 3]


def test_faces_of_templates_have_the_subjects_of_gallery_and_probes() -> None:
    none = np.empty(0, np.int64)
    templates = TemplateSet(
        templates=np.array([7, 5, 7, 9, 6]),
        media=np.arange(5),
        detector_scores=np.ones(5, np.float32),
        first=none,
        second=none,
        same=none.astype(np.bool_),
        gallery=People(np.array([5, 7]), np.array([100, 200])),
        probes=People(np.array([6]), np.array([100])),
    )
    assert _subjects(templates).tolist() == [200, 100, 200, -1, 100]


@pytest.fixture(scope="module")
def sure(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained run of SCF, whose confidence head says something of its own."""
    run = tmp_path_factory.mktemp("runs") / "scf"
    run.mkdir()
    words: dict[str, Any] = {
        "data.train": str(toy_shards),
        "backbone.name": "tiny",
        "head.embedding_size": 16,
        "loss.name": "scf",
        "init_from": "elsewhere",
    }
    saved = override(TrainConfig(), words)
    config.save(saved, run / "config.json")
    torch.manual_seed(0)
    backbone = backbones.build("tiny", {}, embedding_size=16)
    head = build_head(saved.loss, ClassShard(12), 16, seed=4)
    for parameter in head.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    optimizer: Any = SimpleNamespace(state={})  # has not made a step
    with checkpoint.Saver(run, backbone, head, optimizer) as saver:
        saver.save(checkpoint.Progress(step=1))
    return run


def test_every_image_has_its_scalars(sure: Path, toy_shards: Path) -> None:
    _, backbone = checkpoint.load_backbone(sure)
    head = open_confidence(sure)
    assert head is not None
    images = prepared_images(Shards(toy_shards), "val")
    rows = images.compared_rows()
    found = measure(backbone, head.confidence, images, rows)
    split = images.split
    wanted = embed(backbone, split, flip=False)
    assert found.keys == wanted.keys
    assert np.array_equal(found.vectors, wanted.vectors[rows])
    assert np.allclose(found.scalars["norm"], np.linalg.norm(wanted.vectors, axis=1))
    x = torch.from_numpy(wanted.vectors)
    for layer in head.net:
        x = layer(x)
    kappa = x.squeeze(1).exp().detach().numpy()
    assert np.allclose(found.scalars["confidence"], kappa, rtol=1e-5)
    assert np.ptp(kappa) > 0
    chosen = np.array([150, 3, 40])
    pixels = [decode(split.read(row // 32).images[row % 32]) for row in chosen]
    assert np.array_equal(pixels_of(split, chosen), pixels)
    assert found.scalars["sharpness"][chosen].tolist() == list(map(laplacian_variance, pixels))
    assert [*found.scalars] == ["norm", "confidence", "sharpness"]
    assert images.name == f"{toy_shards.name}.val"


def test_a_set_with_pairs_is_compared_by_its_list(sure: Path, toy_pairs: Path) -> None:
    _, backbone = checkpoint.load_backbone(sure)
    images = prepared_images(Shards(toy_pairs))
    rows = images.compared_rows()
    assert np.array_equal(rows, np.arange(160))
    vectors = embed(backbone, images.split, flip=False).vectors
    compared, which, who = images.compare(vectors, rows)
    assert which == "list"
    assert who.startswith("groups of images: no names are known")
    assert compared.reason == "40 impostor pairs; FAR 1e-1 needs 100, which leave 10 false accepts"


def write_files(shards: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    part = Shards(shards).split("val").read(0)
    for key, image in zip(part.keys[:count], part.images, strict=False):
        (folder / f"{key.replace('/', '-')}.jpg").write_bytes(image)
    return folder


def test_image_files_are_of_nobody(toy_shards: Path, tmp_path: Path) -> None:
    folder = write_files(toy_shards, tmp_path / "faces", 3)
    images = image_files(folder, ImageFiles(folder, images_in(folder)))
    rows = images.compared_rows()
    assert (images.name, images.split.rows, len(rows)) == ("faces", 3, 0)
    compared, _, _ = images.compare(np.empty((0, 4), np.float32), rows)
    assert compared.reason == "no identity is known: nothing can be compared"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{run}", "{shards}", "--by", "nrom"], "'nrom': takes norm, sharpness, confidence. Did"),
        (["{run}", "{shards}", "--split", "dev"], "no dev split"),
        (["{run}", "{none}"], "no such folder of images"),
        (["{run}", "{run}"], "holds no images"),
        (["{run}", "{large}"], "48 x 48 pixels, but the model takes aligned faces of 64 x 64"),
        (["{run}", "{shards}", "--out", "/proc/none"], "--out /proc/none: cannot be written"),
        (["{none}", "{shards}"], "no such run folder"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    words: list[str],
    says: str,
    sure: Path,
    toy_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    large = tmp_path / "large"
    large.mkdir()
    content = b"P6 48 48 255\n" + bytes(3 * 48 * 48)
    (large / "face.ppm").write_bytes(content)
    places = {"run": sure, "shards": toy_shards, "none": tmp_path / "none", "large": large}
    assert main(["quality", *(word.format(**places) for word in words)]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert (told.err.count("\n"), told.out) == (1, "")


@pytest.mark.slow
def test_the_command_leaves_tables_and_plots(
    sure: Path, toy_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(sure, tmp_path / "run")
    assert main(["quality", str(run), str(toy_shards), "--draws", "50"]) == 0
    text = capsys.readouterr().out
    assert "lowest confidence: " in text
    assert "FAR=1e-2" in text
    out = run / "quality" / f"{toy_shards.name}.val"
    table = pq.read_table(out / "quality.parquet")
    assert table.column_names == ["key", "label", "identity", "norm", "confidence", "sharpness"]
    split = Shards(toy_shards).split("val")
    assert table["label"].to_pylist() == split.labels().tolist()
    assert all(
        key.split("/")[0] == who
        for key, who in zip(table["key"].to_pylist(), table["identity"].to_pylist(), strict=True)
    )
    curves = pq.read_table(out / "quality_curves.parquet").to_pydict()
    names = ["norm", "confidence", "sharpness", RANDOM, ORACLE]
    assert curves["quality"] == [name for name in names for _ in range(51)]
    assert curves["reject"] == [percent / 100 for percent in range(51)] * 5
    areas = pq.read_table(out / "quality_areas.parquet").to_pylist()
    assert [(row["quality"], row["up_to"]) for row in areas] == [
        (name, up_to) for name in names for up_to in (0.2, 0.5)
    ]
    for name in ("quality", "quality_curves", "quality_areas"):
        assert (
            pyarrow.csv.read_csv(out / f"{name}.csv").num_rows
            == pq.read_metadata(out / f"{name}.parquet").num_rows
        )
    for name in ("error_versus_reject", "histograms", "contact_sheet"):
        assert imread(out / f"{name}.png").shape[1] >= 960
    folder = write_files(toy_shards, tmp_path / "faces", 7)
    words = ["quality", str(run), str(folder), "--out", str(tmp_path / "out"), "--by", "sharpness"]
    assert main(words) == 0
    assert "no identity is known" in capsys.readouterr().out
    own = pq.read_table(tmp_path / "out" / "quality.parquet")
    assert (own.num_rows, own["label"].null_count, own["identity"].null_count) == (7, 7, 7)


@pytest.mark.slow
def test_plots_say_what_they_cannot_draw(tmp_path: Path) -> None:
    compared, scalar = of_people(0, 12, 4, 0.3)
    curves: tuple[RejectCurve, ...] = error_versus_reject({"good": scalar}, compared, draws=0)
    none = error_versus_reject({"good": []}, nothing_compared("nobody is known"))
    for number, shown in enumerate((curves, none)):
        path = tmp_path / f"{number}.png"
        quality_plots.draw_reject_curves("$set$", shown, "protocol", "", path)
        assert imread(path).shape[1] == 960
    scalars = {"norm": np.full(5, math.nan), "sharpness": np.full(5, 2.0)}
    quality_plots.draw_histograms("set", scalars, tmp_path / "h.png")
    quality_plots.draw_contact_sheet("set", "norm", [], 0, tmp_path / "c.png")
    assert len(list(tmp_path.iterdir())) == 4
