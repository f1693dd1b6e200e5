"""What every loss promises, over the whole tables: finite numbers, saved state, warm-up."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from facerec.config import Component
from facerec.domains import Scalar
from facerec.head import ClassificationHead, build_head
from facerec.losses import LOSSES, OBJECTIVES, keywords
from facerec.parallel import ClassShard

CLASSES, SIZE = 6, 8
PRODUCT = [(loss, objective) for loss in LOSSES for objective in OBJECTIVES]


def make(loss: str, args: Mapping[str, Scalar] | None = None, **head: Any) -> ClassificationHead:
    return build_head(Component(loss, args or {}), ClassShard(CLASSES), SIZE, **head)


def step(head: ClassificationHead, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    head.zero_grad()
    output = head(x, labels)
    output.loss.backward()
    assert x.grad is not None
    return output.loss.detach(), x.grad


def assert_finite(head: ClassificationHead, x: Tensor, labels: Tensor) -> None:
    loss, gradient = step(head, x, labels)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize(("loss", "objective"), PRODUCT)
@pytest.mark.parametrize("storage", ["free", "unit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_the_ends_of_the_cosine(
    loss: str, objective: str, storage: str, dtype: torch.dtype
) -> None:
    ulp = torch.finfo(dtype).eps / 2
    head = make(loss, {"objective": objective}, center_storage=storage).to(dtype)
    with torch.no_grad():
        head.centers.copy_(torch.eye(CLASSES, SIZE))
    x = torch.zeros(6, SIZE, dtype=dtype)
    x[:, 0] = torch.tensor([1.0, -1.0, 1 - ulp, -1 + ulp, 0.0, 1.0])
    x[4, 7] = 1.0
    for norm in (1e-4, 1.0, 1e4):
        assert_finite(head, norm * x, torch.zeros(6, dtype=torch.int64))


@pytest.mark.parametrize("rule", ["none", "easy", "linear", "clip"])
@pytest.mark.parametrize("gradient", ["exact", "detached"])
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_arcface_is_finite_at_the_ends_by_every_rule(rule: str, gradient: str, eps: float) -> None:
    args: dict[str, Scalar] = {"past_pi": rule, "gradient": gradient, "cosine_eps": eps}
    head = make("arcface", args)
    with torch.no_grad():
        head.centers.copy_(torch.eye(CLASSES, SIZE))
    x = torch.eye(SIZE)[[0, 0, 1]] * torch.tensor([[2.0], [-3.0], [1.0]])
    assert_finite(head, x, torch.tensor([0, 0, 1]))


@pytest.mark.parametrize(("loss", "objective"), PRODUCT)
def test_zero_embeddings_have_a_finite_loss_and_a_small_gradient(loss: str, objective: str) -> None:
    head = make(loss, {"objective": objective})
    x = torch.zeros(2, SIZE)
    assert_finite(head, x, torch.tensor([0, 1]))
    assert float(step(head, x, torch.tensor([0, 1]))[1].abs().max()) <= 1


@pytest.mark.parametrize(("loss", "objective"), PRODUCT)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_around_the_head_changes_only_the_input(
    loss: str, objective: str, half: torch.dtype
) -> None:
    head = make(loss, {"objective": objective})
    x, labels = torch.randn(4, SIZE).to(half), torch.tensor([0, 1, 1, 5])
    plain, _ = step(copy.deepcopy(head), x.float(), labels)
    with torch.autocast("cpu", half):
        found, gradient = step(head, x, labels)
    assert found.dtype == torch.float32
    assert gradient.dtype == half
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize(("loss", "objective"), PRODUCT)
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_one_row_and_one_class(loss: str, objective: str, rate: float) -> None:
    head = make(loss, {"objective": objective}, sample_rate=rate)
    assert_finite(head, torch.randn(1, SIZE), torch.tensor([3]))
    assert_finite(head, torch.randn(4, SIZE), torch.tensor([3, 3, 3, 3]))


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_handed_in_is_changed(loss: str) -> None:
    head = make(loss)
    x, labels, centers = torch.randn(4, SIZE), torch.tensor([0, 1, 1, 5]), head.centers.clone()
    before = x.clone(), labels.clone()
    step(head, x, labels)
    assert torch.equal(x, before[0])
    assert torch.equal(labels, before[1])
    assert torch.equal(head.centers, centers)


@pytest.mark.parametrize(("loss", "objective"), PRODUCT)
def test_state_survives_a_state_dict(loss: str, objective: str) -> None:
    args: dict[str, Scalar] = {"objective": objective}
    if objective != "softmax":
        args["bias_init"] = "logsumexp"
    first, second = make(loss, args, sample_rate=0.5), make(loss, args, sample_rate=0.5, seed=0)
    x, labels = torch.randn(4, SIZE), torch.tensor([0, 1, 1, 5])
    for _ in range(3):
        step(first, x, labels)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    second.load_state_dict(first.state_dict())
    ours, theirs = step(first, x, labels), step(second, x, labels)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("loss", [n for n in LOSSES if "margin_warmup" in keywords(n)])
def test_margin_warmup(loss: str) -> None:
    plain = keywords(loss)["margin"]
    assert isinstance(plain, float)
    x, labels = torch.randn(4, SIZE), torch.tensor([0, 1, 1, 5])
    rising = make(loss, {"margin_warmup": 0.4})
    for progress, share in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
        rising.progress = progress
        fixed = make(loss, {"margin": plain * share})
        torch.testing.assert_close(step(rising, x, labels)[0], step(fixed, x, labels)[0])


def test_without_a_scale_nothing_is_clipped() -> None:
    head = make("softmax", {"objective": "unified"})
    with torch.no_grad():
        head.centers.copy_(3 * torch.eye(CLASSES, SIZE))
    loss, gradient = step(head, 10 * torch.eye(SIZE)[[0]], torch.tensor([1]))
    assert float(loss) > 20
    assert float(gradient[0, 0]) > 1
