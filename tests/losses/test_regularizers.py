"""Terms over centers and views, re-derived by slow loops; gradients by central differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facerec.config import Component
from facerec.domains import Scalar
from facerec.head import ClassificationHead, build_head
from facerec.losses import uniformface
from facerec.losses.contraface import Contrast
from facerec.losses.unitsface import SampleToSample
from facerec.parallel import ClassShard
from facerec.rows import of_each_class, rows_of
from tests.losses.test_formulas import Array, by_differences, cosine, log1pexp

CLASSES, SIZE = 6, 4
LABELS = [0, 3, 3, 5]


def make(loss: str = "cosface", **args: Scalar) -> ClassificationHead:
    head = build_head(Component(loss, args), ClassShard(CLASSES), SIZE).double()
    assert isinstance(head, ClassificationHead)
    with torch.no_grad():
        head.centers.copy_(torch.randn(CLASSES, SIZE))
    return head


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, SIZE, dtype=torch.float64)


def check_centers(head: ClassificationHead, slow: Callable[[Array], float]) -> None:
    """The regularizer alone: value, and gradient to the centers."""
    assert head.regularizer is not None
    x, labels = rows(1, len(LABELS)), torch.tensor(LABELS)
    term = head.regularizer(head, x, labels)
    term.backward()
    centers = head.centers.detach().numpy()
    assert float(term.detach()) == pytest.approx(slow(centers), rel=1e-12)
    assert head.centers.grad is not None
    expected = by_differences(slow, centers)
    np.testing.assert_allclose(head.centers.grad, expected, atol=1e-8)


def repulsion(w: Array, met: list[int]) -> float:
    total = sum(1 / (math.dist(w[i], w[j]) + 1) for n, i in enumerate(met) for j in met[n + 1 :])
    return total / (len(met) * (len(met) - 1))


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("block", [1024, 4])
def test_uniform(in_batch: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uniformface, "_BLOCK", block)
    met = sorted(set(LABELS)) if in_batch else list(range(CLASSES))
    head = make(regularizer="uniform", alpha=0.3, in_batch=in_batch)
    check_centers(head, lambda w: 0.3 * repulsion(w, met))


def test_uniform_of_one_class_is_zero_and_of_equal_centers_finite() -> None:
    head = make(regularizer="uniform")
    assert head.regularizer is not None
    alone = head.regularizer(head, rows(1, 2), torch.tensor([2, 2]))
    assert float(alone.detach()) == 0.0
    with torch.no_grad():
        head.centers.copy_(torch.ones(CLASSES, SIZE))
    same = head.regularizer(head, rows(1, 2), torch.tensor([1, 2]))
    same.backward()
    assert float(same.detach()) == pytest.approx(0.5)
    assert head.centers.grad is not None
    assert not head.centers.grad.any()


def test_uniform_moves_centers_before_the_batch_meets_them() -> None:
    head = make(regularizer="uniform", alpha=0.0, beta=0.1)
    x, before = rows(len(LABELS)), head.centers.detach().clone()
    head(x, torch.tensor(LABELS))
    for label in range(CLASSES):
        own = [n for n, y in enumerate(LABELS) if y == label]
        step = sum((before[label] - x[n] for n in own), torch.zeros(SIZE, dtype=torch.float64))
        expected = before[label] - 0.1 * step / (len(own) + 1)
        torch.testing.assert_close(head.centers[label].detach(), expected)
    head.eval()
    after = head.centers.detach().clone()
    head(x, torch.tensor(LABELS))
    assert torch.equal(after, head.centers)


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("block", [1024, 4])
def test_exclusive(in_batch: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uniformface, "_BLOCK", block)
    met = sorted(set(LABELS)) if in_batch else list(range(CLASSES))

    def slow(w: Array) -> float:
        nearest = [max(cosine(w[i], w[j]) for j in met if j != i) for i in met]
        return 0.7 * sum(nearest) / len(nearest)

    check_centers(make(regularizer="exclusive", exclusive_weight=0.7, in_batch=in_batch), slow)


def contrast_by_hand(x: Array, labels: list[int], margin: float, scale: float) -> float:
    total = 0.0
    for i, label in enumerate(labels):
        row = [
            0.0 if j != i and labels[j] == label else cosine(x[0, i], x[1, j])
            for j in range(len(labels))
        ]
        row[i] -= margin
        total += math.log(sum(math.exp(scale * (c - row[i])) for c in row))
    return total / len(labels)


def gap_by_hand(x: Array, labels: list[int]) -> float:
    gaps = []
    for i, label in enumerate(labels):
        rivals = [
            0.0 if labels[j] == label else cosine(x[0, i], x[1, j])
            for j in range(len(labels))
            if j != i
        ]
        gaps.append(cosine(x[0, i], x[1, i]) - max(0.0, *rivals))
    return sum(gaps) / len(gaps)


def test_contrast() -> None:
    part = Contrast(contrast_weight=0.2, contrast_scale=8.0, contrast_momentum=0.75).double()
    head, margin = make(), 0.0
    for _ in range(3):
        x = rows(2, len(LABELS)).requires_grad_()
        given = x.detach().numpy()
        margin = 0.75 * margin + 0.25 * gap_by_hand(given, LABELS)
        term = part(head, x, torch.tensor(LABELS))
        term.backward()
        assert float(part.contrast_margin) == pytest.approx(margin)

        def slow(at: Array, margin: float = margin) -> float:
            return 0.2 * contrast_by_hand(at, LABELS, margin, 8.0)

        assert float(term.detach()) == pytest.approx(slow(given))
        assert x.grad is not None
        np.testing.assert_allclose(x.grad, by_differences(slow, given), atol=1e-8)
    part.eval()
    part(head, rows(2, len(LABELS)), torch.tensor(LABELS))
    assert float(part.contrast_margin) == pytest.approx(margin)


def test_contrast_in_groups() -> None:
    labels, x = [0, 1, 0, 2, 1], rows(2, 5)
    part = Contrast(contrast_weight=1.0, contrast_group=2, contrast_momentum=0.0).double()
    term = part(make(), x, torch.tensor(labels))
    groups = [(0, 2), (2, 4), (4, 5)]
    margin = sum(
        (high - low) * gap_by_hand(x[:, low:high].numpy(), labels[low:high])
        for low, high in groups[:2]
    )
    margin += cosine(x[0, 4].numpy(), x[1, 4].numpy())
    total = sum(
        (high - low) * contrast_by_hand(x[:, low:high].numpy(), labels[low:high], margin / 5, 64)
        for low, high in groups
    )
    assert float(term) == pytest.approx(total / 5)


def test_two_views_share_the_classification_loss() -> None:
    head = make("contraface", contrast_weight=0.0)
    x, labels = rows(2, len(LABELS)), torch.tensor(LABELS)
    assert head.views == 2
    apart = [float(make_like(head)(x[v], labels).loss.detach()) for v in (0, 1)]
    assert float(head(x, labels).loss.detach()) == pytest.approx(sum(apart) / 2)
    with pytest.raises(ValueError, match=r"needs \(2, b, 4\)"):
        head(x[0], labels)
    head.eval()
    assert bool(head(x[0], labels).loss.isfinite())


def make_like(head: ClassificationHead) -> ClassificationHead:
    plain = make("arcface")
    with torch.no_grad():
        plain.centers.copy_(head.centers)
    return plain


def test_a_regularizer_waits_for_its_start() -> None:
    head = make("contraface", regularizer_start=0.5)
    labels = torch.tensor(LABELS)
    head.progress = 0.4
    assert head.views == 1
    assert "contrast" not in head(rows(len(LABELS)), labels).terms
    head.progress = 0.5
    assert head.views == 2
    assert "contrast" in head(rows(2, len(LABELS)), labels).terms


def test_sample_to_sample() -> None:
    head = make("unitsface", pair_margin=0.2, pair_scale=8.0, pair_weight=0.5)
    part = head.regularizer
    assert isinstance(part, SampleToSample)
    memory: dict[int, Array] = {}
    bias = None
    for labels in ([0, 3, 3], [1, 0, 4], [3, 5, 4]):
        x = rows(len(labels)).requires_grad_()
        given = x.detach().numpy()
        if bias is None and memory:
            sums = [
                math.log(sum(math.exp(8 * cosine(row, f)) for j, f in memory.items() if j != y))
                for row, y in zip(given, labels, strict=True)
            ]
            bias = sum(sums) / len(sums)

        def slow(at: Array, labels: list[int] = labels, bias: float = bias or 0.0) -> float:
            total = 0.0
            for row, y in zip(at, labels, strict=True):
                for j, f in memory.items():
                    z = 8 * (cosine(row, f) - 0.2 * (j == y)) - bias
                    z = min(max(z, -8.0), 8.0)
                    total += log1pexp(-z if j == y else z)
            return 0.5 * total / len(labels)

        output = head(x, torch.tensor(labels))
        term = output.terms["sample_to_sample"]
        assert float(term.detach()) == pytest.approx(slow(given), rel=1e-10)
        (gradient,) = torch.autograd.grad(term, x, retain_graph=True)
        np.testing.assert_allclose(gradient, by_differences(slow, given), atol=1e-7)
        for row, y in zip(given, labels, strict=True):
            memory[y] = row.copy()  # of two images of a class the later one stays
        assert part.seen.tolist() == [j in memory for j in range(CLASSES)]
        for j, f in memory.items():
            assert torch.equal(part.memory[j], torch.from_numpy(f))
    assert bias is not None
    assert part.objective.bias is not None
    assert float(part.objective.bias.detach()) == pytest.approx(bias)


def test_an_empty_memory_starts_no_bias() -> None:
    head = make("unitsface")
    part = head.regularizer
    assert isinstance(part, SampleToSample)
    output = head(rows(2), torch.tensor([1, 1]))
    assert float(output.terms["sample_to_sample"].detach()) == 0.0
    assert part.objective.awaits_data
    head(rows(2), torch.tensor([1, 1]))  # nothing but its own class to be compared with
    assert part.objective.awaits_data
    head(rows(2), torch.tensor([2, 3]))
    assert not part.objective.awaits_data


def test_regularizers_train_their_own_bias() -> None:
    groups = make("unitsface").parameter_groups()
    assert [len(group["params"]) for group in groups] == [1, 1]
    assert make("unitsface").class_axis == {"centers", "regularizer.memory", "regularizer.seen"}


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 3), (2, 3)])
def test_rows_of_each_class(rank: int, world_size: int) -> None:
    shard, labels = ClassShard(7, rank, world_size), torch.tensor([6, 0, 3, 3, 5])
    index, same = of_each_class(shard, labels)
    for n, label in enumerate(labels.tolist()):
        own = min(max(label, shard.start), shard.stop - 1)
        assert int(index[n]) == own - shard.start
        assert same[n].tolist() == [y == own for y in labels.tolist()]


def test_rows_of_classes_that_live_elsewhere_are_left_to_others() -> None:
    local: Any = torch.arange(6.0).reshape(3, 2)
    shard = ClassShard(8, 1, 3)  # holds 3, 4, 5
    found = rows_of(shard, local, torch.tensor([4, 0, 7, 5]))
    assert found.tolist() == [[2.0, 3.0], [0.0, 0.0], [0.0, 0.0], [4.0, 5.0]]
