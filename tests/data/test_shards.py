from __future__ import annotations

import hashlib
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facerec.data import shard_files as module
from facerec.data.shards import DataError, Shards
from facerec.data.writer import COLUMNS, describe, write_json, write_table

SCHEMA = pa.schema(COLUMNS)


def image(number: int) -> bytes:
    """Bytes of some length that no two rows share; a shard does not look into its images."""
    return hashlib.sha256(str(number).encode()).digest() * (number % 5) + bytes([number % 256])


def table(numbers: range) -> pa.Table:
    columns: list[list[Any]] = [
        [image(n) for n in numbers],
        [n % 3 for n in numbers],
        [f"key-{n}" for n in numbers],
        ["", *("é" for n in numbers[1:])],
        [16] * len(numbers),
        [8] * len(numbers),
    ]
    return pa.table(columns, schema=SCHEMA)


def write(folder: Path, files: tuple[tuple[int, ...], ...], **more: Any) -> Path:
    """A set whose shards have groups of the given sizes, rows counted through."""
    folder.mkdir()
    entries, row = [], 0
    for number, groups in enumerate(files):
        tables = []
        for size in groups:
            tables.append(table(range(row, row + size)))
            row += size
        path = folder / f"shard-{number:05d}.parquet"
        write_table(path, SCHEMA, tables)
        entries.append(describe(path))
    index = {"version": 1, "rows": row, "classes": 3, "shards": entries, "splits": {}}
    write_json(folder / "index.json", {**index, "image_size": [16, 8], **more})
    return folder


def change(folder: Path, **entries: Any) -> None:
    index = json.loads((folder / "index.json").read_text())
    write_json(folder / "index.json", {**index, **entries})


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return write(tmp_path / "set", ((5, 5, 2), (4,), (5, 1)))


def test_reads_back_every_row(prepared: Path) -> None:
    shards = Shards(prepared)
    split = shards.split()
    assert (shards.image_size, split.rows, split.classes) == ((16, 8), 22, 3)
    assert split.group_rows == (5, 5, 2, 4, 5, 1)
    row = 0
    for group, count in enumerate(split.group_rows):
        rows = split.read(group)
        wanted = range(row, row + count)
        assert [bytes(view) for view in rows.images] == [image(n) for n in wanted]
        assert rows.keys == [f"key-{n}" for n in wanted]
        assert rows.labels.dtype == np.int32
        np.testing.assert_array_equal(rows.labels, [n % 3 for n in wanted])
        row += count
    np.testing.assert_array_equal(split.labels(), np.arange(22) % 3)


def test_images_are_views_of_unsigned_bytes(prepared: Path) -> None:
    views = Shards(prepared).split().read(1).images
    assert {view.format for view in views} == {"B"}
    assert len({id(view.obj) for view in views}) == 1


def test_rows_say_where_they_stand(prepared: Path) -> None:
    rows = Shards(prepared).split().read(4)
    assert (rows.shard, rows.first) == ("shard-00002.parquet", 0)
    error = Shards(prepared).split().read(1).locate(2, DataError("cut short"))
    assert str(error) == "shard-00000.parquet, row 7, key key-7: cut short"
    assert (error.shard, error.row, error.key) == ("shard-00000.parquet", 7, "key-7")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.row) == (str(error), 7)


def test_survives_pickling_and_threads(prepared: Path) -> None:
    split = Shards(prepared).split()
    split.read(0)
    copy = pickle.loads(pickle.dumps(Shards(prepared))).split()
    groups = list(range(len(split.group_rows))) * 20
    with ThreadPoolExecutor(4) as pool:
        for group, rows in zip(groups, pool.map(copy.read, groups), strict=True):
            assert rows.keys == split.read(group).keys


def test_keeps_few_files_open(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN_FILES", 1)
    split = Shards(prepared).split()
    first = split.read(0)
    assert split.read(3).keys[0] == "key-12"
    assert len(split._source._open) == 1  # type: ignore[attr-defined]
    assert bytes(first.images[0]) == image(0)  # the buffer outlives its closed file
    assert split.read(1).keys[0] == "key-5"


def test_written_as_the_format_says(prepared: Path) -> None:
    footer = pq.read_metadata(prepared / "shard-00000.parquet")
    column = footer.row_group(0).column(0)
    assert (column.compression, column.statistics) == ("UNCOMPRESSED", None)
    assert not any("DICTIONARY" in encoding for encoding in column.encodings)
    for entry in json.loads((prepared / "index.json").read_text())["shards"]:
        data = (prepared / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    assert not list(prepared.glob("*.part"))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, SCHEMA, [table(range(3))])
    before = path.read_bytes()

    def broken() -> Any:
        yield table(range(2))
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        write_table(path, SCHEMA, broken())
    assert path.read_bytes() == before


def test_parts_of_a_set(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", ((4,),))
    write_table(folder / "val-00000.parquet", SCHEMA, [table(range(100, 103))])
    val = {"rows": 3, "classes": 3, "shards": [describe(folder / "val-00000.parquet")]}
    change(folder, splits={"val": val})
    shards = Shards(folder)
    assert shards.split("val").read(0).keys == ["key-100", "key-101", "key-102"]
    assert shards.pairs() is None
    with pytest.raises(DataError, match=r"no confirm split, only train, val.*--confirm-identities"):
        shards.split("confirm")
    with pytest.raises(DataError, match=r"no distractors split.* `python -m data_prep megaface`"):
        shards.split("distractors")
    assert shards.templates() is None


def test_columns_of_all_rows(prepared: Path) -> None:
    split = Shards(prepared).split()
    found = split.columns(["key", "width"])
    assert list(found) == ["key", "width"]
    assert found["key"].tolist() == [f"key-{n}" for n in range(22)]
    assert found["width"].tolist() == [16] * 22
    with pytest.raises(DataError, match=r"shard-00000\.parquet has no column medium"):
        split.columns(["key", "medium"])


def test_pairs(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", ((4,),))
    pairs = pa.table({"first": [0, 2], "second": [1, 3], "same": [True, False]})
    write_table(folder / "pairs.parquet", pairs.schema, [pairs])
    change(folder, pairs=describe(folder / "pairs.parquet"))
    read = Shards(folder).pairs()
    assert read is not None
    np.testing.assert_array_equal(read.first, [0, 2])
    np.testing.assert_array_equal(read.second, [1, 3])
    np.testing.assert_array_equal(read.same, [True, False])
    assert read.fold is None
    pairs = pairs.append_column("fold", pa.array([0, 1], pa.int32()))
    write_table(folder / "pairs.parquet", pairs.schema, [pairs])
    folds = Shards(folder).pairs()
    assert folds is not None
    assert folds.fold is not None
    np.testing.assert_array_equal(folds.fold, [0, 1])


@pytest.mark.parametrize("second", [[1, 4], [1, -1]])
def test_pairs_beyond_the_images_are_refused(tmp_path: Path, second: list[int]) -> None:
    folder = write(tmp_path / "set", ((4,),))
    pairs = pa.table({"first": [0, 2], "second": second, "same": [True, False]})
    write_table(folder / "pairs.parquet", pairs.schema, [pairs])
    change(folder, pairs=describe(folder / "pairs.parquet"))
    with pytest.raises(DataError, match=r"pairs\.parquet does not fit the 4 images"):
        Shards(folder).pairs()
    (folder / "pairs.parquet").unlink()
    with pytest.raises(DataError, match=r"pairs\.parquet cannot be read"):
        Shards(folder).pairs()


def test_what_is_no_set_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder of shards; python -m data_prep"):
        Shards(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no index\.json: it is half-written"):
        Shards(tmp_path)


def test_damaged_sets_are_refused(prepared: Path) -> None:
    index = (prepared / "index.json").read_text()
    shard = prepared / "shard-00001.parquet"
    data = shard.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            Shards(prepared)
        (prepared / "index.json").write_text(index)
        shard.write_bytes(data)

    shard.unlink()
    refused(r"shard-00001\.parquet is missing")
    shard.write_bytes(data[:-30])
    refused(r"shard-00001\.parquet cannot be read")
    write_table(shard, SCHEMA, [table(range(3))])
    refused(r"shard-00001\.parquet holds 3 rows, index\.json says 4")
    bare = table(range(4)).drop_columns("key")
    write_table(shard, bare.schema, [bare])
    refused(r"shard-00001\.parquet has no column key")
    (prepared / "index.json").write_text(index[:50])
    refused(r"index\.json cannot be read")
    (prepared / "index.json").write_text("[]")
    refused("version None, this program reads version 1")
    change(prepared, version=2)
    refused("version 2, this program reads version 1")
    change(prepared, rows=21)
    refused("counts 21 train rows, but its shards hold 22")
    for lacking in ("image_size", "shards", "splits"):
        change(prepared, **{lacking: None})
        refused(r"index\.json is damaged")
    Shards(prepared)


def test_a_shard_that_vanishes_later_is_named(prepared: Path) -> None:
    split = Shards(prepared).split()
    (prepared / "shard-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"shard-00001\.parquet cannot be read"):
        split.read(3)


@pytest.mark.parametrize("name", ["../other.parquet", "/etc/passwd", "..", "", "a\0b", 7, None])
def test_an_index_names_files_of_its_own_folder_alone(prepared: Path, name: object) -> None:
    shard = {**describe(prepared / "shard-00000.parquet"), "file": name}
    change(prepared, shards=[shard])
    with pytest.raises(DataError, match="which is no plain name"):
        Shards(prepared)
    change(prepared, shards=[], rows=0, splits={}, pairs=shard)
    with pytest.raises(DataError, match="which is no plain name"):
        Shards(prepared)


@pytest.mark.parametrize(
    ("key", "value"), [("rows", "many"), ("rows", 1e400), ("image_size", [1, 2, 3]), ("pairs", 5)]
)
def test_values_of_other_kinds_are_damage(prepared: Path, key: str, value: object) -> None:
    change(prepared, **{key: value})
    with pytest.raises(DataError, match=r"index\.json is damaged"):
        Shards(prepared)


def test_an_index_nested_without_end(prepared: Path) -> None:
    (prepared / "index.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"index\.json cannot be read"):
        Shards(prepared)


def test_prefetch_of_a_local_set_reads_nothing(prepared: Path) -> None:
    split = Shards(prepared).split()
    (prepared / "shard-00001.parquet").unlink()
    split.prefetch(range(6))
    assert split.read(0).keys[0] == "key-0"
    assert split.column_names == tuple(name for name, _ in COLUMNS)
