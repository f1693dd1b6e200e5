"""Templates and their pairs, against the procedure told as loops; and a real set in small."""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep import ijb
from facerec.evaluation import templates
from facerec.evaluation.identification import identify
from facerec.evaluation.roc import tar_at_far
from facerec.evaluation.templates import Switches, Templates, pair_scores, pool
from tests.evaluation.test_identification import slow_identify
from tests.evaluation.test_roc import slow_nearest

Array = NDArray[Any]
Ints = NDArray[np.int64]


def slow_pool(
    vectors: Array, template_ids: Ints, media: Ints, detector: Array, switches: Switches
) -> Array:
    """Each template by looking through all images, each medium by looking through its images."""
    if not switches.norm:
        vectors = vectors / np.sqrt(np.sum(vectors**2, -1, keepdims=True))
    if switches.detector:
        vectors = vectors * detector[:, np.newaxis]
    features = np.zeros((len(set(template_ids.tolist())), vectors.shape[1]))
    for row, template in enumerate(sorted(set(template_ids.tolist()))):
        images, own = vectors[template_ids == template], media[template_ids == template]
        groups = [images[own == medium] for medium in sorted(set(own.tolist()))]
        if switches.pooling == "images":
            groups = [image[np.newaxis] for image in images]
        features[row] = np.sum([np.mean(group, axis=0) for group in groups], axis=0)
    unit: Array = features / np.sqrt(np.einsum("ij,ij->i", features, features))[:, np.newaxis]
    return unit


def draw(seed: int, count: int = 400) -> tuple[Array, Ints, Ints, Array]:
    """Images of 40 templates in no order, up to 30 of one medium; media ids occur in several."""
    generator = np.random.default_rng(seed)
    template_ids = generator.integers(0, 40, count) * 7 + 3
    media = generator.choice([1, 5, 6, 900], count, p=[0.7, 0.1, 0.1, 0.1])
    vectors = generator.standard_normal((count, 24)) * generator.uniform(0.1, 30, (count, 1))
    return vectors, template_ids, media, generator.uniform(0.3, 1.0, count)


SWITCHES = [
    Switches(),
    Switches(norm=False),
    Switches(detector=False),
    Switches(norm=False, detector=False),
    Switches(pooling="images"),
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda one: one.describe("1:N"))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_as_defined(switches: Switches, dtype: type[np.floating[Any]]) -> None:
    vectors, template_ids, media, detector = draw(1)
    vectors, detector = vectors.astype(dtype), detector.astype(dtype)
    found = pool(vectors, template_ids, media, detector, switches)
    assert found.ids.tolist() == sorted(set(template_ids.tolist()))
    expected = slow_pool(vectors, template_ids, media, detector, switches)
    if switches.norm and switches.pooling == "media":
        assert np.array_equal(found.features, expected)  # sum by sum, also in single precision
    np.testing.assert_allclose(found.features, expected, rtol=0, atol=1e-6)


def test_every_switch_changes_the_features() -> None:
    vectors, template_ids, media, detector = draw(2)
    found = [pool(vectors, template_ids, media, detector, s).features for s in SWITCHES]
    for place, one in enumerate(found):
        for other in found[:place]:
            assert np.abs(one - other).max() > 0.01


def test_switches_say_what_they_are() -> None:
    assert Switches().describe("1:1") == (
        "ijb 1:1 v1, flip=on, norm=on, detector=on, pooling=media, rule=nearest, false accepts>=1"
    )
    odd = Switches(False, False, False, "images", "not exceeding", 100)
    assert odd.describe("1:N") == "ijb 1:N v1, flip=off, norm=off, detector=off, pooling=images"
    assert odd.describe("1:1").endswith("rule=not exceeding, false accepts>=100")


def test_templates_are_found_by_their_ids() -> None:
    found = Templates(np.array([3, 7, 9]), np.eye(3))
    assert found.rows([9, 3, 3]).tolist() == [2, 0, 0]
    with pytest.raises(ValueError, match="template 8 has no images; the 3 known ids lie between 3"):
        found.rows([3, 8])
    with pytest.raises(ValueError, match="there is none"):
        Templates(np.empty(0, np.int64), np.empty((0, 4))).rows([1])


@pytest.mark.parametrize("pairs", ["between", "any", "few", "one"])
@pytest.mark.parametrize("tile", [64, 2**23])
@pytest.mark.parametrize("sparse", [0.0, templates._SPARSE, 1.0])
def test_scores_of_pairs(
    pairs: str, tile: int, sparse: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "_TILE", tile)
    monkeypatch.setattr(templates, "_SPARSE", sparse)
    generator = np.random.default_rng(len(pairs))
    features = generator.standard_normal((60, 16))
    first, second = {
        "between": (generator.integers(0, 20, 900), generator.integers(30, 60, 900)),
        "any": (generator.integers(0, 60, 900), generator.integers(0, 60, 900)),
        "few": (generator.integers(0, 60, 8), generator.integers(0, 60, 8)),
        "one": (np.array([59]), np.array([59])),
    }[pairs]
    expected = [sum(a * b for a, b in zip(features[i], features[j], strict=True))
                for i, j in zip(first, second, strict=True)]  # fmt: skip
    found = pair_scores(features, first, second)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    single = pair_scores(features.astype(np.float32), first, second)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-4)


def test_what_is_refused() -> None:
    vectors, template_ids, media, detector = draw(3, 12)
    with pytest.raises(ValueError, match=r"embeddings \(12, 24\), templates \(11,\) and media"):
        pool(vectors, template_ids[1:], media, detector)
    with pytest.raises(ValueError, match=r"detector scores \(\) for 12 images"):
        pool(vectors, template_ids, media)
    assert len(pool(vectors, template_ids, media, None, Switches(detector=False)).ids)
    with pytest.raises(ValueError, match="rows 0 to 60: takes 0 to 59"):
        pair_scores(np.ones((60, 2)), [0, 3], [60, 4])
    with pytest.raises(ValueError, match=r"first \(2,\) and second \(1,\)"):
        pair_scores(np.ones((60, 2)), [0, 3], [4])
    assert pair_scores(np.ones((60, 2)), np.empty(0, int), np.empty(0, int)).shape == (0,)


@pytest.mark.parametrize(
    ("value", "reason"), [(math.nan, "finite"), (math.inf, "finite"), (1.0, "coll"), (0.0, "coll")]
)
@pytest.mark.parametrize("switches", SWITCHES, ids=lambda one: one.describe("1:N"))
def test_broken_embeddings_end_as_a_reason(value: float, reason: str, switches: Switches) -> None:
    _, template_ids, media, detector = draw(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pool(np.full((400, 24), value), template_ids, media, detector, switches)
        generator = np.random.default_rng(0)
        first, second = generator.integers(0, len(found.ids), (2, 500))
        tars = tar_at_far(pair_scores(found.features, first, second), np.arange(500) < 50)
    assert all(math.isnan(tar) for tar in tars.tars.values())
    assert all(reason in sentence for sentence in tars.reasons.values())


def test_no_images_at_all() -> None:
    found = pool(np.empty((0, 8)), [], [], [])
    assert found.features.shape == (0, 8)


@pytest.mark.skipif("FACEREC_DATA" not in os.environ, reason="FACEREC_DATA names no face data")
def test_a_real_set_in_small() -> None:
    root = Path(os.environ["FACEREC_DATA"]) / "ijb_layout_mini"
    if not root.exists():
        pytest.skip(f"{root} is not there")
    golden = json.loads((root / "golden.json").read_text(encoding="utf-8"))
    faces, pairs = ijb.read_faces(root), ijb.read_pairs(root)
    assert len(faces.names) == golden["images"]
    assert len(pairs.same) == golden["pairs"]
    assert pairs.same.sum() == golden["positives"]
    vectors = np.stack([pixels(root / "loose_crop" / name) for name in faces.names])
    vectors += np.stack([pixels(root / "loose_crop" / name, True) for name in faces.names])
    detector = faces.detector_scores
    found = pool(vectors, faces.templates, faces.media, detector)
    assert len(found.ids) == golden["templates"]
    slow = slow_pool(vectors, faces.templates, faces.media, detector, Switches())
    assert np.array_equal(found.features, slow)

    first, second = found.rows(pairs.first), found.rows(pairs.second)
    scores = pair_scores(found.features, first, second)
    expected = np.array([np.sum(slow[i] * slow[j]) for i, j in zip(first, second, strict=True)])
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-14)
    tars = tar_at_far(scores, pairs.same)
    assert [name for name, tar in tars.tars.items() if not math.isnan(tar)] == ["1e-2", "1e-1"]
    for name, far in (("1e-2", 0.01), ("1e-1", 0.1)):
        assert tars.tars[name] == slow_nearest(expected, pairs.same, far)[0]
    assert tars.tars["1e-1"] > 0.3  # pixels know a little

    gallery, probes = ijb.read_gallery(root), ijb.read_probes(root)
    assert len(set(gallery.subjects.tolist())) == golden["subjects"]
    sides = [found.features[found.rows(side.templates)] for side in (probes, gallery)]
    result = identify(sides[0], probes.subjects, sides[1], gallery.subjects)
    assert result.reason == ""
    slow_ranks, slow_tpirs = slow_identify(sides[0], probes.subjects, sides[1], gallery.subjects)
    assert dict(result.ranks) == slow_ranks
    assert dict(result.tpirs) == slow_tpirs


def pixels(path: Path, mirrored: bool = False) -> NDArray[np.float32]:
    """A face as 256 grey numbers around zero."""
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L").resize((16, 16)), np.float32)
    return (grey[:, ::-1] if mirrored else grey).ravel() - grey.mean()
