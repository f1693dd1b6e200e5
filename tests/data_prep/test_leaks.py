"""`data_prep leaks`: what is found, what is not claimed, and what the report is good for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.synthetic import faces
from facerec.data import leaks
from facerec.data.shards import Shards
from tests.data_prep.test_stats import again


def prepared(root: Path, images: dict[str, bytes], val: int = 0) -> Path:
    """A set of images by `identity/name`."""
    for key, image in images.items():
        path = root / "src" / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    command = ["folder", str(root / "src"), str(root), "--confirm-identities", "0"]
    shutil.move(root / "src", root.with_name(f"{root.name}-src"))
    command[1] = str(root.with_name(f"{root.name}-src"))
    root.rmdir()
    assert main([*command, "--val-identities", str(val)]) == 0
    return root


@pytest.fixture(scope="module")
def drawn() -> list[bytes]:
    return [face.image for face in faces(8, 2, 48)]


@pytest.fixture
def train(tmp_path: Path, drawn: list[bytes]) -> Path:
    """Four people, two images of each."""
    images = {f"Person {n // 2}/{n % 2}": drawn[n] for n in range(8)}
    return prepared(tmp_path / "train", images)


def test_identical_near_and_names_are_found(
    train: Path, tmp_path: Path, drawn: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    images = {
        "person_1/0": drawn[8],  # a name of the training set
        "Other/same": drawn[3],
        "Other/near": again(drawn[6], 70),
        **{f"Other/{n}": drawn[n] for n in range(9, 14)},
    }
    other = prepared(tmp_path / "other", images)
    before = (train / "index.json").read_bytes()
    capsys.readouterr()
    assert main(["leaks", str(train), str(other)]) == 3
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == f"{train / 'leaks.json'}: leaks in other"
    assert (train / "index.json").read_bytes() == before
    found = leaks.read(train, other)
    assert found is not None
    assert (found.images, found.identical, found.near) == (8, 1, 1)
    assert (found.identities, found.shared) == (2, 1)
    assert list(found.shared_examples) == ["person_1"]
    assert found.fraction == 0.25
    same, near = found.examples
    assert [row["key"] for row in (same, near)] == ["Other/same.jpg", "Other/near.jpg"]
    assert [row["train_key"] for row in (same, near)] == ["Person 1/1.jpg", "Person 3/0.jpg"]
    assert (same["same"], same["distance"], near["same"]) == (True, 0, False)
    assert near["distance"] <= found.distance == 6
    assert found.tool.startswith("facerec ")
    assert found.sentence == (
        "2 of 8 images identical or near-identical to training images; 1 of 2 identity names are "
        "in both"
    )
    assert leaks.told(train, other) == found.sentence


def test_other_images_and_other_names_are_no_leak(
    train: Path, tmp_path: Path, drawn: list[bytes]
) -> None:
    other = prepared(tmp_path / "other", {f"Other {n // 2}/{n}": drawn[n] for n in range(8, 16)})
    assert main(["leaks", str(train), str(other)]) == 0
    found = leaks.read(train, other)
    assert found is not None
    assert not found.found
    assert found.sentence == "0 of 8 images identical or near-identical to training images"


def test_unknown_names_and_numbers_are_not_compared(
    train: Path,
    toy_pairs: Path,
    tmp_path: Path,
    drawn: list[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbers = prepared(tmp_path / "numbers", {f"{n}/0": drawn[n] for n in range(8, 12)})
    assert main(["leaks", str(train), str(numbers), str(toy_pairs)]) == 0
    for place, why in ((numbers, "names are numbers"), (toy_pairs, "identities are unknown")):
        found = leaks.read(train, place)
        assert found is not None
        assert found.shared is None
        assert found.sentence.endswith(f"identity names could not be compared ({why})")
    told = capsys.readouterr().out
    assert "no leaks found in numbers, pairs; names were not compared for numbers, pairs" in told


def test_the_val_cut_shares_no_identity_and_copies_under_other_names_are_found(
    tmp_path: Path, drawn: list[bytes]
) -> None:
    images = {f"Person {n // 2}/{n % 2}": drawn[n] for n in range(16)}
    clean = prepared(tmp_path / "clean", images, val=3)
    assert main(["leaks", str(clean)]) == 0
    parts = [Shards(clean).split(name).columns(["identity", "key"]) for name in ("train", "val")]
    for column in ("identity", "key"):
        assert not set(parts[0][column]) & set(parts[1][column])
    assert len(set(parts[1]["identity"])) == 3

    # the cut is by name: a copy of a val image under a training name stays in training
    wrong = next(key for key in parts[1]["key"])
    name = next(iter(parts[0]["identity"]))
    images |= {f"{name}/copy": images[wrong.removesuffix(".jpg")]}
    noisy = prepared(tmp_path / "noisy", images, val=3)
    assert main(["leaks", str(noisy)]) == 3
    found = leaks.read(noisy, noisy, "val")
    assert found is not None
    assert (found.identical, found.near, found.shared) == (1, 0, 0)
    assert [row["key"] for row in found.examples] == [wrong]
    assert [row["train_key"] for row in found.examples] == [f"{name}/copy.jpg"]


def test_a_report_holds_for_two_versions_only(
    train: Path, tmp_path: Path, drawn: list[bytes]
) -> None:
    one = prepared(tmp_path / "one", {"A/0": drawn[8], "A/1": drawn[9]})
    two = prepared(tmp_path / "two", {"B/0": drawn[1], "B/1": drawn[11]})
    assert leaks.read(train, one) is None
    assert leaks.told(train, one) == f"not checked: python -m data_prep leaks {train} {one}"
    assert main(["leaks", str(train), str(one)]) == 0
    assert main(["leaks", str(train), str(two)]) == 3
    first, second = leaks.read(train, one), leaks.read(train, two)
    assert first is not None  # the second run kept it
    assert second is not None
    assert (first.identical, second.identical) == (0, 1)
    assert main(["leaks", str(train), str(one)]) == 0
    assert len(json.loads((train / "leaks.json").read_text())["sets"]) == 2

    index = one / "index.json"
    index.write_bytes(index.read_bytes() + b"\n")
    assert leaks.read(train, one) is None
    assert leaks.read(train, two) == second
    index = train / "index.json"
    index.write_bytes(index.read_bytes() + b"\n")
    assert leaks.read(train, two) is None
    assert leaks.read(train, tmp_path / "gone") is None
    assert main(["leaks", str(train), str(one)]) == 0  # what is out of date goes
    assert [row["name"] for row in json.loads((train / "leaks.json").read_text())["sets"]] == [
        "one"
    ]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "train": 3}']
)
def test_a_damaged_report_claims_nothing(train: Path, toy_pairs: Path, content: str) -> None:
    (train / "leaks.json").write_text(content)
    assert leaks.read(train, toy_pairs) is None


def test_at_most_twenty_examples(tmp_path: Path) -> None:
    images = {f"P{n}/0": face.image for n, face in enumerate(faces(30, 1, 32))}
    one = prepared(tmp_path / "one", images)
    two = prepared(tmp_path / "two", {key.lower(): image for key, image in images.items()})
    assert main(["leaks", str(one), str(two)]) == 3
    found = leaks.read(one, two)
    assert found is not None
    assert (found.identical, found.shared) == (30, 30)
    assert (len(found.examples), len(found.shared_examples)) == (20, 20)


def test_what_cannot_be_compared_is_one_line(
    train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sets, said in (
        ([], "has no val or confirm split, and no other set is named"),
        ([str(train)], "is the training set"),
        ([str(tmp_path / "no")], "no such folder"),
    ):
        capsys.readouterr()
        assert main(["leaks", str(train), *sets]) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1
        assert said in told[0]
    assert main(["leaks", "s3://bucket/faces"]) == 2
    assert "folder of this machine" in capsys.readouterr().err
