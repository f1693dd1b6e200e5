from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from facerec.config import ConfigError, TrainConfig, override
from facerec.data.sampling import WINDOW, IdentityOrder, ImageOrder
from facerec.data.shards import DataError


def drawn(words: list[int], counter: int = 0) -> np.random.Generator:
    high, low = np.random.SeedSequence(words).generate_state(2, np.uint64).tolist()
    return np.random.Generator(np.random.Philox(key=(high << 64) + low, counter=counter))


@pytest.mark.parametrize("groups", [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 5])
def test_images_are_permuted_groups_and_permuted_rows_of_each_window(groups: int) -> None:
    sizes = [1 + (7 * group) % 5 for group in range(groups)]
    expected = []
    left = drawn([3, 2, 2]).permutation(groups).tolist()
    window = 0
    while left:
        now, left = left[:WINDOW], left[WINDOW:]
        rows = [sum(sizes[:group]) + row for group in now for row in range(sizes[group])]
        expected += [rows[place] for place in drawn([3, 2, 3 + window]).permutation(len(rows))]
        window += 1
    order = ImageOrder(sizes, seed=3, epoch=2)
    total = sum(sizes)
    assert order.rows(0, total).tolist() == expected
    assert sorted(expected) == list(range(total))
    for first in (total - 1, total // 2, 0):  # backwards: nothing is remembered
        assert order.rows(first, min(first + 9, total)).tolist() == expected[first : first + 9]


def test_the_window_of_a_position_and_the_next_one_are_coming() -> None:
    order = ImageOrder([4] * (2 * WINDOW + 3), seed=3, epoch=2)
    size = 4 * WINDOW
    ends = (size, 2 * size, 2 * size + 12)
    windows = [set((order.rows(end - 12, end) // 4).tolist()) for end in ends]
    assert set(order.coming(0)) >= windows[0] | windows[1]
    assert order.coming(0) == order.coming(size - 1)
    assert len(order.coming(0)) == 2 * WINDOW
    assert set(order.coming(size)) >= windows[1] | windows[2]
    assert len(order.coming(size)) == WINDOW + 3
    assert set(order.coming(2 * size + 11)) == windows[2]


def identities(labels: list[int], seed: int = 3, epoch: int = 2, **sizes: int) -> IdentityOrder:
    return IdentityOrder(np.array(labels, np.int32), seed=seed, epoch=epoch, **sizes)


# 7 identities of 1 to 13 images in mixed order, and 5 images of nobody known.
LABELS = np.random.default_rng(1).permutation(
    [label for label in range(7) for _ in range(1 + 2 * label)] + [-1] * 5
)


def test_identities_are_permuted_and_their_images_drawn_without_replacement() -> None:
    batch, each = 12, 4
    expected = []
    for step in range(20):
        turn, place = divmod(step, 2)  # 7 identities: two batches of three, and one is left
        chosen = drawn([3, 2, 2, turn + 1]).permutation(7)[3 * place : 3 * place + 3]
        numbers = iter(drawn([3, 2, 3], counter=3 * step).random(batch).tolist())
        for identity in chosen:
            left: list[int] = []
            for _ in range(each):
                left = left or [row for row in range(len(LABELS)) if LABELS[row] == identity]
                expected.append(left.pop(int(next(numbers) * len(left))))
    order = identities(LABELS.tolist(), batch_size=batch, images_per_identity=each)
    assert order.rows(0, 240).tolist() == expected
    for first, last in ((228, 240), (7, 31), (12, 18), (0, 0), (100, 101)):
        assert order.rows(first, last).tolist() == expected[first:last]


@pytest.mark.parametrize(("count", "each"), [(7, 1), (3, 4), (2, 6), (1, 30)])
def test_each_batch_has_its_identities_once_and_all_are_drawn_equally_often(
    count: int, each: int
) -> None:
    order = identities(LABELS.tolist(), batch_size=count * each, images_per_identity=each)
    seen: Counter[int] = Counter()
    for step in range(10 * (7 // count)):
        rows = order.rows(step * count * each, (step + 1) * count * each)
        labels = LABELS[rows].reshape(count, each)
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0].tolist())) == count
        assert labels.min() >= 0
        for identity, images in zip(labels[:, 0].tolist(), rows.reshape(count, each), strict=True):
            times = Counter(images.tolist()).values()
            there = 1 + 2 * identity
            assert max(times) == -(-each // there), "again only once all were taken"
            assert len(times) == min(each, there)
        seen.update(labels[:, 0].tolist())
    assert max(seen.values()) <= 10, "once a turn, at most"
    assert sum(seen.values()) == 10 * (7 // count) * count


def test_all_images_of_an_identity_come_up_and_epochs_differ() -> None:
    order = identities(LABELS.tolist(), batch_size=14, images_per_identity=2)
    rows = order.rows(0, 14 * 60)
    assert set(rows.tolist()) == set(np.flatnonzero(LABELS >= 0).tolist())
    other = identities(LABELS.tolist(), epoch=3, batch_size=14, images_per_identity=2)
    assert other.rows(0, 28).tolist() != rows[:28].tolist()


def test_batches_that_identities_cannot_fill_are_refused() -> None:
    with pytest.raises(DataError, match=r"images_per_identity = 5.*divisor of.*batch_size = 12"):
        identities(LABELS.tolist(), batch_size=12, images_per_identity=5)
    with pytest.raises(DataError, match=r"batch_size = 16.*8 identities.*are 7.*of 14 or less"):
        identities(LABELS.tolist(), batch_size=16, images_per_identity=2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.sampling": "identity"}, r"sampling = 'identity'.*Did you mean identities"),
        ({"data.images_per_identity": 0}, r"images_per_identity = 0: takes 1 or more"),
        (
            {"data.sampling": "identities", "data.batch_size": 510},
            r"batch_size = 510.*images_per_identity=4, such as 512",
        ),
        ({"data.decoders": 0}, r"decoders = 0: takes 1 to 64"),
        ({"data.cache": "disk"}, r"cache = 'disk': takes none, memory, device"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        override(TrainConfig(), changes)  # type: ignore[arg-type]
