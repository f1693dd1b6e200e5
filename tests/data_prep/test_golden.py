"""Replays what other programs read from real data, where it is: FACEREC_DATA names the folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.lists import List
from data_prep.readers import Folder
from data_prep.recordio import Recordio
from data_prep.verification import Verification
from facerec.data.images import decode
from facerec.data.shards import Shards

FOLDER = os.environ.get("FACEREC_DATA", "")
DATA = Path(FOLDER)
pytestmark = pytest.mark.skipif(not FOLDER, reason="FACEREC_DATA names no folder of real data")


def golden(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stored(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Split, key and image of every row of a prepared set."""
    shards = Shards(folder)
    for name in ("train", *shards.index["splits"]):
        split = shards.split(name)
        for group in range(len(split.group_rows)):
            rows = split.read(group)
            yield from ((name, k, bytes(v)) for k, v in zip(rows.keys, rows.images, strict=True))


def test_lfw_train_reads_as_mxnet_reads_it() -> None:
    want = golden("lfw_train/golden.json")
    source = Recordio(DATA / "lfw_train")
    faces = [source[n] for n in range(len(source))]
    assert len(faces) == want["images"]
    assert len({face.identity for face in faces}) == want["identities"] == source.facts.classes
    images = hashlib.sha256(b"".join(face.image for face in faces)).hexdigest()
    assert images == want["sha256_of_all_image_payloads_in_key_order"]
    labels = ",".join(face.identity for face in faces)
    assert sha256(labels.encode()) == want["labels_sha256"]
    sizes = Counter(face.identity for face in faces).values()
    assert {"min": min(sizes), "max": max(sizes)} == want["images_per_identity"]
    for entry in want["sampled_records"]:
        if not entry["payload_bytes"]:
            continue
        face = faces[entry["key"] - 1]
        assert face.key == str(entry["key"])
        assert (float(face.identity), face.more["id"], face.more["id2"]) == (
            entry["label"],
            entry["id"],
            entry["id2"],
        )
        assert sha256(face.image) == entry["payload_sha256"]
        pixels = decode(face.image)
        assert list(pixels.shape) == entry["shape_hwc"]
        assert pixels.mean(axis=(0, 1)) == pytest.approx(entry["mean_rgb"], abs=0.02)


@pytest.mark.slow
def test_lfw_train_arrives_whole(tmp_path: Path) -> None:
    want = golden("lfw_train/golden.json")
    assert main(["recordio", str(DATA / "lfw_train"), str(tmp_path / "lfw")]) == 0
    rows = sorted(stored(tmp_path / "lfw"), key=lambda row: int(row[1]))
    payloads = hashlib.sha256(b"".join(image for _, _, image in rows)).hexdigest()
    assert payloads == want["sha256_of_all_image_payloads_in_key_order"]
    people = dict(
        line.split("\t")[:2] for line in (DATA / "lfw_train/names.tsv").read_text().splitlines()
    )
    parts = {name: {people[key] for n, key, _ in rows if n == name} for name, _, _ in rows}
    assert sorted(map(len, parts.values())) == [97, 97, 784]
    assert len(set.union(*parts.values())) == want["identities"]


@pytest.mark.slow
@pytest.mark.parametrize("least", [2, 3, 4, 5, 10])
def test_lfw_train_after_min_images(tmp_path: Path, least: int) -> None:
    want = golden("lfw_train/golden.json")["after_min_images"][str(least)]
    options = ["--min-images", str(least), "--val-identities", "0", "--confirm-identities", "0"]
    assert main(["recordio", str(DATA / "lfw_train"), str(tmp_path / "lfw"), *options]) == 0
    split = Shards(tmp_path / "lfw").split()
    assert {"identities": split.classes, "images": split.rows} == want


def test_rec_no_header() -> None:
    want = golden("rec_no_header/golden.json")
    source = Recordio(DATA / "rec_no_header")
    faces = {face.key: face for face in (source[n] for n in range(len(source)))}
    assert len(faces) == want["images"]
    assert len({face.identity for face in faces.values()}) == want["identities"]
    assert source.facts.details["layout"] == "B"
    for entry in want["sampled"]:
        face = faces[str(entry["key"])]
        assert face.identity == str(entry["label"])
        assert sha256(face.image) == entry["payload_sha256"]


@pytest.mark.parametrize("name", ["lfw_f78", "orl_a", "small_lfw"])
def test_verification(tmp_path: Path, name: str) -> None:
    want = golden(f"verification/{name}.golden.json")
    path = DATA / "verification" / f"{name}.bin"
    same = Verification(path).same.tolist()
    assert (len(same), sum(same)) == (want["pairs"], want["same"])
    assert same[: len(want["issame_head"])] == want["issame_head"]
    assert sha256("".join("01"[flag] for flag in same).encode()) == want["issame_sha256"]
    assert main(["bin", str(path), str(tmp_path / name)]) == 0
    images = [image for _, _, image in stored(tmp_path / name)]
    assert len(images) == want["images"]
    assert sha256(b"".join(images)) == want["sha256_of_all_images"]
    for number, digest in want["sha256_of_images"].items():
        assert sha256(images[int(number)]) == digest
    pairs = Shards(tmp_path / name).pairs()
    assert pairs is not None
    assert pairs.same.tolist() == same


def test_folder_sample(tmp_path: Path) -> None:
    want = golden("folder_sample/golden.json")
    root = DATA / "folder_sample"
    folder, listed = Folder(root / "images"), List(root / "magface.list", root)
    faces = {face.key: face for face in (folder[n] for n in range(len(folder)))}
    assert len(faces) == want["images"]
    assert len({face.identity for face in faces.values()}) == want["identities"]
    for key, digest in want["sha256"].items():
        assert sha256(faces[key].image) == digest
    assert len(listed) == want["magface_lines"]
    for n in range(len(listed)):
        face = listed[n]
        assert face.image == faces[face.key.removeprefix("images/")].image


def test_ijb_layout_mini(tmp_path: Path) -> None:
    want, root = golden("ijb_layout_mini/golden.json"), DATA / "ijb_layout_mini"
    assert main(["templates", str(root), str(tmp_path / "mini")]) == 0
    found = Shards(tmp_path / "mini").templates()
    assert found is not None
    assert found.gallery is not None
    assert found.probes is not None
    assert {
        "images": len(found.templates),
        "templates": len(set(found.templates.tolist())),
        "subjects": len({*found.gallery.subjects.tolist(), *found.probes.subjects.tolist()}),
        "pairs": len(found.same),
        "positives": int(found.same.sum()),
    } == want
    for _, key, image in stored(tmp_path / "mini"):
        assert image == (root / "loose_crop" / key).read_bytes()


@pytest.mark.slow
def test_all_pairs_of_lfw_over_few_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = DATA / "folder_sample" / "images"
    listed = DATA / "verification" / "pairs.txt"
    command = ["pairs", str(listed), str(tmp_path / "dst"), "--root", str(root)]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        "error: pairs.txt, line 2, key Abel_Pacheco/Abel_Pacheco_0001.jpg, offset 7: "
        f"{root}/Abel_Pacheco/Abel_Pacheco_0001.jpg is missing\n"
    )
    assert main([*command, "--on-error", "skip"]) == 3
    lines = [line.split("\t") for line in listed.read_text().splitlines()[1:]]
    kept = []
    for slot, words in enumerate(lines):
        names = [words[0], words[0] if len(words) == 3 else words[2]]
        ends = [f"{n}/{n}_{int(i):04d}.jpg" for n, i in zip(names, words[1::2], strict=False)]
        if len(words) == 3:
            ends = [f"{words[0]}/{words[0]}_{int(i):04d}.jpg" for i in words[1:]]
        if all((root / end).is_file() for end in ends):
            kept.append((*ends, len(words) == 3, slot // 600))
    keys = [key for _, key, _ in stored(tmp_path / "dst")]
    pairs = pq.read_table(tmp_path / "dst" / "pairs.parquet").to_pylist()
    assert [
        (keys[pair["first"]], keys[pair["second"]], pair["same"], pair["fold"]) for pair in pairs
    ] == kept
    assert f"{7701 - len(keys)} of 7701 images, {6000 - len(kept)} of the pairs left out: " in (
        capsys.readouterr().out
    )
