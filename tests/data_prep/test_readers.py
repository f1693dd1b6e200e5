from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_prep.lists import List
from data_prep.readers import Folder, whole_label
from facerec.data.shards import DataError
from tests.data_prep.sources import jpeg, write_folder


def test_folder_in_byte_order(tmp_path: Path) -> None:
    names = ["b", "José Müller", "王_伟", "B", "é", "a b"]
    write_folder(tmp_path / "root", names, 2)
    source = Folder(tmp_path / "root")
    faces = [source[n] for n in range(len(source))]
    order = sorted(names, key=lambda name: name.encode())
    assert order[0] == "B"
    assert [face.key for face in faces] == [f"{n}/{k:04d}.jpg" for n in order for k in range(2)]
    assert [face.identity for face in faces] == [n for n in order for _ in range(2)]
    for face in faces:
        assert face.image == (tmp_path / "root" / face.key).read_bytes()
    assert sorted(names, key=source.facts.order) == order


def test_folder_says_what_it_passed_over(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", ["a", "b"], 1)
    (root / "readme.txt").write_text("no identity")
    (root / "loose.jpg").write_bytes(jpeg(0))
    (root / "a" / "Thumbs.db").write_bytes(b"x")
    (root / "a" / "deep.jpg").mkdir()
    (root / "b" / "UPPER.JPG").write_bytes(jpeg(1))
    for name in ("none", "nobody"):
        (root / name).mkdir()
    source = Folder(root)
    assert [source[n].key for n in range(len(source))] == [
        "a/0000.jpg",
        "b/0000.jpg",
        "b/UPPER.JPG",
    ]
    assert source.facts.remarks == (
        "4 entries ignored: no image of an identity",
        "2 identities without images skipped: nobody, none",
    )


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        Folder(tmp_path / "nowhere")
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    with pytest.raises(DataError, match=r"no image in it; images .* in one folder per identity"):
        Folder(tmp_path)
    source = Folder(write_folder(tmp_path / "root", ["a"], 1))
    (tmp_path / "root" / "a" / "0000.jpg").unlink()
    with pytest.raises(DataError, match=r"key a/0000\.jpg: .*0000\.jpg cannot be read: No such"):
        source[0]


def test_folder_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / name / "0.jpg").write_bytes(jpeg(0))
    with pytest.raises(DataError, match=r"key caf\\xe9/0\.jpg: the name is not UTF-8"):
        Folder(tmp_path)[0]


def test_folder_fingerprint_follows_names_and_sizes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", ["a", "b"], 1)
    before = Folder(root).facts.fingerprint
    assert Folder(root).facts.fingerprint == before
    (root / "a" / "0000.jpg").write_bytes(jpeg(0) + b"\0")
    longer = Folder(root).facts.fingerprint
    (root / "a" / "0001.jpg").write_bytes(jpeg(1))
    assert len({before, longer, Folder(root).facts.fingerprint}) == 3


def list_of(tmp_path: Path, text: str) -> List:
    (tmp_path / "images").mkdir(exist_ok=True)
    for number, name in enumerate(("one.jpg", "two words.jpg", "é 3 0 4.png")):
        (tmp_path / "images" / name).write_bytes(jpeg(number))
    (tmp_path / "train.list").write_bytes(text.encode())
    return List(tmp_path / "train.list", tmp_path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize(
    "lines",
    [
        ["images/one.jpg 0 7 0", "images/two words.jpg 0 12 0", "", "images/é 3 0 4.png 1 7 5"],
        [
            "images/one.jpg\t0\t7\t0",
            "images/two words.jpg\t0\t12\t0",
            "images/é 3 0 4.png\t0\t7\t0",
        ],
        ["0\t7.000000\timages/one.jpg", "1\t12\timages/two words.jpg", "2\t7\timages/é 3 0 4.png"],
        [
            "5\t7\t0.5\timages/one.jpg",
            "6\t12\t-1\timages/two words.jpg",
            "9\t7\t0\timages/é 3 0 4.png",
        ],
    ],
    ids=["magface", "tabs", "im2rec", "im2rec labels"],
)
def test_lists(tmp_path: Path, lines: list[str], start: str, newline: str) -> None:
    source = list_of(tmp_path, start + newline.join(lines) + newline)
    faces = [source[n] for n in range(len(source))]
    names = ["images/one.jpg", "images/two words.jpg", "images/é 3 0 4.png"]
    assert [face.key for face in faces] == names
    assert [face.identity for face in faces] == ["7", "12", "7"]
    assert [face.image for face in faces] == [jpeg(0), jpeg(1), jpeg(2)]
    assert [face.more["source"] for face in faces] == [line for line in lines if line]
    assert sorted({"12", "7"}, key=source.facts.order) == ["7", "12"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/one.jpg 0 one 0", "line 2, offset 21: label one is no whole number from 0 to"),
        ("images/one.jpg 0 -1 0", "line 2, offset 21: label -1 is no whole number"),
        ("images/one.jpg 0 nan 0", "line 2, offset 21: label nan is no whole number"),
        ("images/one.jpg 0 1.5 0", "line 2, offset 21: label 1.5 is no whole number"),
        ("images/one.jpg 0 1", "line 2, offset 21: 3 columns instead of 4"),
        ("4\timages/one.jpg", "line 2, offset 21: 2 columns instead of 3"),
        ("4\t1e99\timages/one.jpg", "line 2, offset 21: label 1e99 is no whole number"),
        ("images/none.jpg 0 1 0", "train.list, line 2, key images/none.jpg, offset 21: "),
        ("images 0 1 0", "images is missing"),
        ("x" * 5000 + " 0 1 0", "is missing"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    source = list_of(tmp_path, f"images/one.jpg 0 0 0\n{line}\n")
    assert source[0].identity == "0"
    with pytest.raises(DataError) as error:
        source[1]
    assert message in str(error.value)


def test_a_wrong_root_is_told_the_right_one(tmp_path: Path) -> None:
    list_of(tmp_path, "images/one.jpg 0 0 0\n")
    (tmp_path / "other").mkdir()
    source = List(tmp_path / "train.list", tmp_path / "other")
    with pytest.raises(DataError, match=f"is missing; it is there with --root {tmp_path}"):
        source[0]
    with pytest.raises(DataError, match=r"--root .*nowhere: no such folder"):
        List(tmp_path / "train.list", tmp_path / "nowhere")


def test_list_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.list cannot be read"):
        List(tmp_path / "none.list", tmp_path)
    (tmp_path / "empty").write_text("\n  \n")
    with pytest.raises(DataError, match="empty names no image"):
        List(tmp_path / "empty", tmp_path)
    (tmp_path / "binary").write_bytes(b"abc\xff\xfe")
    with pytest.raises(DataError, match="binary is not UTF-8: byte 3"):
        List(tmp_path / "binary", tmp_path)


def test_whole_labels() -> None:
    for value, wanted in (("3", 3), (3.0, 3), ("3.000000", 3), (float(2**24), 2**24), (0.0, 0)):
        assert whole_label(value) == wanted
    for bad in (-1.0, 0.5, float("nan"), float("inf"), 2.0**31, "x", ""):
        with pytest.raises(ValueError, match="is no whole number from 0 to 2147483646"):
            whole_label(bad)
