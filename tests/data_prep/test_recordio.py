from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from data_prep import readers
from data_prep.recordio import RecordFile, Recordio
from facerec.data.shards import DataError
from tests.data_prep.sources import (
    MAGIC,
    jpeg,
    layout_a,
    part,
    payload,
    people,
    record,
    write_records,
)


def read(folder: Path) -> list[tuple[str, str, bytes]]:
    source = Recordio(folder)
    faces = [source[n] for n in range(len(source))]
    return [(face.key, face.identity, face.image) for face in faces]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        MAGIC,
        b"1234" + MAGIC,
        MAGIC + b"1234" + MAGIC + MAGIC + b"12345",
        b"12" + MAGIC + b"34",  # not at a multiple of 4: stays whole
        b"x" * 32 + MAGIC * 3 + b"y" * 5248,
    ],
    ids=range(7),
)
def test_split_records_come_back_whole(tmp_path: Path, content: bytes) -> None:
    write_records(tmp_path, {5: b"before", 7: content, 1: b"behind"})
    records = RecordFile(tmp_path / "train.rec", tmp_path / "train.idx")
    assert records.keys.tolist() == [1, 5, 7]
    assert [records.read(key) for key in (1, 5, 7)] == [b"behind", b"before", content]
    assert 7 in records
    assert 6 not in records
    with pytest.raises(DataError, match=r"train\.rec, key 6: the index has no such key"):
        records.read(6)


def test_a_split_record_has_the_parts_that_mxnet_writes() -> None:
    written = record(b"x" * 32 + MAGIC * 3 + b"y" * 5248)
    sizes, offset = [], 0
    while offset < len(written):
        magic, word = struct.unpack_from("<4sI", written, offset)
        assert magic == MAGIC
        sizes.append((word >> 29, word & 0x1FFFFFFF))
        offset += 8 + (sizes[-1][1] + 3) // 4 * 4
    assert sizes == [(1, 32), (2, 0), (2, 0), (3, 5248)]


def test_layout_a(tmp_path: Path) -> None:
    images = people(3, 2)
    source = Recordio(write_records(tmp_path, layout_a(images), "3,16,24\n"))
    wanted = [(str(key), str(label), image) for key, (label, image) in enumerate(images, 1)]
    assert read(tmp_path) == wanted
    assert source.facts.image_size == (24, 16)  # property: classes, height, width
    assert source.facts.classes == 3
    assert source.facts.details == {"layout": "A", "property": "3,16,24"}
    assert source[4].more == {"id": 5, "id2": 0, "label_array": None}


def test_the_header_record_may_lie_anywhere(tmp_path: Path) -> None:
    records = layout_a(people(3, 2))
    keys = [4, 8, 1, 9, 0, 2, 6, 3, 7, 5]
    write_records(tmp_path / "mixed", {key: records[key] for key in keys})
    write_records(tmp_path / "plain", records)
    assert read(tmp_path / "mixed") == read(tmp_path / "plain")


def test_layout_b_and_label_arrays(tmp_path: Path) -> None:
    images = [jpeg(n) for n in range(3)]
    labels: list[float | list[float]] = [4.0, [2.0, 0.25, -1.0], 3.0]
    write_records(
        tmp_path,
        {n: payload(labels[n], images[n], number=70 + n, second=2**63 + n) for n in range(3)},
        "3,16,16\n3",
    )
    source = Recordio(tmp_path)
    assert [source[n].identity for n in range(3)] == ["4", "2", "3"]
    assert [source[n].image for n in range(3)] == images
    assert source[1].more == {"id": 71, "id2": 2**63 + 1, "label_array": [2.0, 0.25, -1.0]}
    assert source.facts.details["layout"] == "B"


def test_an_array_label_on_key_0_with_an_image_is_no_header(tmp_path: Path) -> None:
    write_records(tmp_path, {n: payload([1.0, 9.0], jpeg(n)) for n in range(2)})
    assert [key for key, _, _ in read(tmp_path)] == ["0", "1"]


@pytest.mark.parametrize("end", [float(2**24 + 2), 4e7, float("inf")])
def test_a_rounded_header_is_not_trusted(tmp_path: Path, end: float) -> None:
    records = layout_a(people(3, 2))
    records[0] = payload([end, end + 4], b"")
    write_records(tmp_path, records)
    assert [key for key, _, _ in read(tmp_path)] == ["1", "2", "3", "4", "5", "6"]


def test_images_beyond_the_header_are_not_lost(tmp_path: Path) -> None:
    records = layout_a(people(3, 2))
    records[20] = payload(2.0, jpeg(99))
    write_records(tmp_path, records)
    assert [key for key, _, _ in read(tmp_path)] == ["1", "2", "3", "4", "5", "6", "20"]


def test_the_source_may_be_the_record_file(tmp_path: Path) -> None:
    write_records(tmp_path, {0: payload(0.0, jpeg(0))}, name="other")
    assert len(Recordio(tmp_path / "other.rec")) == 1


def test_property_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    write_records(tmp_path, {0: payload(0.0, jpeg(0))})
    for text, size, classes in (
        ("2", None, 2),
        ("2,96,112", (112, 96), 2),
        ("nonsense", None, None),
        ("", None, None),
    ):
        (tmp_path / "property").write_text(text)
        facts = Recordio(tmp_path).facts
        assert (facts.image_size, facts.classes) == (size, classes), text


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf"), 2.0**31])
@pytest.mark.parametrize("array", [False, True])
def test_labels_that_are_no_class_are_errors(tmp_path: Path, label: float, array: bool) -> None:
    write_records(tmp_path, {3: payload([label] if array else label, jpeg(0))})
    with pytest.raises(
        DataError, match=r"train\.rec, key 3, offset 0: label .* is no whole number from 0"
    ):
        Recordio(tmp_path)[0]


def damage(rec: bytearray, offset: int) -> dict[str, tuple[bytes, str]]:
    """Ways to damage the record at `offset` (the last but one), and what must be said."""
    length = struct.unpack_from("<I", rec, offset + 4)[0]

    def flagged(*flags: int) -> bytes:
        parts = b"".join(part(b"abcd", flag) for flag in flags)
        return bytes(rec[:offset]) + parts + part(b"other")

    magic = bytearray(rec)
    magic[offset] ^= 1
    long = bytearray(rec)
    struct.pack_into("<I", long, offset + 4, 0x1FFFFFF0)
    return {
        "magic": (bytes(magic), f"offset {offset}: magic word 0xced7230b instead of 0xced7230a"),
        "cut": (
            bytes(rec[: offset + 8 + 10]),
            f"offset {offset}: {length} bytes are promised, the file ends after 10 of them",
        ),
        "cut in header": (
            bytes(rec[: offset + 5]),
            f"offset {offset}: it lies past the file's {offset + 5} bytes",
        ),
        "too long": (bytes(long), f"offset {offset}: {0x1FFFFFF0} bytes are promised"),
        "middle first": (flagged(2), f"offset {offset}: part 1 of the record is marked 2"),
        "last first": (flagged(3), f"offset {offset}: part 1 of the record is marked 3"),
        "unknown flag": (flagged(5), f"offset {offset}: part 1 of the record is marked 5"),
        "whole second": (flagged(1, 0), f"offset {offset + 12}: part 2 of the record is marked 0"),
        "no last": (flagged(1, 2), f"offset {offset + 24}: part 3 of the record is marked 0"),
    }


@pytest.mark.parametrize("kind", list(damage(bytearray(record(b"abcd")), 0)))
def test_damaged_records_name_file_key_and_offset(tmp_path: Path, kind: str) -> None:
    records = layout_a(people(2, 1))
    write_records(tmp_path, {key: records[key] for key in (0, 3, 4, 2, 1)})
    index = dict(line.split() for line in (tmp_path / "train.idx").read_text().splitlines())
    path = tmp_path / "train.rec"
    damaged, message = damage(bytearray(path.read_bytes()), int(index["2"]))[kind]
    path.write_bytes(damaged)
    source = Recordio(tmp_path)
    with pytest.raises(DataError, match=r"train\.rec, key 2, offset \d+: ") as error:
        source[1]
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (payload(0.0, b""), "the record holds no image (0 bytes)"),
        (b"short", "a payload of 5 bytes cannot hold a header of 24 bytes (0 labels)"),
        (
            struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0) + b"image",
            "a payload of 29 bytes cannot hold a header of 17179869204 bytes (4294967295 labels)",
        ),
    ],
)
def test_damaged_payloads_name_the_key(tmp_path: Path, content: bytes, message: str) -> None:
    records = layout_a(people(2, 1))
    write_records(tmp_path, {**records, 1: content})
    with pytest.raises(DataError) as error:
        Recordio(tmp_path)[0]
    assert str(error.value) == f"train.rec, key 1, offset 40: {message}"


def test_a_key_that_the_header_promises_must_be_there(tmp_path: Path) -> None:
    records = layout_a(people(2, 2))
    del records[3]
    source = Recordio(write_records(tmp_path, records))
    assert len(source) == 4
    with pytest.raises(DataError, match="key 3: the index has no such key"):
        source[2]


@pytest.mark.parametrize("end", [1e6, 0.0, 2.5, float("nan")])
def test_a_header_that_contradicts_the_index_is_refused(tmp_path: Path, end: float) -> None:
    records = layout_a(people(2, 2))
    records[0] = payload([end, end], b"")
    write_records(tmp_path, records)
    with pytest.raises(
        DataError, match=r"key 0, offset 0: the header record promises .* index has 7 records"
    ):
        Recordio(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no record"),
        ("1\t0\n1\t40\n", "key 1 stands there twice"),
        ("1\t0\nabc\n", "line 2: b'abc\\\\n' is not 'key<TAB>offset'"),
        ("1\t-4\n", "line 1"),
        ("1 0\n", "line 1"),
        ("1\t99999999999999999999\n", "line 1"),
        ("1_0\t0\n", "line 1"),
        ("1\t 0\n", "line 1"),
        ("+1\t0\n", "line 1"),
        ("1\t" + "9" * 5000, "line 1"),
        ("1\t40\n2\t0\n3\t40\n", "keys 1 and 3 both lie at offset 40"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write_records(tmp_path, {1: payload(0.0, jpeg(0))})
    (tmp_path / "train.idx").write_text(text)
    with pytest.raises(DataError, match=rf"train\.idx.*{message}"):
        Recordio(tmp_path)


def test_an_offset_past_the_end_is_named(tmp_path: Path) -> None:
    write_records(tmp_path, {1: payload(0.0, jpeg(0))})
    (tmp_path / "train.idx").write_text("1\t99999996\n")
    with pytest.raises(
        DataError, match=r"train\.rec, key 1, offset 99999996: it lies past the file"
    ):
        Recordio(tmp_path)[0]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.rec is missing; recordio reads a folder"):
        Recordio(tmp_path)
    (tmp_path / "train.rec").write_bytes(b"")
    with pytest.raises(DataError, match=r"train\.idx is missing"):
        Recordio(tmp_path)
    (tmp_path / "train.idx").write_text("0\t0\n")
    with pytest.raises(DataError, match=r"train\.rec is empty"):
        Recordio(tmp_path)


def test_reading_is_lazy_and_keeps_no_copy(tmp_path: Path) -> None:
    """Two readings give equal but separate bytes: the file stays the only store."""
    write_records(tmp_path, layout_a(people(2, 2)))
    source = Recordio(tmp_path)
    assert source[0].image == source[0].image
    assert source[0].image is not source[0].image
    assert isinstance(source.keys, np.ndarray)


def test_bytes_that_the_index_does_not_name(tmp_path: Path) -> None:
    """A cut index is told from a whole one by what follows its last record."""
    write_records(tmp_path, {n: payload(0.0, jpeg(n)) for n in (2, 0, 1, 3)})
    assert Recordio(tmp_path).facts.faults == ()
    lines = (tmp_path / "train.idx").read_text().splitlines()
    end = (tmp_path / "train.rec").stat().st_size
    (tmp_path / "train.idx").write_text("\n".join(lines[:-1]))
    (fault,) = Recordio(tmp_path).facts.faults
    start = int(lines[-1].split()[1])
    assert str(fault) == (
        f"train.rec, offset {start}: {end - start} bytes follow the last record that train.idx "
        f"names: it is cut, or of another file"
    )


def test_a_damaged_record_at_key_0_leaves_the_others(tmp_path: Path) -> None:
    records = layout_a(people(3, 2))
    write_records(tmp_path, records)
    whole = read(tmp_path)
    data = bytearray((tmp_path / "train.rec").read_bytes())
    data[0] ^= 1
    (tmp_path / "train.rec").write_bytes(data)
    source = Recordio(tmp_path)
    assert read(tmp_path) == whole
    (fault,) = source.facts.faults
    assert str(fault).startswith("train.rec, key 0, offset 0: magic word 0xced7230b instead of")
    assert source.facts.details["layout"] == "unknown"


def test_an_index_into_the_middle_of_a_record(tmp_path: Path) -> None:
    inside = record(payload(7.0, jpeg(7)))  # a whole record, within the image of another
    write_records(tmp_path, {0: payload(1.0, b"xx" + jpeg(0)), 1: payload(2.0, inside)})
    index = (tmp_path / "train.idx").read_text().splitlines()
    at = int(index[1].split()[1])
    for offset, message in (
        (at + 4, "magic word 0x"),
        (at + 1, "magic word 0x"),
        (at + 8 + 24, "part 1 of the record is marked 3|magic word"),
    ):
        (tmp_path / "train.idx").write_text(f"{index[0]}\n1\t{offset}\n")
        with pytest.raises(DataError, match=rf"train\.rec, key 1, offset {offset}: .*({message})"):
            Recordio(tmp_path)[1]


def test_images_read_together_are_those_read_one_by_one(tmp_path: Path) -> None:
    records = layout_a(people(4, 3))
    records[3] = records[3] + MAGIC * 2  # split
    records[5] = payload([1.0, 2.0], records[5][24:])
    records[7] = payload(-1.0, records[7][24:])
    records[9] = b"short"
    keys = [4, 8, 1, 9, 0, 2, 6, 3, 7, 5, *range(10, len(records))]
    write_records(tmp_path, {key: records[key] for key in keys})
    whole = (tmp_path / "train.rec").read_bytes()
    random = np.random.default_rng(1)
    damaged = 0
    for turn in range(60):
        broken = bytearray(whole)
        if turn:
            broken[random.integers(0, len(whole) // 4) * 4 + 3] ^= 1 << random.integers(0, 8)
        if turn % 4 == 3:
            del broken[random.integers(64, len(whole)) :]
        (tmp_path / "train.rec").write_bytes(broken)
        try:
            source = Recordio(tmp_path)
        except DataError:
            continue
        places = random.permutation(len(source)).tolist()
        one_by_one = [one(source, place) for place in places]
        together = [told(face) for face in readers.read(source, places)]
        assert together == one_by_one
        damaged += sum(isinstance(face, str) for face in together)
    assert damaged > 100


def one(source: Recordio, place: int) -> object:
    try:
        return source[place]
    except DataError as error:
        return str(error)


def told(face: object) -> object:
    return str(face) if isinstance(face, DataError) else face
