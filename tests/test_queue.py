"""The queue of past embeddings: order, overflow, compensation, and what learns from what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from facerec.config import Component
from facerec.head import ClassificationHead, build_head
from facerec.parallel import ClassShard
from facerec.queue import EmbeddingQueue

CLASSES, SIZE = 6, 4


def rows(count: int) -> Tensor:
    return torch.randn(count, SIZE, dtype=torch.float64)


@pytest.mark.parametrize("size", [3, 4, 7, 20])
def test_the_oldest_go_first(size: int) -> None:
    queue = EmbeddingQueue(size, SIZE).double()
    past: list[tuple[Tensor, int, Tensor]] = []
    for step, count in enumerate([4, 2, 9, 1, 4]):
        x, labels, centers = rows(count), torch.arange(count) + 10 * step, rows(count)
        queue.push(x, labels, centers)
        past += list(zip(x, labels.tolist(), centers, strict=True))
        kept = past[-size:]
        assert queue.past_labels().tolist() == [label for _, label, _ in kept]
        assert torch.equal(queue.embeddings[queue.order()], torch.stack([x for x, _, _ in kept]))
        assert torch.equal(queue.centers[queue.order()], torch.stack([w for *_, w in kept]))
        assert int(queue.written) == len(past)


def test_compensation_moves_an_embedding_with_its_center() -> None:
    queue = EmbeddingQueue(5, SIZE).double()
    x, then, now = rows(3), rows(3), rows(3)
    then[2] = 0.0
    queue.push(x, torch.tensor([0, 1, 2]), then)
    found = queue.past(now)
    for n in (0, 1):
        torch.testing.assert_close(found[n], x[n] + x[n].norm() / then[n].norm() * (now - then)[n])
    assert torch.equal(found[2], x[2])
    assert torch.equal(queue.past(then), x)
    plain = EmbeddingQueue(5, SIZE, compensate=False).double()
    plain.push(x, torch.tensor([0, 1, 2]), then)
    assert torch.equal(plain.past(now), x)


def head(loss: str = "cosface", **keywords: object) -> ClassificationHead:
    made = build_head(Component(loss), ClassShard(CLASSES), SIZE, **keywords).double()  # type: ignore[arg-type]
    assert isinstance(made, ClassificationHead)
    return made


def test_the_backbone_learns_from_the_batch_and_the_centers_from_all() -> None:
    wide, plain = head(queue_size=8, queue_compensate=False), head()
    first, labels = rows(3), torch.tensor([0, 1, 1])
    wide(first, labels)
    x, more = rows(2).requires_grad_(), torch.tensor([4, 0])
    output = wide(x, more)
    output.loss.backward()
    assert x.grad is not None

    alone = x.detach().clone().requires_grad_()
    expected = plain(alone, more)
    expected.loss.backward()
    torch.testing.assert_close(x.grad, alone.grad)
    torch.testing.assert_close(output.terms["softmax"], expected.terms["softmax"])

    plain.centers.grad = None
    both = plain(torch.cat([first, x.detach()]), torch.cat([labels, more]))
    both.loss.backward()
    torch.testing.assert_close(output.terms["broad"], both.loss)
    torch.testing.assert_close(wide.centers.grad, plain.centers.grad)


def test_the_queue_fills_before_it_is_used() -> None:
    made = head(queue_size=8, queue_start=0.5)
    made.progress = 0.2
    assert "broad" not in made(rows(3), torch.tensor([0, 1, 2])).terms
    made.progress = 0.5
    assert "broad" in made(rows(1), torch.tensor([0])).terms
    assert made.queue is not None
    assert int(made.queue.written) == 4


def test_broadface_brings_its_queue_and_an_explicit_size_wins() -> None:
    queue = head("broadface").queue
    assert queue is not None
    assert queue.size == 32_000
    smaller = head("broadface", queue_size=16).queue
    assert smaller is not None
    assert smaller.size == 16
    assert head("broadface", queue_size=0).queue is None
    assert head("arcface").queue is None


def test_queued_classes_are_among_the_sampled() -> None:
    made = head(queue_size=8, sample_rate=0.2)
    made(rows(3), torch.tensor([0, 1, 2]))
    met: list[Tensor] = []
    own = made.sample

    def sample(labels: Tensor) -> Tensor:
        met.append(own(labels))
        return met[-1]

    made.sample = sample  # type: ignore[method-assign]
    made(rows(1), torch.tensor([5]))
    assert set(met[0].tolist()) >= {0, 1, 2, 5}


def test_impossible_queues_are_refused() -> None:
    with pytest.raises(ValueError, match="queue_size = -1"):
        head(queue_size=-1)
    with pytest.raises(ValueError, match=r"queue_start = 1\.5"):
        head(queue_start=1.5)
