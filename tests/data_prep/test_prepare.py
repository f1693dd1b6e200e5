"""The command line of data_prep, whole.

Over 300 lines: each way in, each message and each way to be interrupted has its case here.
"""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import prepare as module
from data_prep.__main__ import main
from data_prep.cuts import Options
from data_prep.prepare import prepare
from data_prep.readers import Folder
from data_prep.recordio import Recordio
from facerec.data.shards import DataError, Shards
from tests.data_prep.sources import (
    Silent,
    jpeg,
    layout_a,
    payload,
    people,
    write_folder,
    write_records,
)

SAID: Mapping[str, Any] = {"min_images": 1}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of a set by plain Parquet, with their split."""
    index = json.loads((folder / "index.json").read_text())
    rows = []
    for name, entry in {"train": index, **index["splits"]}.items():
        for shard in entry["shards"]:
            table = pq.read_table(folder / shard["file"])
            rows += [{**row, "split": name} for row in table.to_pylist()]
    return rows


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_recordio_keeps_every_byte(tmp_path: Path) -> None:
    images = people(50, 3)
    source = write_records(tmp_path / "src", layout_a(images), "50,16,16")
    assert main(["recordio", str(source), str(tmp_path / "dst")]) == 0
    rows = rows_of(tmp_path / "dst")
    assert sorted(int(row["key"]) for row in rows) == list(range(1, 151))
    for row in rows:
        label, image = images[int(row["key"]) - 1]
        assert row["image"] == image
        assert row["identity"] == str(label)
        assert (row["width"], row["height"], row["id"]) == (16, 16, int(row["key"]))
    for name, classes in {"train": 30, "val": 10, "confirm": 10}.items():
        found = {(row["identity"], row["label"]) for row in rows if row["split"] == name}
        assert sorted(label for _, label in found) == list(range(classes))
        ordered = sorted(found, key=lambda pair: int(pair[0]))
        assert [label for _, label in ordered] == list(range(classes))
    shards = Shards(tmp_path / "dst")
    assert shards.image_size == (16, 16)
    assert shards.split("val").rows == 30


def test_index_tells_where_the_set_is_from(tmp_path: Path) -> None:
    source = write_records(tmp_path / "src", layout_a(people(40, 2)), "40,16,16")
    assert main(["recordio", str(source), str(tmp_path / "dst"), "--confirm-identities", "0"]) == 0
    index = json.loads((tmp_path / "dst" / "index.json").read_text())
    assert list(index["splits"]) == ["val"]
    assert index["image_size"] == [16, 16]
    assert (index["version"], index["colour_order"], index["alignment"]) == (1, "RGB", "unknown")
    origin = index["source"]
    assert (origin["kind"], origin["name"], origin["layout"]) == ("recordio", "src", "A")
    assert origin["property"] == "40,16,16"
    assert origin["options"] == {
        "val_identities": None,
        "confirm_identities": 0,
        "min_images": 1,
        "on_error": "fail",
    }
    assert origin["counts"]["images"] == 80
    assert origin["seed"] == 1


def test_label_arrays_are_kept(tmp_path: Path) -> None:
    labels: list[float | list[float]] = [[1.0, 0.5], 0.0, [1.0, -2.0]]
    records = {n: payload(labels[n], jpeg(n), second=n) for n in range(3)}
    write_records(tmp_path / "src", records)
    assert main(["recordio", str(tmp_path / "src"), str(tmp_path / "dst")]) == 0
    rows = {row["key"]: row for row in rows_of(tmp_path / "dst")}
    assert rows["0"]["label_array"] == [1.0, 0.5]
    assert rows["1"]["label_array"] is None
    assert (rows["2"]["label_array"], rows["2"]["id2"]) == ([1.0, -2.0], 2)


def test_folder_and_list_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "root", ["b", "é", "a"], 2)
    assert main(["folder", str(root), str(tmp_path / "one")]) == 0
    lines = [f"{name}/{k:04d}.jpg 0 {n} 0" for n, name in enumerate("abé") for k in range(2)]
    (tmp_path / "train.list").write_text("\n".join(lines))
    command = ["list", "--root", str(root), str(tmp_path / "train.list"), str(tmp_path / "two")]
    assert main(command) == 0
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    for name in ("key", "label", "image"):
        assert [row[name] for row in one] == [row[name] for row in two]
    assert {row["source"] for row in two} == set(lines)
    assert "3 identities, 3 with two images or more, are too few" in capsys.readouterr().err


def test_bin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [jpeg(n) for n in range(8)]
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((images, [True, False, False, True])))
    assert main(["bin", str(path), str(tmp_path / "dst")]) == 0
    rows = rows_of(tmp_path / "dst")
    assert [row["image"] for row in rows] == images
    assert {row["label"] for row in rows} == {-1}
    shards = Shards(tmp_path / "dst")
    assert shards.split().classes == 0
    pairs = shards.pairs()
    assert pairs is not None
    assert pairs.first.tolist() == [0, 2, 4, 6]
    assert pairs.second.tolist() == [1, 3, 5, 7]
    assert pairs.same.tolist() == [True, False, False, True]
    out = capsys.readouterr()
    assert "pairs" in out.out
    assert out.err == ""


def test_a_folder_of_bins_is_a_set_of_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"B": [n % 3 == 0 for n in range(23)], "A": [n % 2 == 0 for n in range(20)]}
    images = {g: [jpeg(k) for k in range(2 * len(flags[g]))] for g in flags}
    for group, same in flags.items():
        (tmp_path / f"{group}.bin").write_bytes(pickle.dumps((images[group], same)))
    assert main(["bin", str(tmp_path), str(tmp_path / "dst")]) == 0
    pairs = pq.read_table(tmp_path / "dst" / "pairs.parquet").to_pylist()
    rows = rows_of(tmp_path / "dst")
    for group, same in flags.items():  # each group stands in its file's order
        mine = [pair for pair in pairs if pair["group"] == group]
        assert [pair["same"] for pair in mine] == same
        ends = [rows[pair[end]] for pair in mine for end in ("first", "second")]
        assert [row["image"] for row in ends] == images[group]
        assert [row["key"] for row in ends] == [f"{group}/{n}" for n in range(len(ends))]
    tenths = [pair["group"] for pair in pairs[:5]]  # 23 pairs: 3 in the first fold; 20: 2
    assert tenths == ["A", "A", "B", "B", "B"]
    assert main(["bin", str(tmp_path / "dst"), str(tmp_path / "no")]) == 2
    assert "no *.bin in it" in capsys.readouterr().err


def test_bin_leaves_out_a_pair_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [jpeg(n) for n in range(6)]
    images[2] = images[2][:200]
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((images, [True, False, True])))
    assert main(["bin", str(path), str(tmp_path / "dst")]) == 2
    assert "error: set.bin, key 2, offset " in capsys.readouterr().err
    assert not (tmp_path / "dst").exists()
    assert main(["bin", str(path), str(tmp_path / "dst"), "--on-error", "skip"]) == 3
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 of 6 images left out: ")
    assert [row["key"] for row in rows_of(tmp_path / "dst")] == ["0", "1", "4", "5"]
    pairs = Shards(tmp_path / "dst").pairs()
    assert pairs is not None
    assert (pairs.second.tolist(), pairs.same.tolist()) == ([1, 3], [True, True])


def test_errors_fail_or_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = people(6, 3)
    images[4] = (images[4][0], images[4][1][:-40])  # key 5: cut
    images[9] = (images[9][0], jpeg(5, size=(12, 16)))  # key 10: another size
    for slot in (15, 16, 17):
        images[slot] = (-1, images[slot][1])  # keys 16 to 18: no label, an identity goes
    records = layout_a(images)
    write_records(tmp_path / "src", records, "6,16,16")
    command = ["recordio", str(tmp_path / "src"), str(tmp_path / "dst")]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(
        "error: train.rec, key 5, offset 2964: the JPEG is damaged"
    )
    assert "Traceback" not in err
    assert not (tmp_path / "dst").exists()
    assert main([*command, "--on-error", "skip"]) == 3
    out = capsys.readouterr()
    assert out.out.splitlines()[-1].startswith("5 of 18 images left out: ")
    lines = out.err.splitlines()
    for place, reason in (
        ("key 10", "the image is 12 x 16, the set is 16 x 16: all must be of one size"),
        ("key 16", "label -1.0 is no whole number from 0 to 2147483646"),
    ):
        start = f"warning: left out: train.rec, {place}, offset "
        assert any(line.startswith(start) and line.endswith(f": {reason}") for line in lines)
    assert "the source promises 6 identities, its labels have 5" in out.err
    rows = rows_of(tmp_path / "dst")
    assert {int(row["key"]) for row in rows} == {*range(1, 16)} - {5, 10}
    assert {row["label"] for row in rows} == set(range(5))


def test_the_frequent_size_wins_where_none_is_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "root", ["a", "b"], 2)
    (root / "a" / "0000.jpg").write_bytes(jpeg(0, size=(32, 24)))
    assert main(["folder", str(root), str(tmp_path / "dst")]) == 2
    assert "root, key a/0000.jpg: the image is 32 x 24, the set is 16 x 16" in (
        capsys.readouterr().err
    )
    assert main(["folder", str(root), str(tmp_path / "dst"), "--on-error", "skip"]) == 3
    assert Shards(tmp_path / "dst").image_size == (16, 16)


def test_a_promised_size_is_kept_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(tmp_path / "src", layout_a(people(2, 2)), "2,112,112")
    command = ["recordio", str(tmp_path / "src"), str(tmp_path / "dst")]
    assert main(command) == 2
    assert (
        "train.rec, key 1, offset 40: the image is 16 x 16, the set is 112 x 112"
        in capsys.readouterr().err
    )
    assert main([*command, "--on-error", "skip"]) == 2
    assert "no image is 112 x 112 as promised" in capsys.readouterr().err


def test_nothing_usable_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "root", ["a"], 30)
    for path in (tmp_path / "root" / "a").iterdir():
        path.write_bytes(b"no image")
    command = ["folder", str(tmp_path / "root"), str(tmp_path / "dst"), "--on-error", "skip"]
    assert main(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "error: root: none of its 30 images can be used"
    assert lines[-2] == "warning: and 10 more"
    assert lines[0].startswith("warning: left out: root, key a/0000.jpg: no readable image in 8")


def test_the_same_command_again_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "root", ["a", "b"], 2)
    command = ["folder", str(root), str(tmp_path / "dst")]
    assert main(command) == 0
    before = content(tmp_path / "dst")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "dst").iterdir()}
    assert main(command) == 0
    assert "already prepared" in capsys.readouterr().out
    assert content(tmp_path / "dst") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "dst").iterdir()} == times


def test_another_source_or_option_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "root", ["a", "b"], 2)
    command = ["folder", str(root), str(tmp_path / "dst")]
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--min-images", "2"]) == 2
    assert "with other options: min_images was 1 and is 2; delete it" in capsys.readouterr().err
    (root / "a" / "more.jpg").write_bytes(jpeg(7))
    assert main(command) == 2
    assert "from another source or with other options: fingerprint was" in capsys.readouterr().err


def test_a_folder_with_other_things_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "root", ["a"], 1)
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "notes.txt").write_text("mine")
    assert main(["folder", str(root), str(tmp_path / "dst")]) == 2
    assert "dst is not empty and holds no prepared set" in capsys.readouterr().err
    assert content(tmp_path / "dst") == {"notes.txt": b"mine"}
    (tmp_path / "dst" / "index.json").write_text("{}")
    assert main(["folder", str(root), str(tmp_path / "dst")]) == 2
    assert "index.json is damaged" in capsys.readouterr().err
    assert main(["folder", str(root), str(tmp_path / "dst" / "notes.txt")]) == 2
    assert "notes.txt: File exists" in capsys.readouterr().err


class Stumbling(Folder):
    """Fails in the second pass, after some images."""

    def __init__(self, root: Path, reads: int) -> None:
        super().__init__(root)
        self.left = reads + len(self)

    def __getitem__(self, position: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(position)


@pytest.mark.parametrize("reads", [0, 5, 10, 31, 36])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, reads: int) -> None:
    root = write_folder(tmp_path / "root", [f"{n:02d}" for n in range(12)], 3)
    options = Options(val_identities=2, confirm_identities=0)

    def run(source: Folder, name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        prepare(source, folder, options, said=SAID, tell=Silent(), shard_rows=10)
        return content(folder)

    undisturbed = run(Folder(root), "one")
    assert sorted(undisturbed) == [
        "index.json",
        "shard-00000.parquet",
        "shard-00001.parquet",
        "shard-00002.parquet",
        "val-00000.parquet",
    ]
    if reads < 36:
        with pytest.raises(KeyboardInterrupt):
            run(Stumbling(root, reads), "two")
        begun = tmp_path / "two"
        assert not (begun / "index.json").exists()
        assert (begun / "preparing.json").exists()
        assert len(list(begun.glob("*.parquet"))) == reads // 10
        with pytest.raises(DataError, match="half-written"):
            Shards(begun)
        kept = {path: path.stat().st_mtime_ns for path in begun.glob("*.parquet")}
    else:
        kept = {}
    assert run(Folder(root), "two") == undisturbed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_other_options_do_not_continue_an_interrupted_run(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", [f"{n:02d}" for n in range(12)], 3)
    with pytest.raises(KeyboardInterrupt):
        prepare(Stumbling(root, 20), tmp_path / "dst", Options(), said=SAID, tell=Silent())
    said = {"min_images": 2}
    with pytest.raises(DataError, match="min_images was 1 and is 2"):
        prepare(Folder(root), tmp_path / "dst", Options(), said=said, tell=Silent())


SLOW = """
import sys, time
from pathlib import Path
import data_prep.prepare as module
from data_prep.cuts import Options
from data_prep.recordio import Recordio
from tests.data_prep.sources import Silent
write = module.write_table
def slow(path, *rest):
    write(path, *rest)
    time.sleep(0.2)
module.write_table = slow
source, folder = map(Path, sys.argv[1:])
said = {"min_images": 1}
module.prepare(Recordio(source), folder, Options(), said=said, tell=Silent(), shard_rows=20)
"""


def test_killed_and_run_again(tmp_path: Path) -> None:
    source = write_records(tmp_path / "src", layout_a(people(50, 4)), "50,16,16")
    command = [sys.executable, "-c", SLOW, str(source), str(tmp_path / "killed")]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        while not (tmp_path / "killed" / "shard-00002.parquet").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "index.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.parquet")}
    assert len(kept) >= 3
    for name in ("killed", "whole"):
        folder = tmp_path / name
        prepare(Recordio(source), folder, Options(), said=SAID, tell=Silent(), shard_rows=20)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_ctrl_c_is_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "root", ["a"], 2)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_table", interrupted)
    assert main(["folder", str(root), str(tmp_path / "dst")]) == 130
    assert capsys.readouterr().err.endswith("the same command again continues\n")
    assert not (tmp_path / "dst" / "index.json").exists()


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "root", ["a"], 2)

    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "write_table", full)
    assert main(["folder", str(root), str(tmp_path / "dst")]) == 2
    err = capsys.readouterr().err
    assert err.endswith("shard-00000.parquet: No space left on device\n")
    assert not (tmp_path / "dst" / "index.json").exists()


@pytest.mark.slow
def test_two_at_once_write_one_set(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", ["a", "b"], 3)
    command = [sys.executable, "-m", "data_prep", "folder", str(root), str(tmp_path / "dst")]
    here = Path(__file__).parents[2]
    both = [
        subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate()[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("already prepared" in text for text in said) == 1
    assert Shards(tmp_path / "dst").split().rows == 6


def test_large_sets_come_in_groups_and_shards(tmp_path: Path) -> None:
    images = [(0, jpeg(n, size=(4, 4))) for n in range(5)] * 150
    write_records(tmp_path / "src", layout_a(images))
    source = Recordio(tmp_path / "src")
    prepare(source, tmp_path / "dst", Options(), said=SAID, tell=Silent(), shard_rows=600)
    split = Shards(tmp_path / "dst").split()
    assert split.group_rows == (256, 256, 88, 150)
    keys = [key for group in range(4) for key in split.read(group).keys]
    assert sorted(map(int, keys)) == list(range(1, 751))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recordio", "SRC"], "the following arguments are required: DST"),
        (["folder", "SRC", "DST", "--val-identities", "-1"], "'-1' is no whole number from 0"),
        (["folder", "SRC", "DST", "--min-images", "0"], "0 is too small: 1 or more"),
        (["bin", "SRC", "DST", "--val-identities", "3"], "unrecognized arguments"),
        (["templates", "SRC", "DST", "--min-images", "3"], "unrecognized arguments"),
        (["megaface", "SRC", "DST", "--confirm-identities", "3"], "unrecognized arguments"),
        (["pairs", "SRC", "DST", "--root", ".", "--min-images", "3"], "unrecognized arguments"),
        (["pairs", "SRC", "DST"], "the following arguments are required: --root"),
        (["recordoi", "SRC", "DST"], "invalid choice: 'recordoi'"),
        (["list", "SRC", "DST", "--on-error", "ignore"], "invalid choice: 'ignore'"),
    ],
)
def test_wrong_command_lines(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["recordio", "bin", "folder", "list", "templates", "megaface"])
def test_a_missing_source_is_one_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([kind, str(tmp_path / "none"), str(tmp_path / "dst")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "dst").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """40 MB of images are read twice and written; at most one row group of them is held."""
    image = jpeg(0)
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)
    records = {n: payload(float(n % 2), image[:2] + comment + image[2:]) for n in range(600)}
    write_records(tmp_path / "src", records)
    group = 256 * len(records[0])
    del records
    pa.array([b""])  # its first call imports pandas, 29 MB
    tracemalloc.start()
    try:
        assert main(["recordio", str(tmp_path / "src"), str(tmp_path / "dst")]) == 0
        assert group < tracemalloc.get_traced_memory()[1] < 1.5 * group
    finally:
        tracemalloc.stop()
