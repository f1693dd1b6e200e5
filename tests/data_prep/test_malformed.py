"""Each damaged or odd input of the real data, with the line that a user sees."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.recordio import Recordio
from facerec.data.images import decode
from facerec.data.shards import Shards
from tests.data_prep.sources import jpeg
from tests.data_prep.test_golden import DATA, FOLDER, golden, stored

pytestmark = pytest.mark.skipif(not FOLDER, reason="FACEREC_DATA names no folder of real data")

# The line that each damaged input ends with ({0} is its path), and what --on-error skip makes of
# it: the rows of the damage report (file, key, offset, reason), and the keys that are left.
NO_PAIR = "is no pair: 'name i j' (one person) or 'name1 i name2 j' (two) is wanted, by tabs"
NO_LABEL = (
    "label one is no whole number from 0 to 2147483646 in 'images/there.jpg 0 one 0'; a line reads "
    "'path 0 id 0' (MagFace) or 'index<TAB>label<TAB>path' (im2rec), ids are whole numbers from 0"
)
Row: TypeAlias = tuple[str, str | None, int | None, str]
DAMAGED: dict[str, tuple[str, str, list[Row], list[str]]] = {
    "rec_truncated": (
        "recordio",
        "train.rec, key 5, offset 21556: 5832 bytes are promised, the file ends after 992 of them",
        [
            ("train.rec", "5", 21556, "5832 bytes are promised, the file ends after 992 of them"),
            ("train.rec", "6", 27396, "it lies past the file's 22556 bytes"),
        ],
        ["1", "2", "3", "4"],
    ),
    "rec_bad_magic": (
        "recordio",
        "train.rec, key 3, offset 10880: magic word 0xced723f5 instead of 0xced7230a",
        [("train.rec", "3", 10880, "magic word 0xced723f5 instead of 0xced7230a")],
        ["1", "2", "4", "5", "6"],
    ),
    "idx_past_end": (
        "recordio",
        "train.rec, key 4, offset 99999999: it lies past the file's 31168 bytes",
        [("train.rec", "4", 99999999, "it lies past the file's 31168 bytes")],
        ["1", "2", "3", "5", "6"],
    ),
    "bin_os_system.bin": (
        "bin",
        "{0} is no verification set: it asks for posix.system; images and flags need no such name, "
        "and nothing of it was run",
        [],
        [],
    ),
    "bin_odd_count.bin": (
        "bin",
        "{0} holds 3 images for 2 pairs; two images a pair are wanted",
        [],
        [],
    ),
    "bin_corrupt_jpeg.bin": (
        "bin",
        "bin_corrupt_jpeg.bin, key 2, offset 10797: the image is damaged: cannot load this image",
        [
            ("bin_corrupt_jpeg.bin", "2", 10797, "the image is damaged: cannot load this image"),
            ("bin_corrupt_jpeg.bin", "3", 11503, "the other image of pair 1 is left out"),
        ],
        ["0", "1"],
    ),
    "rec_zero_length_image": (
        "recordio",
        "train.rec, key 2, offset 5136: the record holds no image (0 bytes)",
        [("train.rec", "2", 5136, "the record holds no image (0 bytes)")],
        ["1", "3", "4"],
    ),
    "rec_mixed_shapes": (
        "recordio",
        "train.rec, key 2, offset 5136: the image is 96 x 112, the set is 112 x 112: all must be "
        "of one size; --on-error skip leaves others out",
        [
            (
                *("train.rec", "2", 5136),
                "the image is 96 x 112, the set is 112 x 112: all must be of one size",
            )
        ],
        ["1", "3", "4"],
    ),
    "list_missing_files": (
        "list",
        "train.list, line 2, key images/not_there.jpg, offset 23: {0}/images/not_there.jpg is "
        "missing",
        [
            (
                *("train.list", "images/not_there.jpg", 23),
                "line 2: {0}/images/not_there.jpg is missing",
            ),
            ("train.list", None, 78, f"line 5: {NO_LABEL}"),
        ],
        ["images/there too.jpg", "images/there.jpg"],
    ),
    "pairs_bad.txt": (
        "pairs",
        f"pairs_bad.txt, line 3, offset 10: 'A\\t1' {NO_PAIR}",
        [],
        [],
    ),
}


@pytest.mark.parametrize("name", list(DAMAGED))
def test_damaged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, line, report, left = DAMAGED[name]
    monkeypatch.chdir(tmp_path)
    source = DATA / "malformed" / name
    command = [kind, str(source), "dst"]
    if kind == "list":
        command = [kind, str(source / "train.list"), "dst", "--root", str(source)]
    if kind == "pairs":
        command += ["--root", str(source.parent)]
    assert main(command) == 2
    assert capsys.readouterr().err == f"error: {line.format(source)}\n"
    assert list(tmp_path.iterdir()) == []
    assert main([*command, "--on-error", "skip"]) == (3 if left else 2)
    assert not list(tmp_path.rglob("pwned*"))
    if not left:
        assert list(tmp_path.iterdir()) == []
        return
    assert sorted(key for _, key, _ in stored(Path("dst"))) == left
    assert capsys.readouterr().out.endswith(" left out: dst/damage.csv says which and why\n")
    rows = pq.read_table("dst/damage.parquet").to_pylist()
    wanted = [(*row[:3], row[3].format(source)) for row in report]
    assert [tuple(row.values()) for row in rows] == wanted


def test_pairs_with_lines_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of pairs_bad.txt, what is left where the images are there."""
    for name, number in (("A", 1), ("A", 2), ("A", 3), ("B", 1)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{name}_{number:04d}.jpg").write_bytes(jpeg(number))
    source = DATA / "malformed" / "pairs_bad.txt"
    command = ["pairs", str(source), str(tmp_path / "dst"), "--root", str(tmp_path)]
    assert main([*command, "--on-error", "skip"]) == 3
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"warning: left out: pairs_bad.txt, line 3, offset 10: 'A\\t1' {NO_PAIR}",
        f"warning: left out: pairs_bad.txt, line 5, offset 22: 'A\\tx\\tB\\t2' {NO_PAIR}",
        "warning: left out: pairs_bad.txt: the header promises 8 pairs, the file ends after 5",
    ]
    assert said.out.splitlines()[-1].startswith("0 of 4 images, 3 of the lines left out: ")
    pairs = pq.read_table(tmp_path / "dst" / "pairs.parquet").to_pydict()
    assert (pairs["same"], pairs["fold"]) == ([True, False, True], [0, 0, 1])


def test_odd_shapes_decode_to_rgb() -> None:
    source = Recordio(DATA / "malformed" / "rec_mixed_shapes")
    assert [decode(source[n].image).shape for n in range(4)] == [
        (112, 112, 3),
        (112, 96, 3),
        (112, 112, 3),
        (112, 112, 3),
    ]
    grey, cmyk = decode(source[2].image), decode(source[3].image)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert 60 < cmyk.mean() < 200


def test_property_without_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = DATA / "malformed" / "property_missing_size"
    assert main(["recordio", str(source), str(tmp_path / "dst")]) == 0
    assert Shards(tmp_path / "dst").image_size == (112, 112)
    assert "promises" not in capsys.readouterr().err


def test_unicode_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", str(DATA / "malformed" / "unicode_names"), str(tmp_path / "dst")]) == 0
    split = Shards(tmp_path / "dst").split()
    assert (split.classes, split.rows) == (2, 3)
    assert {key.partition("/")[0] for _, key, _ in stored(tmp_path / "dst")} == {
        "José_Müller",
        "王_伟",
    }
    assert "1 identity without images skipped: empty_id" in capsys.readouterr().err


def test_every_damaged_input_is_replayed() -> None:
    others = {"property_missing_size", "unicode_names"}
    assert set(golden("malformed/EXPECTED.json")) == set(DAMAGED) | others
