from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.pairs_list import PairsList
from facerec.data.shards import DataError, Shards
from tests.data_prep.sources import jpeg

TWO_FOLDS = ["2\t1", "A\t1\t2", "A\t2\tB\t1", "B\t1\t3", "B\t3\tA\t1"]


def images(root: Path, layout: str = "{0}/{0}_{1:04d}.jpg") -> dict[str, bytes]:
    """Three images of A and of B; by their paths."""
    found = {}
    for name in "AB":
        for number in (1, 2, 3):
            path = layout.format(name, number)
            found[path] = jpeg(100 * ord(name) + number)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(found[path])
    return found


def listed(tmp_path: Path, lines: list[str], newline: str = "\n") -> Path:
    path = tmp_path / "pairs.txt"
    path.write_bytes(newline.join([*lines, ""]).encode())
    return path


def prepared(tmp_path: Path, lines: list[str], *options: str) -> int:
    path = listed(tmp_path, lines)
    root = str(tmp_path / "root")
    return main(["pairs", str(path), str(tmp_path / "dst"), "--root", root, *options])


@pytest.mark.parametrize("blank", ["\t", "  "])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_each_image_is_stored_once(tmp_path: Path, blank: str, newline: str) -> None:
    found = images(tmp_path / "root")
    lines = [line.replace("\t", blank) for line in TWO_FOLDS]
    path = listed(tmp_path, lines, newline)
    assert main(["pairs", str(path), str(tmp_path / "dst"), "--root", str(tmp_path / "root")]) == 0
    (shard,) = Shards(tmp_path / "dst").index["shards"]
    rows = pq.read_table(tmp_path / "dst" / shard["file"]).to_pylist()
    names = [f"{n}/{n}_000{k}.jpg" for n, k in ("A1", "A2", "B1", "B3")]
    assert [row["key"] for row in rows] == names
    assert [row["image"] for row in rows] == [found[name] for name in names]
    assert [row["identity"] for row in rows] == ["A", "A", "B", "B"]
    assert {row["label"] for row in rows} == {-1}
    pairs = Shards(tmp_path / "dst").pairs()
    assert pairs is not None
    assert pairs.fold is not None
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 0])
    assert (pairs.same.tolist(), pairs.fold.tolist()) == ([True, False] * 2, [0, 0, 1, 1])


@pytest.mark.parametrize("start", [["2"], []], ids=["a number alone", "no header"])
def test_folds_are_known_from_the_header_alone(tmp_path: Path, start: list[str]) -> None:
    images(tmp_path / "root")
    assert prepared(tmp_path, [*start, *TWO_FOLDS[1:]]) == 0
    assert pq.read_table(tmp_path / "dst" / "pairs.parquet").column_names == [
        "first",
        "second",
        "same",
    ]


def test_another_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = images(tmp_path / "root", "{0}-{1}.png")
    assert prepared(tmp_path, TWO_FOLDS, "--layout", "{name}-{number}.png") == 0
    source = PairsList(tmp_path / "pairs.txt", tmp_path / "root", "{name}-{number}.png")
    assert [source[n].image for n in range(4)] == [
        found[f"{name}.png"] for name in ("A-1", "A-2", "B-1", "B-3")
    ]
    for layout in ("{name}.jpg", "{name}{number}{0}", "{name}{number:s}", "{name", "{name.x}"):
        assert prepared(tmp_path, TWO_FOLDS, "--layout", layout) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith(f"error: --layout '{layout}': "), layout
        assert err.endswith("the default is '{name}/{name}_{number:04d}.jpg'")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("A\t1", "'A\\t1' is no pair: 'name i j' (one person) or 'name1 i name2 j' (two) is"),
        ("A\t1\tx", "is no pair"),
        ("A\t-1\t2", "is no pair"),
        ("A\t1\t2\t3\t4", "is no pair"),
        ("A\t1\t\t2", "is no pair"),
        ("A\t1\t9999999999", "is no pair"),
        ("A\t2\t2", "pairs an image with itself"),
        ("A\t1\tA\t2", "pairs two people, and both are A"),
        ("C\t1\t2", "C/C_0001.jpg is missing"),
        ("../root/A\t1\tB\t1", "is missing"),
        ("..\t1\tB\t1", "key ../.._0001.jpg, offset 4: '../.._0001.jpg' leads out of "),
        ("/etc\t1\tB\t1", "leads out of "),
        ("\0\t1\tB\t1", "is no file name"),
    ],
)
def test_a_bad_line_is_named(
    tmp_path: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "root")
    lines = ["1\t2", line, "A\t1\t3", "A\t1\tB\t1", "A\t3\tB\t3"]
    assert prepared(tmp_path, lines) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: pairs.txt, line 2, ")
    assert message in err
    assert err.count("\n") == 1
    assert prepared(tmp_path, lines, "--on-error", "skip") == 3
    pairs = pq.read_table(tmp_path / "dst" / "pairs.parquet").to_pydict()
    assert pairs["same"] == [True, False, False]
    report = pq.read_table(tmp_path / "dst" / "damage.parquet").to_pylist()
    assert any(message.partition(": ")[2] in row["reason"] for row in report)
    assert {row["offset"] for row in report} == {4}


def test_what_the_header_promises_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "root")
    assert prepared(tmp_path, ["1\t1", *TWO_FOLDS[1:]]) == 2
    assert "line 4, offset 18: pair 3 of the 2 that the header promises" in capsys.readouterr().err
    assert prepared(tmp_path, ["1\t1", *TWO_FOLDS[1:]], "--on-error", "skip") == 3
    assert pq.read_table(tmp_path / "dst" / "pairs.parquet").num_rows == 2
    assert "2 of the lines left out: " in capsys.readouterr().out
    for header in ("0\t300", "10\t0"):
        with pytest.raises(DataError, match=r"line 1, offset 0: the header .* promises no pair"):
            PairsList(listed(tmp_path, [header, "A\t1\t2"]), tmp_path / "root")


def test_lists_without_a_pair(tmp_path: Path) -> None:
    images(tmp_path / "root")
    with pytest.raises(DataError, match="names no pair: it has no line that is not empty"):
        PairsList(listed(tmp_path, ["", " "]), tmp_path / "root")
    with pytest.raises(DataError, match=r"line 1, offset 0: 'hello' is no pair"):
        PairsList(listed(tmp_path, ["hello"]), tmp_path / "root")
    with pytest.raises(DataError, match="the header promises 6000 pairs, the file ends after 0"):
        PairsList(listed(tmp_path, ["10\t300"]), tmp_path / "root")
    with pytest.raises(DataError, match=r"--root .*nowhere: no such folder"):
        PairsList(tmp_path / "pairs.txt", tmp_path / "nowhere")


def test_each_thing_that_is_left_out_is_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "root")
    (tmp_path / "root" / "A" / "A_0001.jpg").write_bytes(b"no image")
    assert prepared(tmp_path, TWO_FOLDS, "--on-error", "skip") == 3
    out = capsys.readouterr().out.splitlines()[-1]
    assert out.startswith("1 of 4 images, 2 of the pairs left out: ")
    rows = pq.read_table(tmp_path / "dst" / "damage.parquet").to_pylist()
    assert [(row["key"], row["offset"]) for row in rows] == [
        ("A/A_0001.jpg", 4),
        ("A\t1\t2", 4),
        ("B\t3\tA\t1", 24),
    ]
    assert rows[2]["reason"] == "line 5: the image A/A_0001.jpg is left out"
