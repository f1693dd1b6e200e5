"""Inputs made to harm: names, images and pickles. One line each, and nothing happens."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.lists import List
from data_prep.readers import Folder
from data_prep.verification import Verification
from facerec.data.shards import DataError
from tests.data_prep.sources import jpeg, write_folder


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, rows: bytes, *, depth: int = 8, extra: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + extra + end


def bmp(width: int, height: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (2, 2)).save(sink, "BMP")
    data = bytearray(sink.getvalue())
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


SIXTEEN = 1 << 24  # bytes of zeros: 16 kB when they are packed
BOMBS = {
    "png header": (png(60000, 60000, b""), "the header promises over 67108864 pixels"),
    "png below pillow's limit": (
        png(12000, 12000, b""),
        "the header promises 12000 x 12000 pixels; at most 67108864 are taken",
    ),
    "text chunk": (
        png(4, 4, bytes(52), extra=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(SIXTEEN), 9))),
        "no readable image in",
    ),
    "colour profile": (
        png(4, 4, bytes(52), extra=chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(SIXTEEN), 9))),
        "",
    ),
    "too many rows": (png(4, 4, bytes(SIXTEEN)), ""),
    "too few rows": (png(4, 4, bytes(30)), "the image is damaged"),
    "bmp header": (bmp(50000, 50000), "the header promises over 67108864 pixels"),
    "bmp upside down": (bmp(2, -(2**31)), ""),
    "ppm header": (b"P6\n60000 60000\n255\n", "the header promises over 67108864 pixels"),
    "no pixels": (b"P6\n0 0\n255\n", "no readable image"),
    "sixteen bits": (png(4, 4, bytes(100), depth=16), "8 bits per channel are wanted"),
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_images_that_burst(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, message = BOMBS[kind]
    root = write_folder(tmp_path / "root", ["a"], 2)
    (root / "a" / "bad.png").write_bytes(data)
    command = ["folder", str(root), str(tmp_path / "dst")]
    tracemalloc.start()
    try:
        assert main(command) == 2
        assert tracemalloc.get_traced_memory()[1] < SIXTEEN
    finally:
        tracemalloc.stop()
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: root, key a/bad.png: ")
    assert message in err


NAMES = [
    "../out.jpg",
    "{root}/../out.jpg",
    "/etc/passwd",
    "a/../../out.jpg",
    "link.jpg",
    "up/out.jpg",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_list_stays_below_the_root(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "root", ["a"], 1)
    (tmp_path / "out.jpg").write_bytes(jpeg(5))
    (root / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (root / "up").symlink_to(tmp_path)
    name = name.format(root=root)
    (tmp_path / "train.list").write_text(f"a/0000.jpg 0 0 0\n{name} 0 0 0\n")
    listed = [str(tmp_path / "train.list"), str(tmp_path / "dst"), "--root", str(root)]
    assert main(["list", *listed]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith(
        f"error: train.list, line 2, key {name}, offset 17: {name[:80]!r} leads out "
    )
    assert err.endswith("; --root / takes absolute paths") == name.startswith("/")
    assert main(["list", *listed, "--on-error", "skip"]) == 3
    rows = pq.read_table(tmp_path / "dst" / "damage.parquet").to_pylist()
    assert [(row["key"], row["offset"]) for row in rows] == [(name, 17)]


def test_absolute_paths_and_links_inside_are_taken(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "real", ["a"], 2)
    (tmp_path / "root").symlink_to(root)
    (root / "link.jpg").symlink_to(root / "a" / "0001.jpg")
    lines = [f"{tmp_path}/root/a/0000.jpg", "link.jpg", "./a/0001.jpg", "a/../a/0001.jpg"]
    (tmp_path / "train.list").write_text("".join(f"{line} 0 0 0\n" for line in lines))
    source = List(tmp_path / "train.list", tmp_path / "root")
    assert [source[n].image for n in range(4)] == [jpeg(0), jpeg(1), jpeg(1), jpeg(1)]


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "root", ["a"], 2)
    lines = ["a/0000.jpg 0 0 0", "bad", "a/0001.jpg 0 1 0", "bad", "a/0000.jpg 0 2 0"]
    (tmp_path / "train.list").write_text("\n".join(lines))
    source = List(tmp_path / "train.list", tmp_path / "root")
    assert (source[0].identity, source[2].identity) == ("0", "1")
    with pytest.raises(DataError, match=r"line 5, key a/0000\.jpg, .*: line 1 names this image be"):
        source[4]
    for n in (1, 3):
        with pytest.raises(DataError, match="1 columns instead of 4"):
            source[n]


def test_names_that_look_like_options_or_hold_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["--root", "-rf", "new\nline", "\x1b[2J", "$(touch pwned)", "; touch pwned"]
    root = write_folder(tmp_path / "root", names, 1)
    (root / "-rf" / "--on-error.jpg").write_bytes(b"no image")
    (root / "new\nline" / "b\nc.jpg").write_bytes(jpeg(1))
    (root / "em\npty").mkdir()
    assert main(["folder", "root", "dst", "--on-error", "skip"]) == 3
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "1 identity without images skipped: em\\npty" in err
    rows = pq.read_table("dst/shard-00000.parquet").to_pylist()
    assert sorted(row["key"] for row in rows) == sorted(
        [*(f"{name}/0000.jpg" for name in names), "new\nline/b\nc.jpg"]
    )
    (root / "new\nline" / "b\nc.jpg").write_bytes(b"no image")
    assert main(["folder", "root", "again"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("error: root, key -rf/--on-error.jpg: no readable image in 8 bytes")
    (root / "-rf" / "--on-error.jpg").unlink()
    assert main(["folder", "root", "again"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("error: root, key new\\nline/b\\nc.jpg: no readable image in 8 bytes")
    (tmp_path / "train.list").write_text("-rf/0000.jpg 0 0 0\n--root/0000.jpg 0 1 0\n")
    assert main(["list", "train.list", "listed", "--root", "root"]) == 0
    assert not list(tmp_path.rglob("pwned"))


def test_things_that_are_no_files_are_passed_over(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "root", ["a"], 1)
    os.mkfifo(root / "a" / "pipe.jpg")  # to open it would wait for ever
    (root / "a" / "loop.jpg").symlink_to(root / "a" / "loop.jpg")
    (root / "loop").symlink_to(root / "loop")
    (root / "a" / "gone.jpg").symlink_to(root / "none")
    source = Folder(root)
    assert len(source) == 1
    assert source.facts.remarks == ("4 entries ignored: no image of an identity",)
    (tmp_path / "train.list").write_text("a/pipe.jpg 0 0 0\na/loop.jpg 0 0 0\n")
    listed = List(tmp_path / "train.list", root)
    for n in range(2):
        with pytest.raises(DataError, match="is missing"):
            listed[n]


def test_a_line_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "train.list").write_bytes(b"a 0 0 0\n" + bytes(1 << 17))
    with pytest.raises(DataError, match="line 2 has over 65536 bytes"):
        List(tmp_path / "train.list", tmp_path)


def pickled(body: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def string(text: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text


HUGE = b"\x8b" + struct.pack("<I", 1 << 16) + b"\x01" * (1 << 16)  # a number of 158,000 digits
BIG = b"\x96" + struct.pack("<Q", 1 << 16) + bytes(1 << 16)  # a bytearray
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R"
DTYPE = b"cnumpy\ndtype\nU\x02u1\x85R"
PICKLES = {
    "persistent id": (b"\x80\x02Pname\n.", "persistent"),
    "persistent id from the stack": (pickled(b"K\x01Q"), "persistent"),
    "extension": (pickled(b"\x82\x01"), "extension code 1"),
    "buffer out of band": (pickled(b"\x97", 5), "buffers"),
    "deep tuples": (pickled(b")" + b"\x85" * 60_000), "does not hold (images, same)"),
    "deep lists": (pickled(b"]" * 60_000 + b"a" * 59_999), "does not hold (images, same)"),
    "a list in itself": (pickled(b"]\x94h\x00a"), "does not hold (images, same)"),
    "frame": (pickled(b"\x95" + b"\xff" * 7 + b"\x7f"), "is no verification set"),
    "long bytes": (pickled(b"\x8e" + b"\xff" * 7 + b"\x7fabc"), "bytes"),
    "long text": (pickled(b"\x8d" + b"\xff" * 7 + b"\x7fabc"), "bytes"),
    "long bytearray": (pickled(b"\x96" + b"\xff" * 7 + b"\x7fabc", 5), "bytes"),
    "long string": (pickled(b"T\xff\xff\xff\x7fabc"), "bytes"),
    "negative string": (pickled(b"T\xff\xff\xff\xffabc"), "byte count < 0"),
    "long number": (pickled(b"\x8b\xff\xff\xff\x7f\x01"), "not enough data"),
    "negative number": (pickled(b"\x8b\xff\xff\xff\xff\x01"), "byte count < 0"),
    "digits": (b"L" + b"9" * 100_000 + b"L\n.", "is no verification set"),
    "shape of huge numbers": (
        pickled(
            b"](" + ARRAY + b"(K\x01(" + HUGE + HUGE + b"t" + DTYPE + b"\x89C\x03abctbe]\x88a\x86"
        ),
        "3 bytes do not fit the shape of their array",
    ),
    "texts written out again and again": (
        pickled(
            string(b"a" * 5000)
            + b"\x940]("
            + b"c_codecs\nencode\nh\x00\x85R" * 1000
            + b"e]("
            + b"\x88" * 500
            + b"e\x86"
        ),
        "its texts, written out, are longer than the file",
    ),
    "one image a million times": (
        pickled(BIG + b"\x940](" + b"h\x00" * 100_000 + b"e](" + b"\x88" * 50_000 + b"e\x86", 5),
        "names the same images again and again",
    ),
    "set state of a function": (pickled(b"c_codecs\nencode\n(K\x01K\x02tb"), "is no verif"),
    "a class by its path": (pickled(b"\x8c\x05numpy\x8c\x11ndarray.__class__\x93"), "asks for"),
    "no stop": (b"\x80\x04]", "is no verification set"),
    "nothing": (b"", "is no verification set"),
    "protocol 255": (b"\x80\xff].", "is no verification set"),
}


@pytest.mark.parametrize("kind", list(PICKLES))
def test_pickles_made_to_harm(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, message = PICKLES[kind]
    (tmp_path / "a.bin").write_bytes(data)
    assert main(["bin", str(tmp_path / "a.bin"), str(tmp_path / "dst")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("content", [{(): 1}, {1}, frozenset([()]), [{}], object(), 1j, range(3)])
def test_nothing_but_bytes_and_flags_is_built(tmp_path: Path, content: Any) -> None:
    for protocol in (0, 2, 4, 5):
        (tmp_path / "a.bin").write_bytes(pickle.dumps(([content, b""], [True]), protocol))
        with pytest.raises(DataError, match=r"it (builds a dict or set|asks for)"):
            Verification(tmp_path / "a.bin")


def test_images_that_a_pickle_names_more_than_once(tmp_path: Path) -> None:
    one, two = bytearray(jpeg(1)), bytearray(jpeg(2))
    (tmp_path / "a.bin").write_bytes(pickle.dumps(([one, two, one, one], [False, True]), 5))
    source = Verification(tmp_path / "a.bin")
    assert [source[n].image for n in range(4)] == [jpeg(1), jpeg(2), jpeg(1), jpeg(1)]
    data = (tmp_path / "a.bin").read_bytes()
    for n in range(4):
        offset = source.place(n).offset
        assert offset is not None
        assert bytes(source[n].image) in data[offset : offset + 9 + len(source[n].image)]
