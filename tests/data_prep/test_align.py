"""Photographs to aligned faces: every file of it, continued, and what is refused."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import align, aligned
from data_prep.options import parser
from data_prep.readers import Folder
from facerec.data.align import TEMPLATE
from facerec.data.images import decode
from facerec.data.shards import DataError
from facerec.data.writer import write_bytes
from tests.data.marked import MARKS, encoded, photograph, places

MARKED = ["--detector", "tests.data.marked:Marked", "--processes", "1"]
EMPTY = encoded(np.full((40, 50, 3), 7, np.uint8))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six photographs of three people."""
    root = tmp_path / "photographs"
    for seed in range(6):
        path = root / f"p{seed % 3}" / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(seed))
    (root / "notes.txt").write_text("no photograph")
    return root


def run(*words: object) -> int:
    return align.run(parser([align]).parse_args(["align", *map(str, words)]))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "faces.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_of_photographs_becomes_one_of_faces(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "faces"
    assert run(source, folder, *MARKED) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: 6 aligned faces; 6 photographs done now")
    rows = table(folder)
    assert [row["path"] for row in rows] == sorted(f"p{n % 3}/{n}.png" for n in range(6))
    for row in rows:
        assert (row["status"], row["faces"], row["score"]) == ("aligned", "1", "0.500000")
        points = [[float(row[f"{axis}{n}"]) for axis in "xy"] for n in range(1, 6)]
        np.testing.assert_allclose(points, places(int(row["path"][3])), atol=1e-3)
        box = [float(row[name]) for name in ("left", "top", "right", "bottom")]
        assert box[:2] == (np.min(points, axis=0) - 20).tolist()
        face = decode((folder / row["file"]).read_bytes())
        assert face.shape == (112, 112, 3)
        for (x, y), colour in zip(TEMPLATE, MARKS, strict=True):
            assert np.abs(face[round(y), round(x)].astype(int) - colour).max() < 60
    assert (folder / "without_a_face.txt").read_bytes() == b""
    assert not (folder / "aligning.csv").exists()
    assert len(Folder(folder)) == 6  # data_prep folder goes on from here
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.size == (6 * 114 + 2, 24 + 114 + 2)


def test_what_has_no_face_ends_the_run_or_is_left_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "p1" / "empty.png").write_bytes(EMPTY)
    (source / "p2" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    folder = tmp_path / "faces"
    with pytest.raises(
        DataError, match=r"key p1/empty\.png: the detector found no face in 50 x 40"
    ):
        run(source, folder, *MARKED)
    skip = [source, folder, *MARKED, "--on-error", "skip"]
    for _ in range(2):
        assert run(*skip) == 3
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == (
            f"2 of 8 photographs left out (1 damaged, 1 no face): {folder / 'faces.csv'} says which"
        )
    assert (folder / "without_a_face.txt").read_text() == "p1/empty.png\n"
    bad = {row["path"]: row for row in table(folder) if row["status"] != "aligned"}
    assert bad["p1/empty.png"]["faces"] == "0"
    assert bad["p2/broken.jpg"]["status"] == "damaged"
    assert bad["p2/broken.jpg"]["reason"].startswith("no readable image in 3 bytes")
    assert bad["p2/broken.jpg"]["file"] == ""
    (source / "p1" / "empty.png").write_bytes(photograph(9))  # mended, and asked for again
    (source / "p2" / "broken.jpg").unlink()
    (folder / "faces.csv").write_text(
        "".join(
            line
            for line in (folder / "faces.csv").read_text().splitlines(keepends=True)
            if "broken" not in line
        )
    )
    assert run(*skip[:-2]) == 0
    assert len(table(folder)) == 7


def test_a_run_that_was_killed_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "faces"
    monkeypatch.setattr(align, "TOGETHER", 2)
    assert run(source, whole, *MARKED) == 0
    written: list[Path] = []

    def dies(path: Path, data: bytes) -> None:
        if len(written) == 3:
            path.with_name(path.name + ".part").write_bytes(data[:9])
            raise KeyboardInterrupt
        written.append(path)
        write_bytes(path, data)

    monkeypatch.setattr("data_prep.align_work.write_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        run(source, folder, *MARKED)
    with (folder / "aligning.csv").open("ab") as journal:
        journal.write(b"p2/5.png,p2/5.png,alig")  # cut off
    journaled = aligned.read_rows(folder)
    assert sorted(journaled) == ["p0/0.png", "p0/3.png"]
    (folder / "p0/3.png").unlink()  # done again, though it is in the journal
    again: list[str] = []

    def counts(path: Path, data: bytes) -> None:
        again.append(path.relative_to(folder).as_posix())
        write_bytes(path, data)

    monkeypatch.setattr("data_prep.align_work.write_bytes", counts)
    assert run(source, folder, *MARKED) == 0
    assert sorted(again) == ["p0/3.png", "p1/1.png", "p1/4.png", "p2/2.png", "p2/5.png"]
    assert content(folder) == content(whole)
    again.clear()
    (source / "p0" / "new.png").write_bytes(photograph(7))
    assert run(source, folder, *MARKED) == 0
    assert again == ["p0/new.png"]
    assert len(table(folder)) == 7


def test_points_from_a_file_are_taken(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detected, folder, plain = (tmp_path / name for name in ("detected", "faces", "plain"))
    run(source, detected, *MARKED)
    run(source, folder, "--landmarks", detected / "faces.csv", "--processes", "1")
    for name, data in content(detected).items():
        if name.startswith("p"):
            assert (folder / name).read_bytes() == data
    lines = [
        f"p1/1.png,{','.join(f'{value}' for value in places(1).ravel())}",
        "p9/9.png" + ",1" * 10,
    ]
    (tmp_path / "points.csv").write_text("\n".join(lines) + "\n")
    words = [source, plain, "--landmarks", tmp_path / "points.csv", "--processes", "1"]
    assert run(*words, "--on-error", "skip", "--jpeg", "95") == 3
    said = capsys.readouterr()
    assert "1 of its paths are not in SRC, such as p9/9.png" in said.err.replace("\n", " ")
    face = decode((plain / "p1/1.jpg").read_bytes())
    assert np.abs(face.astype(int) - decode((detected / "p1/1.png").read_bytes())).mean() < 3
    reasons = {row["reason"] for row in table(plain)}
    assert reasons == {"", "points.csv has no points of it"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,1,2,3\n", "line 1: 4 cells: 11 or more are wanted"),
        (f"a.png{',1' * 10}\na.png{',2' * 10}\n", "line 2: a.png stands there twice"),
        (f"a.png{',1' * 9},x\n", "line 1: 1,1,1,1,1,1,1,1,1,x: ten numbers are wanted"),
        ("path,x1,y1\n", "no column x2, y2, x3"),
        ("\0", "line contains NUL|1 cells"),
    ],
)
def test_files_of_points_are_checked(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        aligned.read_points(tmp_path / "points.csv")


def test_names_that_would_meet_keep_their_endings() -> None:
    paths = [Path("a/1.jpg"), Path("a/1.JPEG"), Path("a/2.jpg"), Path("a.b/1.png")]
    found = dict(aligned.places(paths, ".png", {}))
    assert list(found.values()) == ["a/1.jpg.png", "a/1.JPEG.png", "a/2.png", "a.b/1.png"]
    with pytest.raises(DataError, match=r"and that of a/1\.JPG would be one file"):
        list(aligned.places([Path("a/1.JPG"), Path("a/1.jpg")], ".png", {}))
    with pytest.raises(DataError, match="not UTF-8: rename it"):
        list(aligned.places([Path("a/\udcff.jpg")], ".png", {}))


def test_the_contact_sheet_is_a_seeded_sample(tmp_path: Path) -> None:
    rows = []
    for number in range(110):
        (tmp_path / f"{number}.png").write_bytes(
            encoded(np.full((112, 112, 3), 2 * number, np.uint8))
        )
        outcome = aligned.Outcome(np.zeros((1, 1, 3), np.uint8), score=number / 110)
        rows.append(aligned.row(f"{number}.png", f"{number}.png", outcome))
    one, again, other = (aligned.contact_sheet(tmp_path, rows, seed) for seed in (1, 1, 2))
    assert one == again != other
    with Image.open(io.BytesIO(one)) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (24 + 8 * 114 + 24 + 114 + 2, 12 * 114 + 2, 3)
    worst = [int(pixels[24 + 8 * 114 + 24 + 50, 2 + 114 * n + 50, 0]) for n in range(12)]
    assert worst == [2 * n for n in range(12)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/nowhere", "{tmp}/faces"], "no such folder"),
        (["{source}", "{source}/faces"], "DST must lie outside of SRC"),
        (["{source}", "{tmp}"], "SRC outside of DST"),
        (["{source}", "{other}", *MARKED], "is not empty and holds no aligned faces"),
        (["{source}", "{tmp}/f", "--landmarks", "x.csv", "--min-face", "30"], "do not go with it"),
        (["{source}", "{tmp}/f", "--landmarks", "{tmp}/x.csv"], r"x\.csv cannot be read: No such"),
        (["{source}", "{tmp}/f", *MARKED, "--min-face", "30"], "smallest face is for mtcnn"),
        (["{source}", "{tmp}/f", "--detector", "x"], "'x': mtcnn, or MODULE:FUNCTION"),
    ],
)
def test_what_is_refused(words: list[str], message: str, source: Path, tmp_path: Path) -> None:
    other = tmp_path.with_name(tmp_path.name + "_other")
    other.mkdir()
    (other / "x.txt").write_text("mine")
    named = {"tmp": str(tmp_path), "source": str(source), "other": str(other)}
    with pytest.raises(DataError, match=message):
        run(*(word.format(**named) for word in words))


def test_other_options_do_not_continue(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    run(source, folder, *MARKED)
    with pytest.raises(DataError, match="aligned otherwise: face was 'largest' and is 'centre'"):
        run(source, folder, *MARKED, "--face", "centre")
    (folder / "align.json").write_text("[")
    with pytest.raises(DataError, match=r"align\.json is damaged: delete the folder"):
        run(source, folder, *MARKED)


@pytest.mark.parametrize("words", [["--min-face", "11"], ["--jpeg", "101"], ["--processes", "0"]])
def test_options_have_limits(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("a", "b", *words)
    assert ended.value.code == 2
    assert f"{words[1]!r} is no whole number from" in capsys.readouterr().err


_COMMAND = """
import sys
from data_prep import align
from data_prep.options import parser
sys.exit(align.run(parser([align]).parse_args(sys.argv[1:])))
"""


@pytest.mark.slow
def test_processes_killed_and_started_again_give_the_same_files(
    source: Path, tmp_path: Path
) -> None:
    for seed in range(10, 90):
        (source / "p0" / f"{seed}.png").write_bytes(photograph(seed))
    whole, folder = tmp_path / "whole", tmp_path / "faces"
    assert run(source, whole, *MARKED) == 0
    words = ["align", str(source), str(folder), *MARKED[:2], "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", _COMMAND, *words]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    while not (folder / "aligning.csv").exists() or not aligned.read_rows(folder):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    group = process.pid
    for _ in range(500):  # its own processes end with it
        if not _alive(group):
            break
        time.sleep(0.01)
    assert not _alive(group)
    assert 0 < len(aligned.read_rows(folder)) < 86
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert content(folder) == content(whole)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
