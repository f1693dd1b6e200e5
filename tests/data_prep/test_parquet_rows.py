from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.parquet_rows import Columns, ParquetRows
from facerec.data.shards import DataError
from tests.data_prep.sources import jpeg

IMAGES = [jpeg(n) for n in range(12)]
LABELS = [3, 0, 7] * 4
PLAIN = Columns()


def write(path: Path, columns: dict[str, Any], group: int = 5, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group, **options)
    return path


def read(path: Path, columns: Columns = PLAIN) -> list[tuple[str, str, bytes, str | None]]:
    source = ParquetRows(path, columns, beside=path.parent)
    faces = [source[n] for n in range(len(source))]
    return [(face.key, face.identity, face.image, face.more["source"]) for face in faces]


def wanted(name: str, paths: list[str | None] | None = None) -> list[tuple[str, str, bytes, Any]]:
    given = paths or [None] * 12
    rows = zip(LABELS, IMAGES, given, strict=True)
    return [(f"{name}:{n}", str(label), image, p) for n, (label, image, p) in enumerate(rows)]


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), "struct", "zstd"], ids=["binary", "large", "hf", "z"]
)
def test_spellings_of_images(tmp_path: Path, kind: Any) -> None:
    images: Any = IMAGES if kind == "zstd" else pa.array(IMAGES, kind) if kind != "struct" else None
    paths: list[str | None] = [None, *(f"{n}.jpg" for n in range(1, 12))]
    if images is None:
        rows = zip(IMAGES, paths, strict=True)
        images = [{"bytes": image, "path": path} for image, path in rows]
    options = {"compression": "zstd"} if kind == "zstd" else {}
    path = write(tmp_path / "a.parquet", {"image": images, "label": LABELS}, **options)
    assert read(path) == wanted("a.parquet", paths if kind == "struct" else None)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pa.array(LABELS, pa.int8()), [str(n) for n in LABELS]),
        (pa.array(LABELS, pa.uint64()), [str(n) for n in LABELS]),
        (pa.array(LABELS, pa.float32()), [str(n) for n in LABELS]),
        (pa.array([f"é {n}" for n in LABELS]), [f"é {n}" for n in LABELS]),
        (pa.array(["nan"] * 12), ["nan"] * 12),
        (pa.array([f"é {n}" for n in LABELS]).dictionary_encode(), [f"é {n}" for n in LABELS]),
    ],
)
def test_spellings_of_labels(tmp_path: Path, labels: Any, names: list[str]) -> None:
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "label": labels})
    assert [identity for _, identity, _, _ in read(path)] == names


def test_a_folder_of_files_in_byte_order(tmp_path: Path) -> None:
    for name, part in (("b.parquet", slice(8, 12)), ("B/a.parquet", slice(0, 8))):
        write(tmp_path / "src" / name, {"face": IMAGES[part], "who": LABELS[part]}, group=3)
    (tmp_path / "src" / "readme.md").write_text("not read")
    rows = read(tmp_path / "src", Columns("face", "who"))
    assert [key for key, _, _, _ in rows] == [
        *(f"B/a.parquet:{n}" for n in range(8)),
        *(f"b.parquet:{n}" for n in range(4)),
    ]
    assert [image for _, _, image, _ in rows] == IMAGES


def test_rows_come_in_any_order_and_nothing_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "label": LABELS, "id": range(50, 62)})
    source = ParquetRows(path, Columns(key="id"), beside=tmp_path / "not" / "yet")
    for n in (7, 0, 11, 7):
        assert (source[n].key, source[n].image) == (str(50 + n), IMAGES[n])
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_prepared_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "name": [f"p{n}" for n in LABELS]})
    command = ["parquet", str(path), str(tmp_path / "dst"), "--label-column", "name"]
    assert main(command) == 0
    rows = pq.read_table(tmp_path / "dst" / "shard-00000.parquet").to_pylist()
    found = {(row["key"], row["image"], row["identity"], row["label"]) for row in rows}
    order = {0: 0, 3: 1, 7: 2}
    assert found == {
        (f"a.parquet:{n}", IMAGES[n], f"p{LABELS[n]}", order[LABELS[n]]) for n in range(12)
    }
    assert sorted(os.listdir(tmp_path / "dst")) == ["index.json", "shard-00000.parquet"]


def test_rows_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images: list[Any] = [{"bytes": image, "path": None} for image in IMAGES]
    images[1] = None
    images[2] = {"bytes": None, "path": "/etc/passwd"}
    images[3] = {"bytes": IMAGES[3][:-30], "path": None}
    labels = [0.0, 0.0, 0.0, 0.0, float("nan"), 1.5, -1.0, None, *[2.0] * 4]
    keys = ["a", "b", "c", "d", "e", "f", "g", "h", "a", None, "k", "l"]
    path = write(tmp_path / "a.parquet", {"image": images, "label": labels, "id": keys})
    command = ["parquet", str(path), str(tmp_path / "dst"), "--key-column", "id"]
    assert main(command) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: a.parquet, row 1, key b: the row holds no image (0 bytes)"
    )
    assert main([*command, "--on-error", "skip"]) == 3
    report = pq.read_table(tmp_path / "dst" / "damage.parquet").to_pylist()
    limit = "is no whole number from 0 to 2147483646"
    assert [(row["key"], row["reason"]) for row in report] == [
        ("b", "row 1: the row holds no image (0 bytes)"),
        (
            "c",
            "row 2: the row holds no image (0 bytes); its path is '/etc/passwd', files are not "
            "followed",
        ),
        ("d", "row 3: the JPEG is damaged: Premature end of JPEG file"),
        ("e", f"row 4: label nan {limit}"),
        ("f", f"row 5: label 1.5 {limit}"),
        ("g", f"row 6: label -1.0 {limit}"),
        ("h", "row 7: the label is empty"),
        ("a", "row 8: row 0 of a.parquet has this key too"),
        (None, "row 9: the column id is empty"),
    ]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"img": [b""], "label": [0]}, [], "has no column image, only img, label: --image-column"),
        ({"image": [b""], "id": [0]}, [], "has no column label, only image, id: --label-column"),
        ({"image": [1], "label": [0]}, [], "the column image is int64; encoded images are binary"),
        ({"image": ["x"], "label": [0]}, [], "the column image is string; encoded images"),
        ({"image": [b""], "label": [True]}, [], "the column label is bool; labels are whole"),
        ({"image": [b""], "label": [[1]]}, [], "labels are whole numbers or text"),
        ({"image": [b""], "label": [0]}, ["--key-column", "image"], "holds no keys"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int8())}, [], "no row"),
    ],
)
def test_columns_that_do_not_fit(
    tmp_path: Path,
    columns: dict[str, Any],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write(tmp_path / "a.parquet", columns)
    assert main(["parquet", str(path), str(tmp_path / "dst"), *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "dst").exists()


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "label": LABELS}, compression="none")
    data = path.read_bytes()
    for damaged in (
        b"",
        b"PAR1",
        data[:-1],
        data[: len(data) // 2],
        data[:-8] + b"\xff" * 4 + b"PAR1",
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.parquet is no whole Parquet file: its last bytes"):
            read(path)
    path.write_bytes(data[:-100] + bytes(92) + data[-8:])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read: "):
        read(path)
    with pytest.raises(DataError, match=r"no such file, and no folder with \*\.parquet in it"):
        read(tmp_path / "none")
    write(tmp_path / "src" / "1.parquet", {"image": [b"x"], "label": [1]})
    write(tmp_path / "src" / "2.parquet", {"image": [b"x"], "label": ["a"]})
    with pytest.raises(DataError, match="labels are numbers in one file and names in another"):
        read(tmp_path / "src")


def test_a_damaged_row_group_takes_its_own_rows_alone(tmp_path: Path) -> None:
    table = {"image": IMAGES, "label": LABELS}
    path = write(tmp_path / "a.parquet", table, group=4, compression="zstd")
    chunk = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)
    source = ParquetRows(path, Columns(), beside=tmp_path)
    for n in range(12):
        if 4 <= n < 8:
            with pytest.raises(DataError, match=rf"key a\.parquet:{n}: the row group cannot be"):
                source[n]
        else:
            assert source[n].image == IMAGES[n]
