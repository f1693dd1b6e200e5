"""IJB's layout becomes a prepared set: made here from stripes, seen from afar and turned."""

from __future__ import annotations

import io
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep.__main__ import main
from data_prep.cuts import Options
from data_prep.prepare import prepare
from data_prep.templates import Templates
from facerec.data.align import TEMPLATE
from facerec.data.images import decode
from facerec.data.shards import DataError, Shards
from facerec.data.writer import describe, write_json, write_table
from tests.data_prep.sources import Silent, jpeg

FACES = [(7, 100), (7, 100), (7, 101), (9, 200), (4, 300), (4, 300)]  # template, medium
PAIRS = "7 9 0\n7 4 1\n9 4 0\n9 9 1\n"
GALLERY = ("SUBJECT_ID,x\n7,1,a\n7,1,b\n", "H\n9,2,a\n")
PROBES = "TEMPLATE_ID,SUBJECT_ID\n4,1\n9,2\n"


def stripes(number: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A picture that is known at every place: colours (..., 3) at coordinates of the template."""
    phases = np.array([0.0, 1.0, 2.0]) + number
    waves = np.sin((x[..., None] * np.cos(number) + y[..., None] * np.sin(number)) / 9 + phases)
    return np.rint(127.5 + 100 * waves).astype(np.uint8)


@cache
def loose(number: int) -> tuple[bytes, NDArray[np.float64]]:
    """The picture somewhere in a larger image, and its five points there."""
    rng = np.random.default_rng([9, number])
    scale, angle = rng.uniform(0.8, 1.15), rng.uniform(-0.6, 0.6)
    factor = scale * complex(math.cos(angle), math.sin(angle))
    shift = complex(100, 95) - factor * complex(55.5, 55.5)
    v, u = np.mgrid[0:190, 0:200]
    there = (u + 1j * v - shift) / factor
    sink = io.BytesIO()
    Image.fromarray(stripes(number, there.real, there.imag)).save(sink, "PNG")
    points = factor * (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) + shift
    return sink.getvalue(), np.stack([points.real, points.imag], axis=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six faces; the last is aligned already."""
    root = tmp_path / "mini"
    (root / "loose_crop").mkdir(parents=True)
    (root / "meta").mkdir()
    members, points = "", ""
    for number, (template, medium) in enumerate(FACES):
        image, places = loose(number) if number < 5 else (jpeg(5, (112, 112)), TEMPLATE)
        (root / "loose_crop" / f"{number}.jpg").write_bytes(image)
        members += f"{number}.jpg {template} {medium}\n"
        words = " ".join(f"{value:.4f}" for value in places.ravel())
        points += f"{number}.jpg {words} 0.{number + 1}\n"
    for ending, text in {
        "face_tid_mid.txt": members,
        "name_5pts_score.txt": points,
        "template_pair_label.txt": PAIRS,
        "1N_gallery_G1.csv": GALLERY[0],
        "1N_gallery_G2.csv": GALLERY[1],
        "1N_probe_mixed.csv": PROBES,
    }.items():
        (root / "meta" / f"ijbx_{ending}").write_text(text)
    return root


def rewrite(root: Path, ending: str, old: str, new: str) -> None:
    path = root / "meta" / f"ijbx_{ending}"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def columns(path: Path) -> dict[str, list[Any]]:
    content: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return content


def test_faces_arrive_aligned_and_in_order(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dst"
    assert main(["templates", str(root), str(folder)]) == 0
    rows = columns(folder / "shard-00000.parquet")
    assert rows["key"] == [f"{n}.jpg" for n in range(6)]
    assert rows["label"] == [-1] * 6
    assert (rows["template"], rows["medium"]) == tuple(map(list, zip(*FACES, strict=True)))
    assert rows["detector_score"] == np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], np.float32).tolist()
    y, x = np.mgrid[0:112, 0:112].astype(float)
    for number, image in enumerate(rows["image"][:5]):
        assert image[:4] == b"\x89PNG"
        off = decode(image).astype(float) - stripes(number, x, y)
        assert np.abs(off).mean() < 0.7
        across = (x + 0.2 * np.cos(number), y + 0.2 * np.sin(number))  # of the stripes
        assert np.abs(decode(image) - stripes(number, *across).astype(float)).mean() > 1.2
    assert rows["image"][5] == jpeg(5, (112, 112))
    index = json.loads((folder / "index.json").read_text())
    assert index["image_size"] == [112, 112]
    assert index["alignment"].startswith("five points, similarity")
    assert list(index["templates"]) == ["pairs", "gallery", "probes"]
    assert index["templates"]["gallery"] == describe(folder / "gallery.parquet")
    assert columns(folder / "template_pairs.parquet") == {
        "first": [7, 7, 9, 9],
        "second": [9, 4, 4, 9],
        "same": [False, True, False, True],
    }
    assert columns(folder / "gallery.parquet") == {"template": [7, 9], "subject": [1, 2]}


def test_the_set_read_back(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", str(root), str(tmp_path / "dst")]) == 0
    assert "gallery" in capsys.readouterr().out
    found = Shards(tmp_path / "dst").templates()
    assert found is not None
    assert list(zip(found.templates, found.media, strict=True)) == FACES
    assert found.templates.dtype == np.int64
    assert found.detector_scores.dtype == np.float32
    assert (found.first.tolist(), found.second.tolist()) == ([7, 7, 9, 9], [9, 4, 4, 9])
    assert found.same.tolist() == [False, True, False, True]
    assert found.gallery is not None
    assert found.probes is not None
    assert (found.probes.templates.tolist(), found.probes.subjects.tolist()) == ([4, 9], [1, 2])


def test_without_the_lists_of_one_to_many(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "meta" / "ijbx_1N_probe_mixed.csv").unlink()
    assert main(["templates", str(root), str(tmp_path / "dst")]) == 0
    assert "warning: 1:1 alone, without 1:N: no such file: " in capsys.readouterr().err
    found = Shards(tmp_path / "dst").templates()
    assert found is not None
    assert (found.gallery, found.probes, len(found.first)) == (None, None, 4)
    assert not (tmp_path / "dst" / "gallery.parquet").exists()


def test_a_template_that_is_lost_takes_its_entries_along(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["templates", str(root), str(tmp_path / "dst")]
    for number in (0, 3):
        (root / "loose_crop" / f"{number}.jpg").write_bytes(b"no image")
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("error: mini, key 0.jpg: no readable image in 8")
    assert not (tmp_path / "dst").exists()
    assert main([*command, "--on-error", "skip"]) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "2 of 6 images, 3 of the pairs, 1 of the gallery, 1 of the probes left out: "
    )
    found = Shards(tmp_path / "dst").templates()
    assert found is not None
    assert found.templates.tolist() == [7, 7, 4, 4]
    assert (found.first.tolist(), found.second.tolist()) == ([7], [4])
    assert found.gallery is not None
    assert found.gallery.templates.tolist() == [7]


def test_probes_go_with_the_only_template_of_their_subject(root: Path, tmp_path: Path) -> None:
    rewrite(root, "1N_gallery_G2.csv", "9,2", "4,2")
    for number in (4, 5):
        (root / "loose_crop" / f"{number}.jpg").write_bytes(b"no image")
    rewrite(root, "1N_probe_mixed.csv", "4,1", "7,1")
    command = ["templates", str(root), str(tmp_path / "dst"), "--on-error", "skip"]
    assert main(command) == 3
    found = Shards(tmp_path / "dst").templates()
    assert found is not None
    assert found.probes is not None
    assert (found.probes.templates.tolist(), found.probes.subjects.tolist()) == ([7], [1])


@pytest.mark.parametrize(
    ("ending", "old", "new", "message"),
    [
        ("template_pair_label.txt", "7 4 1", "7 5 1", "template 5 of its pairs has no face"),
        ("1N_gallery_G2.csv", "9,2", "3,2", "template 3 of its gallery has no face"),
        ("1N_probe_mixed.csv", "9,2", "3,2", "template 3 of its probes has no face"),
        ("name_5pts_score.txt", " 0.2\n", " nan\n", "key 1.jpg: detector score nan: a finite"),
        ("name_5pts_score.txt", "73.5318", "inf", "key 5.jpg: the five points are not all finite"),
    ],
)
def test_what_does_not_fit_is_named(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ending: str,
    old: str,
    new: str,
    message: str,
) -> None:
    rewrite(root, ending, old, new)
    command = ["templates", str(root), str(tmp_path / "dst")]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert main([*command, "--on-error", "skip"]) == 3
    assert Shards(tmp_path / "dst").templates() is not None


def test_nothing_left_to_compare(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(root, "template_pair_label.txt", PAIRS, "9 1 0\n")
    command = ["templates", str(root), str(tmp_path / "dst"), "--on-error", "skip"]
    assert main(command) == 2
    assert "mini: no pair is left of which both templates have faces" in capsys.readouterr().err
    rewrite(root, "template_pair_label.txt", "9 1 0\n", PAIRS)
    rewrite(root, "1N_probe_mixed.csv", PROBES, "TEMPLATE_ID,SUBJECT_ID\n")
    assert main(command) == 2
    assert "mini: no template with a face is left in its probes" in capsys.readouterr().err


def test_folders_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["templates", str(tmp_path / "src"), str(tmp_path / "dst")]
    assert main(command) == 2
    assert "loose_crop: no such folder" in capsys.readouterr().err
    (tmp_path / "src" / "loose_crop").mkdir(parents=True)
    assert main(command) == 2
    assert "0 files *_face_tid_mid.txt; exactly one is wanted" in capsys.readouterr().err


class Stumbling(Templates):
    """Fails in the second pass, after some images."""

    left = 6 + 3

    def __getitem__(self, position: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(position)


def test_an_interrupted_run_goes_on_to_the_same_end(root: Path, tmp_path: Path) -> None:
    def run(source: Templates, name: str) -> dict[str, bytes]:
        prepare(
            source,
            tmp_path / name,
            Options(),
            said={},
            tell=Silent(),
            cut=source.cut,
            shard_rows=2,
        )
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    with pytest.raises(KeyboardInterrupt):
        run(Stumbling(root), "two")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("*.parquet")}
    assert [path.name for path in kept] == ["shard-00000.parquet"]
    assert run(Templates(root), "two") == run(Templates(root), "one")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_tables_that_do_not_fit_are_refused(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dst"
    assert main(["templates", str(root), str(folder)]) == 0
    index = json.loads((folder / "index.json").read_text())
    pairs = folder / "template_pairs.parquet"
    whole = pq.read_table(pairs)

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message + r".*: delete the folder and run"):
            Shards(folder).templates()
        write_json(folder / "index.json", index)
        write_table(pairs, whole.schema, [whole])

    pairs.unlink()
    refused(r"template_pairs\.parquet cannot be read")
    write_table(pairs, whole.schema, [whole.slice(0, 3)])
    refused(r"template_pairs\.parquet holds 3 rows, index\.json says 4")
    other = whole.set_column(1, "second", pa.array([9, 4, 4, 1]))
    write_table(pairs, other.schema, [other])
    refused(r"template_pairs\.parquet: template 1 has no image")
    bare = whole.drop_columns("same")
    write_table(pairs, bare.schema, [bare])
    refused(r"has other columns than first int64, second int64, same bool")
    wrong: list[Any] = [{"gallery": index["templates"]["gallery"]}, [], {"pairs": "x"}]
    for damaged in wrong:
        write_json(folder / "index.json", {**index, "templates": damaged})
        refused(r"index\.json is damaged")
    assert Shards(folder).templates() is not None
