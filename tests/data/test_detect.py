"""The detector's boxes and pixels against slow loops, its networks, and what a detector may be."""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data_prep import synthetic
from facerec.backbones import build
from facerec.cli import main
from facerec.data.align import TEMPLATE
from facerec.data.detect import Faces, Pixels, choose, open_detector
from facerec.data.folder import Photographs
from facerec.data.images import decode
from facerec.data.mtcnn import Mtcnn
from facerec.data.mtcnn_boxes import coarse, crops, keep, moved, scales, shrunk, squared, sums
from facerec.data.mtcnn_nets import PLANS, CascadeNet, load_nets
from facerec.data.photographs import DAMAGED, NO_FACE, cut_by, cut_out, upright
from facerec.data.shards import DataError
from facerec.model import Model
from tests.data.marked import MARKS, Marked, encoded, photograph, pixels, places

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def nets() -> list[CascadeNet]:
    """Random networks that let some squares through."""
    torch.manual_seed(3)
    made = [CascadeNet(plan).eval().requires_grad_(False) for plan in PLANS.values()]
    lasts = {"conv4_1": 1, "dense5_1": 1, "dense6_1": 1.4}
    for net, (last, more) in zip(made, lasts.items(), strict=True):
        for name, weights in net.named_parameters():
            if name.endswith("weight") and weights.ndim > 1:
                weights.mul_(2)
        net.get_submodule(last).get_parameter("bias")[1] += more
    return made


def noise(seed: int, height: int, width: int) -> Pixels:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def means(part: Pixels, height: int, width: int) -> Floats:
    """Area means by torch, whose rule the weights were used with."""
    planes = torch.from_numpy(part.astype(np.float32)).permute(2, 0, 1)[None]
    found = torch.nn.functional.interpolate(planes, (height, width), mode="area")[0]
    return ((found.permute(1, 2, 0) - 127.5) / 128).numpy()


def test_networks_have_the_published_sizes(nets: list[CascadeNet]) -> None:
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [6632, 100_178, 389_040]
    pnet, rnet, onet = nets
    images = torch.zeros(2, 3, 31, 24)
    assert [tuple(output.shape) for output in pnet(images)] == [(2, 11, 7), (2, 4, 11, 7)]
    for net, shapes in ((rnet, [(2,), (2, 4)]), (onet, [(2,), (2, 4), (2, 10)])):
        side = 24 if net is rnet else 48
        outputs = net(torch.zeros(2, 3, side, side))
        assert [tuple(output.shape) for output in outputs] == shapes


def test_a_pyramid_ends_where_p_net_s_square_no_longer_fits() -> None:
    found = scales(250, 300, 20, 1280)
    assert found[0] == 0.6
    assert [b / a for a, b in itertools.pairwise(found)] == pytest.approx([0.709] * 7)
    assert 250 * found[-1] >= 12 > 250 * found[-1] * 0.709
    assert scales(3000, 4000, 20, 1280)[0] == 0.32  # the side that is longer: 1280 pixels
    assert scales(19, 300, 20, 1280) == []


@pytest.mark.parametrize("size", [(7, 9), (24, 31), (40, 17)])
def test_sizes_change_by_area(size: tuple[int, int]) -> None:
    image = noise(1, 24, 30)
    np.testing.assert_allclose(shrunk(sums(image), *size), means(image, *size), atol=1e-6)


def test_crops_are_cut_off_at_the_border() -> None:
    image = noise(2, 40, 60)
    boxes = np.array(
        [
            (5.9, 3.2, 30, 28.7),  # counted from 1, both ends inside, cut off to whole pixels
            (-7, -3, 12, 16),
            (50, 30, 90, 70),
            (-30, 5, -2, 33),  # nothing of it is inside
            (61, 5, 70, 14),
            (20, 20, 22, 22),  # enlarged
        ],
        np.float32,
    )
    parts = [image[2:28, 4:30], image[:16, :12], image[29:, 49:], image[19:22, 19:22]]
    found, inside = crops(sums(image), boxes, 24)
    assert inside.tolist() == [True, True, True, False, False, True]
    for square, part in zip(found, parts, strict=True):
        np.testing.assert_allclose(square, means(part, 24, 24), atol=1e-6)


def slow_keep(boxes: Floats, scores: Floats, limit: float, by_smaller: bool) -> list[int]:
    kept: list[int] = []
    more = int(by_smaller)
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        one = boxes[row].astype(float)
        for other in (boxes[k].astype(float) for k in kept):
            width = min(one[2], other[2]) - max(one[0], other[0]) + more
            height = min(one[3], other[3]) - max(one[1], other[1]) + more
            common = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0] + more) * (b[3] - b[1] + more) for b in (one, other)]
            whole = min(areas) if by_smaller else sum(areas) - common
            if common > limit * whole:
                break
        else:
            kept.append(row)
    return kept


@pytest.mark.parametrize("by_smaller", [False, True])
@pytest.mark.parametrize("limit", [0.3, 0.7])
def test_suppression_is_that_of_a_slow_loop(limit: float, by_smaller: bool) -> None:
    rng = np.random.default_rng(4)
    start = rng.integers(0, 60, (400, 2))
    boxes = np.concatenate([start, start + rng.integers(8, 50, (400, 2))], axis=1)
    scores = (rng.integers(0, 90, 400) / 90).astype(np.float32)  # with equal ones
    found = keep(boxes.astype(np.float32), scores, limit, by_smaller=by_smaller)
    assert found.tolist() == slow_keep(boxes, scores, limit, by_smaller)
    assert 10 < len(found) < 400
    assert keep(np.empty((0, 4), np.float32), np.empty(0, np.float32), 0.5).tolist() == []


def test_boxes_are_corrected_and_made_square() -> None:
    boxes = np.array([(10, 20, 29, 59)], np.float32)
    offsets = np.array([(0.1, -0.1, 0.2, 0.05)], np.float32)
    np.testing.assert_allclose(moved(boxes, offsets), [(12, 16, 33, 61)], rtol=1e-6)
    np.testing.assert_allclose(moved(boxes, offsets, 0), [(11.9, 16.1, 32.8, 60.95)], rtol=1e-6)
    np.testing.assert_allclose(squared(boxes), [(0, 20, 39, 59)])


def test_images_together_give_what_each_gives_alone(nets: list[CascadeNet]) -> None:
    images = [noise(5, 60, 72), noise(6, 48, 48), noise(7, 60, 72), noise(8, 10, 90)]
    detector = Mtcnn(nets)
    together = detector.detect(images)
    assert sum(map(len, together[:3])) > 3
    assert len({*together[0].scores.tolist()}) > 1
    assert len(together[3]) == 0  # smaller than the smallest face
    for image, faces in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        assert len(alone) == len(faces)
        assert (np.diff(faces.scores) <= 0).all()
        for name in ("boxes", "points", "scores"):
            mine, other = getattr(alone, name), getattr(faces, name)
            np.testing.assert_allclose(mine, other, atol=1e-3)
    assert detector.detect([]) == []


def test_a_large_image_is_shrunk_first(
    nets: list[CascadeNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = noise(9, 60, 60)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(coarse(np.pad(large, ((0, 1), (0, 0), (0, 0))), 2), small)
    (alone,) = Mtcnn(nets, smallest=14).detect([small])
    monkeypatch.setattr("facerec.data.mtcnn.LARGEST", 60 * 60)
    (found,) = Mtcnn(nets, smallest=28).detect([large])  # the same faces
    assert len(found)
    np.testing.assert_allclose(found.points, alone.points * 2 + 0.5, atol=1e-3)
    np.testing.assert_allclose(found.boxes, alone.boxes * 2 + 0.5, atol=1e-3)


def test_weights_are_found_and_read_as_data(
    tmp_path: Path, nets: list[CascadeNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "facenet_pytorch"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it is never imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delenv("FACEREC_DETECTOR", raising=False)
    with pytest.raises(DataError, match="weights are not installed: run `make detect`"):
        load_nets()
    for name, net in zip(PLANS, nets, strict=True):
        torch.save(net.state_dict(), package / "data" / f"{name}.pt")
    for found, net in zip(load_nets(), nets, strict=True):
        assert torch.equal(found.state_dict()["conv2.weight"], net.state_dict()["conv2.weight"])
    monkeypatch.setenv("FACEREC_DETECTOR", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"pnet\.pt: cannot be read \(No such file"):
        load_nets()
    torch.save({"x": Path("a class of another's")}, package / "data" / "rnet.pt")
    with pytest.raises(DataError, match=r"rnet\.pt: no weights of rnet \("):
        load_nets(package / "data")
    with pytest.raises(ValueError, match="face of 11 pixels: 12 or more"):
        Mtcnn(nets, smallest=11)


def broken() -> None:
    raise LookupError("no model file")


class Careless(Marked):
    def detect(self, images: Sequence[Pixels]) -> list[Faces]:
        return super().detect(images)[:-1]


def test_another_s_detector_fits_in() -> None:
    here = open_detector("tests.data.marked:Marked")
    (faces,) = here.detect([decode(photograph(3))])
    np.testing.assert_allclose(faces.points[0], places(3))
    for name, message in (
        ("retinaface", r"'retinaface': mtcnn, or MODULE:FUNCTION"),
        ("no_such_module:make", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{__name__}:nothing", "AttributeError: module"),
        (f"{__name__}:broken", "LookupError: no model file"),
        ("builtins:list", "gave a list without `detect`"),
    ):
        with pytest.raises(DataError, match=message):
            open_detector(name)
    with pytest.raises(DataError, match="smallest face is for mtcnn"):
        open_detector("tests.data.marked:Marked", 40)
    with pytest.raises(DataError, match=r"Careless: 0 answers \(\) for 1 images"):
        open_detector(f"{__name__}:Careless").detect([noise(1, 30, 30)])


def test_faces_are_checked() -> None:
    with pytest.raises(ValueError, match=r"boxes of 1 faces are \(4,\): \(1, 4\) is wanted"):
        Faces(np.zeros(4), np.zeros((1, 5, 2)), np.ones(1))
    with pytest.raises(ValueError, match="points are not all finite"):
        Faces(np.zeros((1, 4)), np.full((1, 5, 2), np.nan), np.ones(1))
    assert len(Faces.none()) == 0


def test_one_face_of_several() -> None:
    boxes = np.array([(0, 0, 20, 20), (10, 50, 60, 70), (38, 38, 58, 58)], np.float32)
    faces = Faces(boxes, np.zeros((3, 5, 2)), np.ones(3))
    assert choose(faces, "largest", 100, 100) == 1
    assert choose(faces, "centre", 100, 100) == 2
    assert choose(Faces.none(), "centre", 9, 9) is None
    with pytest.raises(ValueError, match="'first': one of largest, centre"):
        choose(faces, "first", 9, 9)


@pytest.mark.parametrize("mark", range(1, 9))
def test_photographs_are_turned_upright(mark: int) -> None:
    data = encoded(noise(mark, 24, 36), mark)
    with Image.open(io.BytesIO(data)) as saved:
        wanted = np.asarray(ImageOps.exif_transpose(saved))
    assert np.array_equal(upright(data), wanted)


def test_faces_are_cut_out_of_photographs() -> None:
    data = [photograph(1), b"no image", encoded(np.full((50, 60, 3), 9, np.uint8)), photograph(2)]
    found = list(cut_out(data, Marked()))
    assert [one.status for one in found] == ["", DAMAGED, NO_FACE, ""]
    assert found[2].reason == "the detector found no face in 60 x 50 pixels"
    for seed, one in ((1, found[0]), (2, found[3])):
        assert one.face is not None
        assert one.points is not None
        for (x, y), colour in zip(TEMPLATE, MARKS, strict=True):
            pixel = one.face[round(y), round(x)].astype(int)
            assert np.abs(pixel - colour).max() < 60, (seed, x, y)
        again = cut_by(photograph(seed), one.points)
        assert np.array_equal(again.face, one.face)
    assert cut_by(photograph(1), np.zeros((5, 2))).status == DAMAGED


def test_photographs_are_a_split_of_faces(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(paths):
        path.write_bytes(photograph(seed))
    rows = Photographs(tmp_path, paths, Marked(), 64).read(0)
    assert rows.keys == ["a.png", "b.png"]
    assert [decode(image).shape for image in rows.images] == [(64, 64, 3)] * 2
    paths[1].write_bytes(encoded(np.zeros((30, 30, 3), np.uint8)))
    with pytest.raises(DataError, match=r"key b\.png: .* no face in 30 x 30 pixels; python -m"):
        Photographs(tmp_path, paths, Marked(), 64).read(0)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network in the place of whatever MODEL names."""
    torch.manual_seed(1)
    model = Model(build("tiny", {}, embedding_size=8).eval(), 112)
    for command in ("verify", "embed"):
        monkeypatch.setattr(f"facerec.commands.{command}.open_model", lambda *_: model)


@pytest.mark.usefixtures("untrained")
def test_commands_take_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(tmp_path / name) for name in ("1.png", "1_turned.png", "2.png")]
    for name, data in zip(
        names,
        (photograph(1), encoded(np.rot90(pixels(1)).copy(), 6), photograph(2)),
        strict=True,
    ):
        Path(name).write_bytes(data)
    align = ["--align", "--detector", "tests.data.marked:Marked"]
    assert main(["verify", "MODEL", *names[:2], *align]) == 0
    assert capsys.readouterr().out.startswith("cosine     1.0000")  # the mark turns it back
    out = tmp_path / "out.parquet"
    assert main(["embed", "MODEL", str(tmp_path), str(out), *align]) == 0
    assert pq.read_table(out)["key"].to_pylist() == ["1.png", "1_turned.png", "2.png"]
    capsys.readouterr()
    Path(names[2]).write_bytes(encoded(np.zeros((30, 30, 3), np.uint8)))
    for words, message in (
        (["verify", "MODEL", *names[:2]], "180 x 150 pixels, but .* --align of facerec verify"),
        (["verify", "MODEL", *names[1:], *align], "no face in 30 x 30 pixels"),
        (["verify", "MODEL", *names[:2], *align[1:]], "--detector is for --align"),
        (["embed", "MODEL", str(tmp_path), str(out), *align], "key 2.png: .* no face in 30 x 30"),
        (["embed", "MODEL", str(tmp_path), str(out), "--face", "centre"], "--face is for --align"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert re.match(f"error: .*{message}[^\n]*\n$", error), error


@pytest.mark.skipif("FACEREC_DETECTOR" not in os.environ, reason="the weights' folder is not named")
def test_real_weights_find_drawn_faces_and_none_in_noise() -> None:
    image = np.full((200, 240, 3), 128, np.uint8)
    (face,) = synthetic.faces(1, 1)
    image[40:152, 70:182] = decode(face.image)
    found, mirrored, empty = Mtcnn().detect([image, image[:, ::-1].copy(), noise(4, 200, 240)])
    assert [len(found), len(mirrored), len(empty)] == [1, 1, 0]
    assert found.scores[0] > 0.99
    assert np.abs(found.points[0] - TEMPLATE - np.array([70, 40])).max() < 8
    swapped = mirrored.points[0][[1, 0, 2, 4, 3]] * np.array([-1, 1]) + np.array([239, 0])
    assert np.abs(found.points[0] - swapped).max() < 8
