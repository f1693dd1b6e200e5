"""The lists of an IJB set, as they should be and as they should not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep import ijb
from facerec.data.shards import DataError

FACES = "1.jpg 7 100\n2.jpg 7 100\n3.jpg 9 -4\n"
POINTS = "".join(
    f"{n}.jpg " + " ".join(str(10 * n + k) for k in range(10)) + f" 0.{n}\n" for n in (1, 2, 3)
)
PAIRS = "7 9 0\n9 7 0\n7 7 1\n"
SUBJECTS = "TEMPLATE_ID,SUBJECT_ID,FILENAME\n9,2,a\n7,3,b\n7,3,c\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "meta").mkdir()
    for ending, text in {
        "face_tid_mid.txt": FACES,
        "name_5pts_score.txt": POINTS,
        "template_pair_label.txt": PAIRS,
        "1N_gallery_G1.csv": SUBJECTS,
        "1N_gallery_G2.csv": "TEMPLATE_ID,SUBJECT_ID\n12,5\n",
        "1N_probe_mixed.csv": SUBJECTS,
    }.items():
        (tmp_path / "meta" / f"ijbc_{ending}").write_text(text)
    return tmp_path


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_what_is_in_the_lists(root: Path, ends: str) -> None:
    for path in (root / "meta").iterdir():
        path.write_bytes(path.read_text().replace("\n", ends).encode())
    faces = ijb.read_faces(root)
    assert faces.names == ["1.jpg", "2.jpg", "3.jpg"]
    assert faces.templates.tolist() == [7, 7, 9]
    assert faces.media.tolist() == [100, 100, -4]
    assert faces.landmarks[1].tolist() == [[20, 21], [22, 23], [24, 25], [26, 27], [28, 29]]
    np.testing.assert_allclose(faces.detector_scores, [0.1, 0.2, 0.3], rtol=1e-6)
    pairs = ijb.read_pairs(root)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([7, 9, 7], [9, 7, 7])
    assert pairs.same.tolist() == [False, False, True]
    gallery, probes = ijb.read_gallery(root), ijb.read_probes(root)
    assert (gallery.templates.tolist(), gallery.subjects.tolist()) == ([7, 9, 12], [3, 2, 5])
    assert (probes.templates.tolist(), probes.subjects.tolist()) == ([7, 9], [3, 2])


def test_ijbb_calls_its_galleries_otherwise(root: Path) -> None:
    for path in list((root / "meta").iterdir()):
        path.rename(path.with_name(path.name.replace("ijbc", "ijbb").replace("_G", "_S")))
    assert ijb.read_gallery(root).templates.tolist() == [7, 9, 12]


@pytest.mark.parametrize(
    ("ending", "text", "read", "message"),
    [
        ("face_tid_mid.txt", "1.jpg 7\n", ijb.read_faces, "line 1: 2 words, not 3"),
        ("face_tid_mid.txt", "1.jpg x 7\n", ijb.read_faces, "line 1: `name template_id media_id`"),
        ("name_5pts_score.txt", POINTS[6:], ijb.read_faces, "line 1: 11 words, not 12"),
        ("name_5pts_score.txt", POINTS.replace("20", "?"), ijb.read_faces, "line 2: `name x1"),
        ("name_5pts_score.txt", POINTS.replace("2.j", "9.j"), ijb.read_faces, "line 2: 9.jpg, wh"),
        ("name_5pts_score.txt", POINTS.split("3.jpg")[0], ijb.read_faces, "has 2 faces, .* has 3"),
        ("template_pair_label.txt", "1 2 1\n3 4\n", ijb.read_pairs, "`template_id template_id lab"),
        ("template_pair_label.txt", "1 2 \n", ijb.read_pairs, "`template_id template_id label`"),
        ("template_pair_label.txt", "", ijb.read_pairs, "`template_id template_id label`"),
        ("template_pair_label.txt", "1 2 1\n1 2 -1\n", ijb.read_pairs, "pair 2: label -1: takes 0"),
        ("1N_gallery_G2.csv", "H\n7,4\n", ijb.read_gallery, "G2.csv, line 2: template 7 is of su"),
        ("1N_probe_mixed.csv", "H\n7\n", ijb.read_probes, "line 2: `template_id,subject_id"),
        ("1N_probe_mixed.csv", "H\n\n7,x\n", ijb.read_probes, "line 3: `template_id,subject_id"),
    ],
)
def test_what_is_wrong_is_named(
    root: Path, ending: str, text: str, read: Callable[[Path], object], message: str
) -> None:
    (root / "meta" / f"ijbc_{ending}").write_text(text)
    with pytest.raises(DataError, match=message):
        read(root)


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "meta" / "ijbc_1N_gallery_G2.csv").unlink()
    with pytest.raises(DataError, match=r"no such file: .*ijbc_1N_gallery_G2\.csv"):
        ijb.read_gallery(root)
    (root / "meta" / "ijbc_1N_gallery_G1.csv").unlink()
    with pytest.raises(DataError, match=r"G1\.csv or .*_S1\.csv"):
        ijb.read_gallery(root)
    (root / "meta" / "ijbb_face_tid_mid.txt").write_text(FACES)
    with pytest.raises(DataError, match=r"2 files .*exactly one"):
        ijb.read_faces(root)
