"""`data_prep stats`: duplicates against plain loops, the table against the images themselves."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep import near
from data_prep.__main__ import main
from data_prep.looks import DISTANCE, Looks, fingerprint
from data_prep.stats import count
from data_prep.synthetic import faces
from facerec.data.images import decode
from facerec.data.shards import Shards

GREY = np.array([0.299, 0.587, 0.114])


def again(image: bytes, quality: int, scale: float = 1.0, light: float = 1.0) -> bytes:
    """The image in other bytes: resized there and back, lit, and encoded."""
    pixels = Image.open(io.BytesIO(image)).convert("RGB")
    small = pixels.resize((round(pixels.width * scale), round(pixels.height * scale)))
    lit = np.clip(np.asarray(small.resize(pixels.size)) * light, 0, 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(lit).save(sink, "JPEG", quality=quality)
    return sink.getvalue()


@pytest.fixture(scope="module")
def drawn() -> list[bytes]:
    """12 people, two images of each, 64 pixels."""
    return [face.image for face in faces(12, 2, 64)]


@pytest.fixture(scope="module")
def folder(drawn: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared: the drawn images; three copies beside their own, and two under another name."""
    root = tmp_path_factory.mktemp("stats")
    for number, image in enumerate(drawn):
        person = root / "src" / f"person{number // 2:02d}"
        person.mkdir(parents=True, exist_ok=True)
        (person / f"{number % 2}.jpg").write_bytes(image)
    plain = io.BytesIO()
    Image.open(io.BytesIO(drawn[4])).save(plain, "PNG")  # not the bytes, but the pixels
    png = io.BytesIO()
    Image.open(io.BytesIO(plain.getvalue())).save(png, "PNG", compress_level=1)
    for place, image in {
        "person00/copy": drawn[0],
        "person01/again": again(drawn[2], 60),
        "person02/one": plain.getvalue(),
        "person02/two": png.getvalue(),
        "person07/wrong": drawn[10],
        "person08/wrong": again(drawn[12], 75, scale=0.5),
    }.items():
        (root / "src" / f"{place}.jpg").write_bytes(image)
    command = ["folder", str(root / "src"), str(root / "set"), "--val-identities", "4"]
    assert main([*command, "--confirm-identities", "0"]) == 0
    return root / "set"


def plain_hash(image: bytes) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The hash's 64 bits and the weighted frequencies, each written out as a sum."""
    grey = decode(image).astype(float) @ GREY
    cell = len(grey) // 32
    small = grey.reshape(32, cell, 32, cell).mean((1, 3))
    wave = np.cos(np.pi * (2 * np.arange(32) + 1) / 64 * np.arange(12)[:, None])
    low = np.empty((12, 12))
    for u in range(12):
        for v in range(12):
            low[u, v] = (small * np.outer(wave[u], wave[v])).sum()
            low[u, v] *= np.sqrt((1 if u == 0 else 2) * (1 if v == 0 else 2)) / 32
    bits = (low[:8, :8] > np.median(low[:8, :8])).ravel()
    return bits, low * np.hypot(*np.mgrid[:12, :12])


def bits_of(found: np.uint64) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(found.tobytes(), np.uint8)).astype(bool)


def test_the_hash_is_that_of_the_plain_sums(drawn: list[bytes]) -> None:
    for image in drawn[:6]:
        bits, shape = plain_hash(image)
        found, coarse = fingerprint((decode(image) @ GREY).astype(np.float32))
        assert (bits_of(found) == bits).all()
        assert np.abs(coarse.reshape(12, 12) - 127 * shape / np.abs(shape).max()).max() < 0.51
        assert coarse[0] == 0  # the mean says nothing


@pytest.mark.parametrize(
    ("quality", "scale", "light"), [(90, 1, 1), (50, 1, 1), (85, 0.5, 1), (90, 2, 1), (85, 1, 0.8)]
)
def test_copies_are_near_and_other_images_are_not(
    drawn: list[bytes], quality: int, scale: float, light: float
) -> None:
    copies = [again(image, quality, scale, light) for image in drawn]
    rows, distances = near.nearest(looks_of(drawn), looks_of(copies))
    assert rows.tolist() == list(range(len(drawn)))
    assert distances.max() <= DISTANCE
    assert (near.near_groups(looks_of(drawn)) == -1).all()


def looks_of(images: list[bytes]) -> Looks:
    found = [fingerprint(decode(image) @ GREY.astype(np.float32)) for image in images]
    hashes = np.array([hash_ for hash_, _ in found])
    return made(hashes, np.array([shape for _, shape in found]))


def made(
    hashes: NDArray[np.uint64],
    shapes: NDArray[np.int8],
    pixels: NDArray[np.uint64] | None = None,
) -> Looks:
    """Looks of which only what the search needs is there; no two share their pixels."""
    rng = np.random.default_rng(len(hashes))
    own = rng.integers(0, 2**63, len(hashes), dtype=np.uint64) if pixels is None else pixels
    nothing = np.zeros(len(hashes))
    return Looks(
        labels=nothing.astype(np.int32),
        size=nothing.astype(np.int64),
        width=nothing.astype(np.int32),
        height=nothing.astype(np.int32),
        content=own,
        pixels=own,
        hashes=hashes,
        shapes=shapes,
        brightness=nothing.astype(np.float32),
        contrast=nothing.astype(np.float32),
    )


def crowd(seed: int, images: int) -> Looks:
    """Images of 400 contents around a few centres: hashes some bits apart, three shapes."""
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**63, 30, dtype=np.uint64)[rng.integers(0, 30, 400)]
    for _ in range(8):
        flip = np.uint64(1) << rng.integers(0, 64, 400).astype(np.uint64)
        hashes = np.where(rng.random(400) < 0.6, hashes ^ flip, hashes)
    shapes = rng.integers(-127, 128, (3, 144)).astype(np.int8)[rng.integers(0, 3, 400)]
    content = np.random.default_rng(seed).integers(0, 400, images)
    return made(hashes[content], shapes[content], content.astype(np.uint64))


def alike(looks: Looks, i: int, other: Looks, j: int) -> int | None:
    """Bits that differ, -1 for the same pixels, None where the images are not alike."""
    if looks.pixels[i] == other.pixels[j]:
        return -1
    bits = int(looks.hashes[i] ^ other.hashes[j]).bit_count()
    a, b = looks.shapes[i].astype(float), other.shapes[j].astype(float)
    near_ = bits <= DISTANCE and a @ b >= 0.95 * np.sqrt((a @ a) * (b @ b))
    return bits if near_ else None


def test_groups_are_those_of_comparing_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = crowd(1, 160)
    group = list(range(160))
    for i, j in combinations(range(160), 2):
        if alike(looks, i, looks, j) is not None and group[i] != group[j]:
            group = [group[i] if one == group[j] else one for one in group]
    sizes = {number: group.count(number) for number in group}
    order: dict[int, int] = {}
    wanted = [
        -1 if sizes[number] == 1 else order.setdefault(number, len(order)) for number in group
    ]
    assert len(order) > 5
    assert wanted.count(-1) > 5
    assert near.near_groups(looks).tolist() == wanted
    monkeypatch.setattr(near, "_BLOCK", 7)
    assert near.near_groups(looks).tolist() == wanted


def test_the_nearest_is_that_of_comparing_each_with_each() -> None:
    known, asked = crowd(2, 100), crowd(3, 260)
    rows, distances = near.nearest(known, asked)
    for j in range(260):
        found = [(alike(known, i, asked, j), i) for i in range(100)]
        close = [(bits, i) for bits, i in found if bits is not None]
        assert (distances[j], rows[j]) == min(close, default=(-1, -1))
    assert 20 < (rows >= 0).sum() < 260


def test_flat_images_are_alike_and_unlike_all_others() -> None:
    shapes = np.zeros((3, 144), np.int8)
    shapes[2, 5] = 127
    assert near._alike(shapes[[0, 0]], shapes[[1, 2]]).tolist() == [True, False]
    black, white = (fingerprint(np.full((64, 64), grey, np.float32)) for grey in (0.0, 255.0))
    assert black[0] == white[0] or (black[1] == white[1]).all()
    assert not black[1].any()


def test_counts_tell_wrong_labels_from_copies() -> None:
    found = np.array([0, 0, 1, 1, 1, -1, 2, 2, 3, 3])
    people = np.array([5, 5, 6, 7, 6, 1, -1, 4, 8, 8])
    parts = np.array([0, 0, 0, 1, 0, 0, 0, 0, 1, 1])
    assert count(found, people, parts) == {
        **{"one identity": 2, "one identity images": 4},
        **{"several identities": 1, "several identities images": 3},
        **{"unknown identities": 1, "unknown identities images": 2},
        "several splits": 1,
    }
    assert set(count(np.full(3, -1), people[:3], parts[:3]).values()) == {0}


def test_the_table_says_what_the_images_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["stats", str(folder), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    rows = pq.read_table(tmp_path / "out" / "stats.parquet").to_pylist()
    shards = Shards(folder)
    at = 0
    for name in ("train", "val"):
        part = shards.split(name)
        images, keys = part.read(0).images, part.read(0).keys
        for image, key, label in zip(images, keys, part.labels().tolist(), strict=True):
            row, grey = rows[at], decode(image).astype(float) @ GREY / 255
            assert (row["split"], row["key"], row["label"]) == (name, key, label)
            assert (row["bytes"], row["width"], row["height"]) == (len(image), 64, 64)
            assert row["brightness"] == pytest.approx(grey.mean(), abs=1e-5)
            assert row["contrast"] == pytest.approx(grey.std(), abs=1e-5)
            at += 1
    assert at == len(rows) == 30

    def groups(kind: str) -> set[frozenset[str]]:
        numbers = {row[kind] for row in rows if row[kind] is not None}
        assert numbers == set(range(len(numbers)))
        return {
            frozenset(row["key"].removesuffix(".jpg") for row in rows if row[kind] == number)
            for number in numbers
        }

    copies = {
        frozenset({"person00/0", "person00/copy"}),
        frozenset({"person05/0", "person07/wrong"}),
    }
    assert groups("same_bytes") == copies
    pixels = {"person02/one", "person02/two"}
    assert groups("same_pixels") in (
        copies | {frozenset(pixels)},
        copies | {frozenset({*pixels, "person02/0"})},  # both decoders give the same pixels
    )
    assert groups("near") == {
        *copies,
        frozenset({*pixels, "person02/0"}),
        frozenset({"person01/0", "person01/again"}),
        frozenset({"person06/0", "person08/wrong"}),
    }
    table = {line.split("│")[1].strip(): line for line in told.splitlines() if "│" in line}
    assert [cell.strip() for cell in table["of several identities"].split("│")[2:5]] == [
        *("1/2", "1/2", "2/4")
    ]
    assert "unknown" not in told


def test_the_plot_is_a_picture_and_nothing_depends_on_threads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["stats", str(folder), "--out", str(tmp_path / "a")]) == 0
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert main(["stats", str(folder), "--out", str(tmp_path / "b")]) == 0
    tables = [(tmp_path / name / "stats.parquet").read_bytes() for name in "ab"]
    assert tables[0] == tables[1]
    with Image.open(tmp_path / "a" / "stats.png") as image:
        assert image.size == (1080, 816)
        assert len(image.convert("L").getcolors() or []) > 20
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_identities_that_nobody_knows(
    toy_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(toy_pairs), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    table = {line.split("│")[1].strip(): line for line in told.splitlines() if "│" in line}
    assert "unknown" in table["identities"]
    assert [cell.strip() for cell in table["of unknown identities"].split("│")[2:4]] == ["0/0"] * 2
