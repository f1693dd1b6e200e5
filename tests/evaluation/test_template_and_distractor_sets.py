"""Sets as IJB and MegaFace have them, from their files to the numbers, against plain loops."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.__main__ import main as data_prep
from facerec.backbones.base import Backbone, shrink
from facerec.data.align import TEMPLATE
from facerec.data.shards import Shards
from facerec.evaluation import compare_runs, plots
from facerec.evaluation.embed import embed
from facerec.evaluation.figures.measure import Wanted
from facerec.evaluation.protocols import EvaluationSet
from facerec.evaluation.templates import Switches
from tests.conftest import toy_image
from tests.evaluation.test_roc import slow_nearest

Array = NDArray[Any]
PEOPLE = 14


class Patches(Backbone):
    """A net that knows the mean colours of parts of an image, less what all images have."""

    def __init__(self, parts: int = 3, scale: float = 1.0) -> None:
        super().__init__(input_size=56, embedding_size=3 * parts * parts)
        self.parts = parts
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, images: Tensor, views: int = 1) -> Tensor:
        means = torch.nn.functional.adaptive_avg_pool2d(shrink(images, 56), self.parts)
        return means.flatten(1) * self.scale


@pytest.fixture(scope="module")
def ijb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 people, two templates each of two or three faces, all pairs of templates."""
    root = tmp_path_factory.mktemp("ijb") / "toys"
    (root / "loose_crop").mkdir(parents=True)
    (root / "meta").mkdir()
    points = " ".join(f"{value:.4f}" for value in TEMPLATE.ravel())
    members, places = [], []
    for person in range(PEOPLE):
        for number, (template, medium) in enumerate([(1, 7), (1, 7), (1, 8), (2, 7), (2, 9)]):
            name = f"{5 * person + number}.jpg"
            image = toy_image(person, number, side=112)
            (root / "loose_crop" / name).write_bytes(image)
            members.append(f"{name} {10 * person + template} {medium}")
            places.append(f"{name} {points} {0.5 + 0.1 * number:.2f}")
    ones, twos = ([10 * person + end for person in range(PEOPLE)] for end in (1, 2))
    pairs = [f"{a} {b} {int(a // 10 == b // 10)}" for a in ones for b in twos]
    for ending, lines in {
        "face_tid_mid.txt": members,
        "name_5pts_score.txt": places,
        "template_pair_label.txt": pairs,
        "1N_gallery_G1.csv": ["T,S", *(f"{a},{a // 10}" for a in ones[:9])],
        "1N_gallery_G2.csv": ["T,S", *(f"{a},{a // 10}" for a in ones[9:])],
        "1N_probe_mixed.csv": ["T,S", *(f"{b},{b // 10}" for b in twos)],
    }.items():
        (root / "meta" / f"ijbx_{ending}").write_text("\n".join(lines) + "\n")
    folder = root.with_name("set")
    assert data_prep(["templates", str(root), str(folder)]) == 0
    return folder


def slow_templates(backbone: Backbone, folder: Path, switches: Switches) -> dict[int, Array]:
    """Templates by their ids: a loop over faces, media and templates."""
    split = Shards(folder).split()
    vectors = embed(backbone, split, flip=switches.flip).vectors.astype(np.float64)
    columns = split.columns(["template", "medium", "detector_score"])
    found = {}
    for template in sorted(set(columns["template"].tolist())):
        media: dict[int, list[Array]] = {}
        for row in range(len(vectors)):
            if columns["template"][row] != template:
                continue
            face = vectors[row]
            if not switches.norm:
                face = face / math.sqrt(float(face @ face))
            if switches.detector:
                face = face * float(columns["detector_score"][row])
            media.setdefault(int(columns["medium"][row]), []).append(face)
        parts = [
            sum(faces) / (len(faces) if switches.pooling == "media" else 1)
            for faces in media.values()
        ]
        whole: Array = np.asarray(sum(parts))
        found[template] = whole / math.sqrt(float(whole @ whole))
    return found


SWITCHES = [
    Switches(),
    Switches(flip=False),
    Switches(norm=False),
    Switches(detector=False),
    Switches(pooling="images"),
    Switches(rule="not exceeding", false_accepts=10),
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: s.describe("1:1")[11:])
def test_templates_from_images_to_numbers(ijb: Path, switches: Switches) -> None:
    backbone = Patches()
    wanted = Wanted(switches=switches)
    found = EvaluationSet("toys", Shards(ijb)).measure(backbone, wanted=wanted)
    known = slow_templates(backbone, ijb, switches)
    scores = np.array(
        [[known[10 * a + 1] @ known[10 * b + 2] for b in range(PEOPLE)] for a in range(PEOPLE)]
    )
    genuine, impostors = np.diag(scores), scores[~np.eye(PEOPLE, dtype=bool)]
    metrics = found.metrics
    same = np.eye(PEOPLE, dtype=bool).ravel()
    if switches.rule == "nearest":
        nearest, _, _ = slow_nearest(scores.ravel(), same, 0.1)
        assert metrics["toys.tar@far=1e-1"] == pytest.approx(nearest)
    else:  # 182 impostor pairs: 18 may be accepted
        limit = np.sort(impostors)[::-1][18]
        assert metrics["toys.tar@far=1e-1"] == np.mean(genuine > limit)
        assert math.isnan(metrics["toys.tar@far=1e-2"])
    assert math.isnan(metrics["toys.tar@far=1e-3"])
    ranks = [1 + int((scores[:, b] > scores[b, b]).sum()) for b in range(PEOPLE)]
    for rank in (1, 5, 10):
        assert metrics[f"toys.rank-{rank}"] == np.mean([place <= rank for place in ranks])
    threshold = np.sort(impostors)[::-1][math.ceil(0.1 * PEOPLE) - 1]
    assert metrics["toys.tpir@fpir=0.1"] == np.mean(genuine > threshold)
    one, many = (part.protocol for part in found.parts)
    assert one == switches.describe("1:1")
    assert many == switches.describe("1:N") + ", galleries=joined"
    for word in (f"flip={'on' if switches.flip else 'off'}", f"pooling={switches.pooling}"):
        assert word in one
        assert word in many


def test_templates_have_intervals(ijb: Path) -> None:
    item = EvaluationSet("toys", Shards(ijb))
    plain = item.measure(Patches())
    found = item.measure(Patches(), wanted=Wanted(draws=50))
    assert found.metrics == pytest.approx(plain.metrics, nan_ok=True)
    with_ends = [one for one in found.measures if one.low is not None and not math.isnan(one.low)]
    assert {"tar@far=1e-1", "rank-1", "tpir@fpir=0.1"} <= {one.metric for one in with_ends}
    for one in with_ends:
        assert one.high is not None
        assert one.low is not None
        assert 0 <= one.low <= one.value <= one.high <= 1
    assert "draws of 14 people, known by their numbers in the gallery and probes" in found.notes[1]


@pytest.mark.slow
def test_templates_have_plots(ijb: Path, tmp_path: Path) -> None:
    found = EvaluationSet("toys", Shards(ijb)).measure(Patches(), wanted=Wanted(curves=True))
    drawn = plots.draw([part.curves for part in found.parts if part.curves], tmp_path)
    names = {path.name.removeprefix("toys.") for path in drawn}
    assert {"roc.png", "det.png", "scores.png", "cmc.png", "dir.png"} <= names


def test_models_are_compared_on_templates(ijb: Path) -> None:
    item = EvaluationSet("toys", Shards(ijb))
    rows, notes = compare_runs.compare_models(item, Patches(3), Patches(1), wanted=Wanted(draws=50))
    known = {row.metric: row for row in rows}
    for backbone, column in ((Patches(3), "a"), (Patches(1), "b")):
        metrics = item.measure(backbone).metrics
        for metric in ("tar@far=1e-1", "rank-1", "rank-5", "tpir@fpir=0.1"):
            assert getattr(known[metric], column) == metrics[f"toys.{metric}"]
    assert "50 draws of 14 people" in notes[0]
    same, _ = compare_runs.compare_models(item, Patches(), Patches(), wanted=Wanted(draws=50))
    assert {row.verdict for row in same} == {"not distinguishable"}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of each of 10 people, among 60 others; one of each is listed as noisy."""
    root = tmp_path_factory.mktemp("megaface") / "pack"
    lists: dict[str, list[str]] = {"facescrub": [], "megaface": []}
    for kind, people, images in (("facescrub", range(10), 4), ("megaface", range(100, 160), 1)):
        for person in people:
            for number in range(images):
                name = f"p{person}/{number}_{person}.jpg"
                path = name if kind == "facescrub" else f"m/{name}"
                place = root / f"{kind}_images" / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(toy_image(person, number, side=112))
                lists[kind].append(path)
    for kind, paths in lists.items():
        (root / f"{kind}_lst").write_text("\n".join(paths) + "\n")
    (root / "facescrub_noises.txt").write_text("2_3.jpg\n")
    (root / "megaface_noises.txt").write_text("m/p117/0_117.jpg\n")
    folder = root.with_name("set")
    assert data_prep(["megaface", str(root), str(folder)]) == 0
    return folder


def read_feature(path: Path) -> Array:
    data = path.read_bytes()
    count, *rest = struct.unpack("<4i", data[:16])
    assert rest == [1, 4, 5]
    return np.frombuffer(data[16:], "<f4", count)


def test_probes_among_distractors(crowd: Path, tmp_path: Path) -> None:
    shards, backbone = Shards(crowd), Patches()
    item = EvaluationSet("crowd", shards)
    found = item.measure(
        backbone, wanted=Wanted(draws=50, curves=True, features=tmp_path / "features")
    )
    probes, others = (embed(backbone, shards.split(name)) for name in ("train", "distractors"))
    unit, crowd_unit = (
        v.vectors / np.linalg.norm(v.vectors, axis=1, keepdims=True) for v in (probes, others)
    )
    noisy = probes.keys.index("p3/2_3.jpg")
    mates = [r for r in range(40) if probes.labels[r] == probes.labels[noisy] and r != noisy]
    unit[noisy] = sum(unit[r] for r in mates)
    unit[noisy] /= np.linalg.norm(unit[noisy])
    clean = [row for row, key in enumerate(others.keys) if key != "m/p117/0_117.jpg"]
    ranks = [
        1 + int((unit[i] @ crowd_unit[clean].T >= unit[i] @ unit[j]).sum())
        for i in range(40)
        for j in range(40)
        if i != j and probes.labels[i] == probes.labels[j]
    ]
    for rank in (1, 5, 10):
        wanted = np.mean([place <= rank for place in ranks])
        assert found.metrics[f"crowd.rank-{rank}"] == pytest.approx(wanted, abs=2 / len(ranks))
    assert found.metrics["crowd.rank-1"] < 1
    assert found.measures[0].low is not None
    assert found.measures[0].low < found.measures[0].value
    assert "40 probes of 10 people among 59 distractors; 1 noisy probe" in found.notes[0]
    assert "noisy=cleaned" in found.parts[0].protocol
    raw, cleaned = tmp_path / "features" / "raw", tmp_path / "features" / "clean"
    feature = read_feature(raw / "facescrub" / "p4" / "1_4.jpg_facerec.bin")
    assert feature == pytest.approx(unit[probes.keys.index("p4/1_4.jpg")], abs=1e-6)
    assert read_feature(cleaned / "megaface/m/p117/0_117.jpg_facerec.bin")[-1] == 100
    center = read_feature(cleaned / "facescrub/p3/2_3.jpg_facerec.bin")
    assert center[:-1] == pytest.approx(unit[noisy], abs=0.002)
    assert len(list(raw.rglob("*.bin"))) == len(list(cleaned.rglob("*.bin"))) == 100
    assert plots.draw([part.curves for part in found.parts if part.curves], tmp_path)


def test_models_are_compared_among_distractors(crowd: Path) -> None:
    item = EvaluationSet("crowd", Shards(crowd))
    rows, _ = compare_runs.compare_models(item, Patches(3), Patches(1), wanted=Wanted(draws=50))
    first = next(row for row in rows if row.metric == "rank-1")
    assert first.a == item.measure(Patches(3)).metrics["crowd.rank-1"]
    assert first.effect == first.a - first.b


@pytest.mark.parametrize("scale", [math.nan, 0.0])
@pytest.mark.parametrize("kind", ["ijb", "crowd"])
def test_a_broken_net_gives_nan_and_a_reason(
    kind: str, scale: float, request: pytest.FixtureRequest
) -> None:
    item = EvaluationSet(kind, Shards(request.getfixturevalue(kind)))
    for wanted in (Wanted(), Wanted(draws=20, curves=True)):
        found = item.measure(Patches(scale=scale), wanted=wanted)
        assert all(math.isnan(value) for value in found.metrics.values())
        reasons = [note for note in found.notes if "no number" in note]
        assert reasons
        assert all("collapsed" in note or "not finite" in note for note in reasons)


def test_pairs_that_contradict_each_other_have_no_intervals(
    ijb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = EvaluationSet("toys", Shards(ijb))
    known = item.templates()
    assert known is not None
    # 1 and 12 are called different; so would 1 = 2 = 11 = 12 be, were 2 and 11 the same.
    wrong: Callable[[EvaluationSet], Any] = lambda self: replace(  # noqa: E731
        known,
        first=np.array([1, 11, 11, 1]),
        second=np.array([2, 12, 2, 12]),
        same=np.array([True, True, True, False]),
        gallery=None,
        probes=None,
    )
    monkeypatch.setattr(EvaluationSet, "templates", wrong)
    found = item.measure(Patches(), wanted=Wanted(draws=20))
    assert any("no intervals for the pairs of templates" in note for note in found.notes)
    assert any("so no 1:N" in note for note in found.notes)
