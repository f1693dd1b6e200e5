"""`data_prep verify`: each kind of damage is one line that names its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from facerec.data.shards import VERSION
from facerec.data.writer import COLUMNS, write_json, write_table
from tests.conftest import write_toy_pairs, write_toy_shards
from tests.data_prep.sources import jpeg, write_folder

SCHEMA = pa.schema(COLUMNS)
SHARD = "train-00001.parquet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 identities of 4 images in three shards, 4 others in val."""
    return write_toy_shards(tmp_path / "set", images=4, val=4, side=32)


def change(folder: Path, column: str, row: int, value: object, file: str = SHARD) -> str:
    """Writes another value into a shard and its hash into the index; gives the row's key."""
    rows = pq.read_table(folder / file).to_pylist()
    key = str(rows[row]["key"])
    rows[row][column] = value
    write_table(folder / file, SCHEMA, [pa.Table.from_pylist(rows, SCHEMA)])
    path = folder / "index.json"
    index = json.loads(path.read_text())
    for entry in [*index["shards"], *index["splits"].get("val", {"shards": []})["shards"]]:
        if entry["file"] == file:
            entry["sha256"] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    path.write_text(json.dumps(index))
    return key


def faults(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    """What `verify` says is wrong, without `error: `; the exit status fits."""
    capsys.readouterr()
    status = main(["verify", str(folder), *more])
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert status == (2 if lines else 0)
    assert all(line.startswith("error: ") for line in lines)
    number = f"{len(lines)} fault{'' if len(lines) == 1 else 's'}"
    assert len(told.out.splitlines()) == 1
    assert told.out.startswith(f"{folder}: {number if lines else 'good'}; checked ")
    return [line.removeprefix("error: ") for line in lines]


def test_what_was_prepared_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "src", [f"person{n}" for n in range(4)], 2)
    (root / "person0" / "broken.jpg").write_bytes(b"no image")
    command = ["folder", str(root), str(tmp_path / "a"), "--on-error", "skip"]
    assert main([*command, "--val-identities", "2", "--confirm-identities", "0"]) == 3
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "a")]) == 0
    index = json.loads((tmp_path / "a" / "index.json").read_text())
    files = 2 + len(index["source"].get("damage", []))  # a shard of train, one of val
    assert capsys.readouterr().out == (
        f"{tmp_path / 'a'}: good; checked {files} files by SHA-256 and rows, 8 images with their "
        "labels, keys and sizes\n"
    )
    assert faults(write_toy_pairs(tmp_path / "pairs", side=32), capsys) == []


def test_one_flipped_bit_of_any_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "val-00000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = faults(folder, capsys, "--quick")
    assert len(found) == 1
    assert found[0].startswith("val-00000.parquet: its SHA-256 is ")
    assert found[0].endswith("it was changed after it was written")


def test_missing_and_short_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / SHARD).unlink()
    path = folder / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    found = faults(folder, capsys)
    assert [line.split(":")[0] for line in found] == ["train-00000.parquet"] * 2 + [SHARD]
    assert "cannot be read" in found[1]
    assert "is missing, index.json lists it" in found[2]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("image", b"", "the image is empty (0 bytes)"),
        ("image", jpeg(1, (32, 32))[:-40], "the JPEG is damaged: "),
        ("image", jpeg(1, (16, 32)), "the image is of 16 x 32 pixels, the set's are of 32 x 32"),
        ("image", None, "there is no image"),
        ("width", 31, "its columns say 31 x 32 pixels, the set's are of 32 x 32"),
        ("label", 12, "label 12 is not one of the classes, 0 to 11"),
        ("label", -1, "label -1 is not one of the classes, 0 to 11"),
    ],
)
def test_a_bad_row_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], column: str, value: object, said: str
) -> None:
    key = change(folder, column, 5, value)
    found = faults(folder, capsys)
    assert len(found) == 1
    assert found[0].startswith(f"{SHARD}, row 5, key {key}: {said}")
    assert faults(folder, capsys, "--quick") == []


def test_keys_are_unique_over_all_splits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = str(pq.read_table(folder / "train-00000.parquet")["key"][3])
    change(folder, "key", 5, first)
    change(folder, "key", 0, first, "val-00000.parquet")
    told = f"key {first}: the key is that of train-00000.parquet, row 3 too"
    assert faults(folder, capsys) == [
        f"{SHARD}, row 5, {told}",
        f"val-00000.parquet, row 0, {told}",
    ]


def test_a_class_without_an_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "index.json"
    index = json.loads(path.read_text())
    index["splits"]["val"]["classes"] += 2
    path.write_text(json.dumps(index))
    assert faults(folder, capsys) == [
        "index.json: val has 6 classes, but 2 of them have no image, such as 4"
    ]


def test_pairs_of_images_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_toy_pairs(tmp_path / "pairs", side=32)
    table = pq.read_table(folder / "pairs.parquet")
    far = table.set_column(0, "first", pa.array([999] * len(table), pa.int64()))
    write_table(folder / "pairs.parquet", far.schema, [far])
    assert len(faults(folder, capsys, "--quick")) == 1
    index = json.loads((folder / "index.json").read_text())
    index["pairs"]["sha256"] = hashlib.sha256((folder / "pairs.parquet").read_bytes()).hexdigest()
    write_json(folder / "index.json", index)
    (line,) = faults(folder, capsys, "--quick")
    assert "does not fit the 160 images of the set" in line


def drop(index: dict[str, Any], key: str) -> None:
    del index[key]


def rename(index: dict[str, Any], name: str) -> None:
    index["shards"][0]["file"] = name


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda index: drop(index, "image_size"), "is damaged (KeyError('image_size'))"),
        (lambda index: drop(index["shards"][0], "sha256"), "is damaged (KeyError('sha256'))"),
        (lambda index: rename(index, "../secret.parquet"), "'../secret.parquet'"),
        (lambda index: index.update(version=VERSION + 1), "has version"),
    ],
)
def test_a_damaged_index_is_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[dict[str, Any]], None],
    said: str,
) -> None:
    index = json.loads((folder / "index.json").read_text())
    damage(index)
    (folder / "index.json").write_text(json.dumps(index))
    assert main(["verify", str(folder)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert said in told.err


def test_only_prepared_folders_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path / "no")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["verify", "s3://bucket/faces"]) == 2
    assert capsys.readouterr().err.startswith("error: s3://bucket/faces: verify reads every byte")
