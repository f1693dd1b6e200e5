from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.damage import Damage
from facerec.data.errors import DataError, one_line
from tests.data_prep.sources import Silent, jpeg, layout_a, payload, people, write_records


def error(n: int) -> DataError:
    return DataError(f"wrong {n}", shard="train.rec", key=f"k\n{n}", offset=n if n % 2 else None)


@pytest.mark.parametrize("rows", [1, 1024, 2500])
def test_every_row_arrives_in_both_files(tmp_path: Path, rows: int) -> None:
    tell = Silent()
    damage = Damage(tell, skip=True, folder=tmp_path)
    for n in range(rows):
        damage.refuse(error(n))
    assert list(tmp_path.iterdir()) == []
    entries = damage.write(tmp_path)
    wanted = [("train.rec", f"k\n{n}", n if n % 2 else None, f"wrong {n}") for n in range(rows)]
    table = pq.read_table(tmp_path / "damage.parquet")
    assert table.column_names == ["file", "key", "offset", "reason"]
    assert [tuple(row.values()) for row in table.to_pylist()] == wanted
    with (tmp_path / "damage.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    texts = [["" if value is None else str(value) for value in row] for row in wanted]
    assert lines == [table.column_names, *texts]
    for entry in entries:
        data = (tmp_path / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["rows"] == rows
    assert len(tell.warnings) == rows
    line = "left out: train.rec, key k\\n0: wrong 0"
    assert tell.warnings[0] == line


def test_nothing_left_out_is_no_file(tmp_path: Path) -> None:
    assert Damage(Silent(), skip=True).write(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_first_error_ends_the_run() -> None:
    with pytest.raises(DataError, match=r"train\.rec, key k\\n1, offset 1: wrong 1"):
        Damage(Silent()).refuse(error(1))


def test_lines_and_rows_stand_in_the_reason_and_odd_names_are_text(tmp_path: Path) -> None:
    damage = Damage(Silent(), skip=True)
    damage.refuse(DataError("bad", shard="a.list", line=7, key="caf\udce9"))
    damage.refuse(DataError("bad", shard="a.parquet", row=0))
    damage.write(tmp_path)
    rows = pq.read_table(tmp_path / "damage.parquet").to_pylist()
    assert [row["reason"] for row in rows] == ["line 7: bad", "row 0: bad"]
    assert [row["key"] for row in rows] == ["caf\\udce9", None]


def test_index_and_summary_name_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = layout_a(people(3, 3))
    records[4] = payload(1.0, b"")
    write_records(tmp_path / "src", records)
    command = ["recordio", str(tmp_path / "src"), str(tmp_path / "dst"), "--on-error", "skip"]
    assert main(command) == 3
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"1 of 9 images left out: {tmp_path}/dst/damage.csv says which and why"
    )
    index = json.loads((tmp_path / "dst" / "index.json").read_text())
    files = {entry["file"]: entry for entry in index["source"]["damage"]}
    assert list(files) == ["damage.parquet", "damage.csv"]
    for name, entry in files.items():
        data = (tmp_path / "dst" / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    (row,) = pq.read_table(tmp_path / "dst" / "damage.parquet").to_pylist()
    rec = (tmp_path / "src" / "train.rec").read_bytes()
    assert (row["file"], row["key"]) == ("train.rec", "4")
    assert rec[row["offset"] :][:4] == bytes.fromhex("0a23d7ce")
    assert row["offset"] == int((tmp_path / "src" / "train.idx").read_text().split()[9])


def test_what_was_begun_without_damage_ends_with_the_report(tmp_path: Path) -> None:
    """A report on a set is written before the set is whole."""
    records = {n: payload(float(n % 2), jpeg(n) if n else b"") for n in range(6)}
    write_records(tmp_path / "src", records)
    command = ["recordio", str(tmp_path / "src"), str(tmp_path / "dst"), "--on-error", "skip"]
    assert main(command) == 3
    before = {path.name: path.read_bytes() for path in (tmp_path / "dst").iterdir()}
    (tmp_path / "dst" / "index.json").rename(tmp_path / "index.json")
    source = json.loads((tmp_path / "index.json").read_text())["source"]
    (tmp_path / "dst" / "preparing.json").write_text(json.dumps({"source": source}))
    (tmp_path / "dst" / "damage.csv").write_text("an older one")
    assert main(command) == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "dst").iterdir()} == before


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("José 王_伟 🙂", "José 王_伟 🙂"),
        ("a\nb\tc\x1b", "a\\nb\\tc\\x1b"),
        ("\u202e\udce9", "\\u202e\\udce9"),
    ],
)
def test_one_line(text: str, wanted: str) -> None:
    assert one_line(text) == wanted
