from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from data_prep.cuts import Options, Part, pair_up, split
from data_prep.damage import Damage
from data_prep.readers import Facts
from data_prep.scan import Images
from facerec.data.shards import DataError
from tests.data_prep.sources import Silent


def images_of(counts: list[int]) -> Images:
    """`counts[n]` images of identity n, interleaved; positions are 10 apart."""
    codes = np.repeat(np.arange(len(counts)), counts)
    codes = codes[np.random.default_rng(3).permutation(len(codes))]
    names = [f"id-{n}" for n in range(len(counts))]
    return Images(10 * np.arange(len(codes)), codes, names, (16, 16), 10 * len(codes))


def cut(
    counts: list[int], *, classes: int | None = None, **options: Any
) -> tuple[Mapping[str, Part], Mapping[str, int], Silent]:
    tell = Silent()
    facts = Facts(kind="folder", name="x", fingerprint="", classes=classes)
    plan = split(images_of(counts), facts, Options(**options), Damage(tell))
    return plan.parts, plan.counts, tell


def identities(counts: list[int], part: Part) -> dict[int, int]:
    """Original identity of each label, checked to be one; by way of the rows."""
    codes = images_of(counts).codes
    pairs = set(zip(part.labels.tolist(), codes[part.positions // 10].tolist(), strict=True))
    assert len(pairs) == part.classes
    return dict(pairs)


def test_parts_share_no_identity_and_lose_no_row() -> None:
    counts = [2 + n % 7 for n in range(137)]
    parts, numbers, tell = cut(counts)
    assert {name: part.classes for name, part in parts.items()} == {
        "train": 111,
        "val": 13,
        "confirm": 13,
    }
    seen: list[int] = []
    for part in parts.values():
        found = identities(counts, part)
        assert sorted(found) == list(range(part.classes))
        assert list(dict(sorted(found.items())).values()) == sorted(found.values())
        seen += found.values()
    assert sorted(seen) == list(range(137))
    rows = np.concatenate([part.positions for part in parts.values()])
    assert sorted(rows) == list(images_of(counts).positions)
    assert tell.warnings == []
    assert numbers["images"] - numbers["left_out"] == sum(counts)


def test_train_is_shuffled_and_the_others_keep_the_order() -> None:
    parts, _, _ = cut([5] * 60)
    train = parts["train"].positions
    assert not np.array_equal(train, np.sort(train))
    assert abs(np.corrcoef(train, np.arange(len(train)))[0, 1]) < 0.2
    for name in ("val", "confirm"):
        np.testing.assert_array_equal(parts[name].positions, np.sort(parts[name].positions))


def test_the_same_twice_and_val_is_the_same_without_confirm() -> None:
    one, two = cut([3] * 80)[0], cut([3] * 80)[0]
    for name in one:
        np.testing.assert_array_equal(one[name].positions, two[name].positions)
    alone = cut([3] * 80, confirm_identities=0)[0]
    assert list(alone) == ["train", "val"]
    np.testing.assert_array_equal(alone["val"].positions, one["val"].positions)


@pytest.mark.parametrize(("total", "share"), [(39, 0), (40, 10), (100, 10), (129, 12)])
def test_default_share(total: int, share: int) -> None:
    parts, _, tell = cut([2] * total)
    assert parts["train"].classes == total - 2 * share
    assert ("val" in parts, "confirm" in parts) == (share > 0, share > 0)
    assert [f"{total} identities, {total} with two" in w for w in tell.warnings] == [True] * (
        not share
    )


def test_numbers_that_were_asked_for() -> None:
    parts, _, tell = cut([2] * 9, val_identities=3, confirm_identities=0)
    assert {name: part.classes for name, part in parts.items()} == {"train": 6, "val": 3}
    assert tell.warnings == []
    parts, _, tell = cut([2] * 9, val_identities=3)
    assert list(parts) == ["train", "val"]
    assert "9 identities" in tell.warnings[0]


def test_identities_with_one_image_are_not_cut_off() -> None:
    counts = [1] * 50 + [3] * 20
    parts, _, tell = cut(counts)
    assert tell.warnings == []
    for name in ("val", "confirm"):
        assert min(identities(counts, parts[name]).values()) >= 50
    parts, _, tell = cut([1] * 50 + [3] * 19)
    assert list(parts) == ["train"]
    assert "69 identities, 19 with two images or more, are too few" in tell.warnings[0]


@pytest.mark.parametrize(("val", "confirm"), [(9, 0), (5, 4), (1000, 0)])
def test_a_cut_that_leaves_too_little_is_refused(val: int, confirm: int) -> None:
    message = f"cutting {val} identities for val and {confirm} for confirm off 10, of which 10"
    with pytest.raises(DataError, match=message):
        cut([2] * 10, val_identities=val, confirm_identities=confirm)


def test_min_images() -> None:
    counts = [1, 4, 2, 3, 1]
    parts, numbers, _ = cut(counts, min_images=2, val_identities=0, confirm_identities=0)
    assert identities(counts, parts["train"]) == {0: 1, 1: 2, 2: 3}
    assert numbers["identities_below_min_images"] == 2
    assert numbers["images_below_min_images"] == 2
    with pytest.raises(DataError, match=r"--min-images 5: no identity .* the largest has 4"):
        cut(counts, min_images=5)


def test_a_promise_that_the_labels_break_is_a_warning() -> None:
    off = {"val_identities": 0, "confirm_identities": 0}
    assert cut([2] * 5, classes=5, **off)[2].warnings == []
    assert cut([2] * 5, classes=7, **off)[2].warnings == [
        "the source promises 7 identities, its labels have 5: the labels count"
    ]


def test_labels_beyond_the_promise_are_a_warning_naming_both() -> None:
    images = Images(np.arange(6), np.repeat([0, 1, 2], 2), ["0", "1", "9"], (16, 16), 6)
    for classes, said in ((3, [9]), (10, []), (12, [])):
        tell = Silent()
        facts = Facts(kind="recordio", name="x", fingerprint="", order=int, classes=classes)
        split(images, facts, Options(0, 0), Damage(tell))
        wanted = f"the source promises {classes} identities, its labels have 3"
        if said:
            wanted += ", up to label 9"
        assert tell.warnings == [f"{wanted}: the labels count"]


def test_pairs_go_as_a_whole() -> None:
    positions = np.array([0, 1, 3, 4, 5, 6])
    images = Images(positions, 0 * positions, [""], (16, 16), 8)
    facts = Facts(kind="bin", name="x", fingerprint="")
    plan = pair_up(np.array([True, False, False, True]))(
        images, facts, Options(), Damage(Silent(), skip=True)
    )
    part, (pairs,) = plan.parts["train"], plan.tables
    assert part.positions.tolist() == [0, 1, 4, 5]
    assert part.labels.tolist() == [-1] * 4
    assert part.classes == 0
    assert (pairs.entry, pairs.file) == (("pairs",), "pairs.parquet")
    assert pairs.content.to_pydict() == {
        "first": [0, 2],
        "second": [1, 3],
        "same": [True, False],
    }
    assert plan.counts == {"images": 8, "left_out": 4}
    alone = Images(positions[:1], positions[:1], [""], (16, 16), 2)
    with pytest.raises(DataError, match="no pair is left"):
        pair_up(np.array([True]))(alone, facts, Options(), Damage(Silent(), skip=True))
