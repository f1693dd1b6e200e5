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
from facerec.head import ClassificationHead, Head, build_head
from facerec.losses import LOSSES, OBJECTIVES, REGULARIZERS, keywords
from facerec.parallel import ClassShard

CLASSES, SIZE = 6, 8
COMPOSABLE = [loss for loss, spec in LOSSES.items() if spec.composable]
PRODUCT = [(loss, {"objective": objective}) for loss in COMPOSABLE for objective in OBJECTIVES]
PRODUCT += [(loss, {}) for loss in LOSSES if loss not in COMPOSABLE]
EVERY = pytest.mark.parametrize(
    ("loss", "args"), PRODUCT, ids=["-".join([loss, *args.values()]) for loss, args in PRODUCT]
)
Args = Mapping[str, Scalar]


def make(loss: str, args: Args | None = None, classes: int = CLASSES, **head: Any) -> Head:
    return build_head(Component(loss, args or {}), ClassShard(classes), SIZE, **head)


def step(head: Head, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient of rows; where the head wants two views, the second is a scaled one."""
    views = x if head.views == 1 else torch.stack([x, 0.5 * x])
    views = views.clone().requires_grad_()
    head.zero_grad()
    output = head(views, labels)
    output.loss.backward()
    assert views.grad is not None
    return output.loss.detach(), views.grad


def assert_finite(head: Head, x: Tensor, labels: Tensor) -> None:
    loss, gradient = step(head, x, labels)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name


@EVERY
@pytest.mark.parametrize("storage", ["free", "unit"])
def test_finite_at_the_ends_of_the_cosine(loss: str, args: Args, storage: str) -> None:
    for dtype in (torch.float32, torch.float64):
        ulp = torch.finfo(dtype).eps / 2
        cos = torch.tensor([1.0, -1.0, 1 - ulp, -1 + ulp, 0.0, 1.0], dtype=dtype)
        x = torch.zeros(6, SIZE, dtype=dtype)
        x[:, 0], x[:, 1] = cos, torch.sqrt(1 - cos * cos)
        head = make(loss, args, center_storage=storage).to(dtype)
        for norm in (1e-4, 1.0, 1e4):
            with torch.no_grad():
                head.centers.copy_(torch.eye(CLASSES, SIZE))
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


@EVERY
def test_zero_embeddings_have_a_finite_loss_and_a_small_gradient(loss: str, args: Args) -> None:
    head = make(loss, args)
    x = torch.zeros(2, SIZE)
    assert_finite(head, x, torch.tensor([0, 1]))
    assert float(step(head, x, torch.tensor([0, 1]))[1].abs().max()) <= 1


@pytest.mark.slow
@EVERY
def test_half_precision_around_the_head_changes_only_the_input(loss: str, args: Args) -> None:
    for half in (torch.bfloat16, torch.float16):
        head = make(loss, args)
        x, labels = torch.randn(4, SIZE).to(half), torch.tensor([0, 1, 1, 5])
        plain, _ = step(copy.deepcopy(head), x.float(), labels)
        with torch.autocast("cpu", half):
            found, gradient = step(head, x, labels)
        assert found.dtype == torch.float32
        assert gradient.dtype == half
        torch.testing.assert_close(found, plain)


@EVERY
def test_one_row_and_one_class(loss: str, args: Args) -> None:
    for rate in (1.0, 0.3):
        head = make(loss, args, sample_rate=rate)
        assert_finite(head, torch.randn(1, SIZE), torch.tensor([3]))
        assert_finite(head, torch.randn(4, SIZE), torch.tensor([3, 3, 3, 3]))
        assert_finite(head, torch.randn(4, SIZE), torch.tensor([0, 3, 1, 3]))


@pytest.mark.slow
@pytest.mark.parametrize("loss", COMPOSABLE)
@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_the_whole_product_is_finite(loss: str, regularizer: str) -> None:
    """Any margin with any objective and any regularizer, sampled, with a queue."""
    labels = torch.tensor([0, 3, 3, 5])
    for objective in OBJECTIVES:
        args = {"objective": objective, "regularizer": regularizer}
        head = make(loss, args, sample_rate=0.5, queue_size=6)
        for norm in (30.0, 0.1):
            assert_finite(head, norm * torch.randn(4, SIZE), labels)


@pytest.mark.parametrize("loss", COMPOSABLE)
def test_parts_put_together_by_hand_are_the_loss(loss: str) -> None:
    """An entry of the table is what its parts give when another loss with its margin asks."""
    spec = LOSSES[loss]
    for other in COMPOSABLE:
        if LOSSES[other].margin is not spec.margin:
            continue
        ours = make(loss, queue_size=4)
        theirs = make(other, keywords(loss), queue_size=4)
        for _ in range(3):
            x, labels = torch.randn(4, SIZE), torch.tensor([0, 1, 1, 5])
            found, expected = step(ours, x, labels), step(theirs, x, labels)
            assert torch.equal(found[0], expected[0]), other
            assert torch.equal(found[1], expected[1]), other


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_handed_in_is_changed(loss: str) -> None:
    head = make(loss)
    x, labels, centers = torch.randn(4, SIZE), torch.tensor([0, 1, 1, 5]), head.centers.clone()
    before = x.clone(), labels.clone()
    step(head, x, labels)
    assert torch.equal(x, before[0])
    assert torch.equal(labels, before[1])
    assert torch.equal(head.centers, centers)


@EVERY
def test_state_survives_a_state_dict(loss: str, args: Args) -> None:
    if args.get("objective") in ("unified", "binary"):
        args = {**args, "bias_init": "logsumexp"}
    first, second = (make(loss, args, sample_rate=0.5, queue_size=6) for _ in range(2))
    x, labels = torch.randn(4, SIZE), torch.tensor([0, 1, 1, 5])
    for _ in range(3):
        step(first, torch.randn(4, SIZE), labels)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        ours, theirs = step(first, x, labels), step(second, x, labels)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(
    "loss",  # sphereface_r's factor on the angle rises from 1, in a test of its own
    [
        loss
        for loss in COMPOSABLE
        if {"margin_warmup", "margin"} <= keywords(loss).keys() and loss != "sphereface_r"
    ],
)
def test_margin_warmup(loss: str) -> None:
    plain = keywords(loss)["margin"]
    assert isinstance(plain, float)
    x, labels = torch.randn(4, SIZE), torch.tensor([0, 1, 1, 5])
    alone: Args = {"regularizer": "none"}
    rising = make(loss, {**alone, "margin_warmup": 0.4})
    for progress, share in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
        rising.progress = progress
        before = copy.deepcopy(rising.state_dict())
        fixed = make(loss, {**alone, "margin": plain * share})
        fixed.load_state_dict(before)
        torch.testing.assert_close(step(rising, x, labels)[0], step(fixed, x, labels)[0])


def test_without_a_scale_nothing_is_clipped() -> None:
    head = make("softmax", {"objective": "unified"})
    assert isinstance(head, ClassificationHead)
    with torch.no_grad():
        head.centers.copy_(3 * torch.eye(CLASSES, SIZE))
    loss, gradient = step(head, 10 * torch.eye(SIZE)[[0]], torch.tensor([1]))
    assert float(loss) > 20
    assert float(gradient[0, 0]) > 1
