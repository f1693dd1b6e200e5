"""Losses re-derived by slow loops in NumPy: values, and gradients by central differences.

The others have files of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facerec.config import Component
from facerec.domains import Scalar
from facerec.head import ClassificationHead, build_head
from facerec.losses import keywords
from facerec.losses.arcface import ArcFace
from facerec.losses.base import Margin, angle, softplus
from facerec.losses.cosface import CosFace
from facerec.parallel import ClassShard

Array = NDArray[np.float64]
ROWS, CLASSES, SIZE = 5, 7, 4


def log1pexp(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def dot(a: Array, b: Array) -> float:
    return sum(float(u) * float(v) for u, v in zip(a, b, strict=True))


def cosine(a: Array, b: Array) -> float:
    return dot(a, b) / math.sqrt(dot(a, a)) / math.sqrt(dot(b, b))


def clamp(value: float, eps: float) -> float:
    return min(max(value, -1 + eps), 1 - eps)


def target_cosine(c: float, kind: str, args: dict[str, Any]) -> float:
    """What the margin makes of the target's cosine."""
    m, eps = float(args.get("margin", 0.0)), float(args.get("cosine_eps", 0.0))
    c = clamp(c, eps)
    if kind in ("softmax", "normface"):
        return c
    if kind != "arcface":
        return c - m
    rule = args["past_pi"]
    theta = math.acos(c)
    if rule == "easy" and c <= 0:
        return c
    if rule == "linear" and theta + m >= math.pi:
        return c - m * math.sin(m)
    if rule == "clip":
        return math.cos(min(max(theta + m, eps), math.pi - eps))
    return math.cos(theta + m)


def slow_loss(loss: str, args: dict[str, Any], x: Array, w: Array, y: list[int], b: Array) -> float:
    """The loss of a batch, one row and one class at a time; `b` holds one bias or one per class."""
    objective, scale = args["objective"], float(args.get("scale", 1.0))
    total = 0.0
    for row, label in zip(x, y, strict=True):
        logits = []
        for j, center in enumerate(w):
            if loss == "softmax":
                z = dot(row, center)
            elif j == label:
                z = scale * target_cosine(cosine(row, center), loss, args)
            else:
                z = scale * clamp(cosine(row, center), args.get("cosine_eps", 0.0))
            if objective != "softmax":
                z -= float(b[j if len(b) > 1 else 0])
                if args["logit_clip"] == "s" and loss != "softmax":
                    z = min(max(z, -scale), scale)
            logits.append(z)
        if objective == "softmax":
            top = max(logits)
            total += top + math.log(sum(math.exp(z - top) for z in logits)) - logits[label]
        else:
            total += log1pexp(-logits[label])
            for j, z in enumerate(logits):
                if j != label:
                    total += args["negative_weight"] * log1pexp(z)
    return total / len(x)


def by_differences(f: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """The gradient of `f` by central differences."""
    found = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        found[index] = (f(up) - f(down)) / (2 * step)
    return found


def settings() -> list[tuple[str, dict[str, Scalar]]]:
    product: list[tuple[str, dict[str, Scalar]]] = [
        (loss, {"objective": objective})
        for loss in ("softmax", "normface", "cosface", "arcface", "uniface", "uniface_bce")
        for objective in ("softmax", "unified", "binary")
    ]
    for objective in ("unified", "binary"):
        more: dict[str, Scalar] = {"objective": objective, "logit_clip": "none"}
        product.append(("uniface", more | {"negative_weight": 0.3, "scale": 12.0}))
        product.append(("arcface", {"objective": objective, "scale": 4.0}))
    for rule in ("none", "easy", "linear", "clip"):
        product.append(("arcface", {"past_pi": rule, "margin": 1.4, "scale": 8.0}))
    product.append(("arcface", {"past_pi": "clip", "cosine_eps": 0.1, "scale": 8.0}))
    product.append(("cosface", {"cosine_eps": 0.1}))
    return product


def make(loss: str, args: dict[str, Scalar]) -> tuple[ClassificationHead, dict[str, Any]]:
    head = build_head(Component(loss, args), ClassShard(CLASSES), SIZE).double()
    assert isinstance(head, ClassificationHead)
    values = {**keywords(loss, args), **args}
    return head, values


@pytest.mark.parametrize(("loss", "args"), settings(), ids=str)
def test_value_and_gradients(loss: str, args: dict[str, Scalar]) -> None:
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((ROWS, SIZE)), rng.standard_normal((CLASSES, SIZE))
    y = [0, 3, 3, 6, 1]
    w[6] = -1.1 * x[3] + 0.2 * rng.standard_normal(SIZE)  # an angle past pi with its margin
    head, values = make(loss, args)
    b = rng.uniform(1.0, 3.0, CLASSES if head.bias is not None else 1)
    bias = head.objective.bias if head.bias is None else head.bias
    with torch.no_grad():
        head.centers.copy_(torch.from_numpy(w))
        if bias is not None:
            bias.copy_(torch.from_numpy(b))
    embeddings = torch.from_numpy(x).requires_grad_()
    output = head(embeddings, torch.tensor(y))
    output.loss.backward()

    assert float(output.loss.detach()) == pytest.approx(slow_loss(loss, values, x, w, y, b))
    assert embeddings.grad is not None
    assert head.centers.grad is not None
    expected = [
        (embeddings.grad, by_differences(lambda v: slow_loss(loss, values, v, w, y, b), x)),
        (head.centers.grad, by_differences(lambda v: slow_loss(loss, values, x, v, y, b), w)),
    ]
    if bias is not None:
        assert bias.grad is not None
        slow = by_differences(lambda v: slow_loss(loss, values, x, w, y, v), b)
        expected.append((bias.grad, slow))
    for ours, theirs in expected:
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-7 * max(1, abs(theirs).max()))


@pytest.mark.parametrize("rule", ["none", "easy", "linear", "clip"])
def test_detached_gradient_is_one_and_the_value_is_the_exact_one(rule: Any) -> None:
    cos = torch.linspace(-1, 1, 41, dtype=torch.float64).requires_grad_()
    norm = torch.ones(41, dtype=torch.float64)
    detached = ArcFace(gradient="detached", past_pi=rule).target(cos, norm)
    exact = ArcFace(gradient="exact", past_pi=rule).target(cos, norm)
    torch.testing.assert_close(detached, exact)
    (slope,) = torch.autograd.grad(detached.sum(), cos)
    assert slope.tolist() == [1.0] * 41


@pytest.mark.parametrize(("gradient", "slope"), [("exact", 0.0), ("detached", 1.0)])
def test_clamped_others_have_the_value_at_the_limit(gradient: Any, slope: float) -> None:
    cos = torch.tensor([[0.95, -1.0, 0.5]], dtype=torch.float64).requires_grad_()
    margin = ArcFace(gradient=gradient, cosine_eps=0.1)
    clamped = margin.others(cos, cos[:, 0].detach(), cos[:, 0].detach())
    torch.testing.assert_close(clamped, torch.tensor([[0.9, -0.9, 0.5]], dtype=torch.float64))
    (found,) = torch.autograd.grad(clamped.sum(), cos)
    assert found.tolist() == [[slope, slope, 1.0]]


def test_exact_gradient_is_the_ratio_of_sines() -> None:
    theta = torch.linspace(1e-4, 2.6, 50, dtype=torch.float64)
    cos = torch.cos(theta).requires_grad_()
    (slope,) = torch.autograd.grad(ArcFace().target(cos, cos.detach()).sum(), cos)
    torch.testing.assert_close(slope, torch.sin(theta + 0.5) / torch.sin(theta), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("margin", "degrees", "expected"),
    [
        (ArcFace(margin=math.radians(30)), 60, math.cos(math.radians(90))),
        (ArcFace(margin=math.radians(30)), 0, math.cos(math.radians(30))),
        (ArcFace(margin=math.radians(30), past_pi="none"), 180, -math.cos(math.radians(30))),
        (ArcFace(margin=math.radians(30), past_pi="clip"), 160, -1.0),
        (ArcFace(margin=math.radians(30), past_pi="easy"), 120, -0.5),
        (ArcFace(margin=math.radians(30)), 180, -1.0 - math.radians(30) / 2),
        (CosFace(margin=0.35), 60, 0.15),
    ],
)
def test_known_angles(margin: Margin, degrees: float, expected: float) -> None:
    cos = torch.tensor([math.cos(math.radians(degrees))], dtype=torch.float64)
    assert float(margin.target(cos, cos)) == pytest.approx(expected, abs=1e-12)


def test_linear_rule_keeps_falling_past_pi() -> None:
    cos = torch.cos(torch.linspace(0, math.pi, 1000, dtype=torch.float64))
    assert bool((ArcFace(margin=0.5).target(cos, cos).diff() < 0).all())
    assert not bool((ArcFace(margin=0.5, past_pi="none").target(cos, cos).diff() < 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angle_is_exact_at_the_ends_and_unchanged_between(dtype: torch.dtype) -> None:
    ulp = torch.finfo(dtype).eps / 2
    cos = torch.tensor([-1.0, -1 + ulp, 0.0, 1 - ulp, 1.0, 1 + 2 * ulp], dtype=dtype)
    cos.requires_grad_()
    theta = angle(cos)
    expected = [math.acos(min(float(c), 1.0)) for c in cos.detach()]
    torch.testing.assert_close(theta.detach(), torch.tensor(expected, dtype=dtype))
    (slope,) = torch.autograd.grad(theta.sum(), cos)
    assert bool(slope.isfinite().all())
    assert (slope == 0).tolist() == [True, False, False, False, True, True]


def test_softplus_is_exact_far_out() -> None:
    z = torch.tensor([-torch.inf, -800.0, -30.0, 0.0, 25.0, 39.0, 41.0, 800.0], dtype=torch.float64)
    expected = [0.0, *(log1pexp(v) for v in z.tolist()[1:])]
    torch.testing.assert_close(
        softplus(z), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0
    )


def test_the_target_is_masked_after_the_clip() -> None:
    """Masked before it, each row would gain log(1 + exp(-4)) = 0.018 at scale 4."""
    component = Component("uniface", {"scale": 4.0, "margin": 0.0, "bias_init": "zero"})
    head = build_head(component, ClassShard(2), 2).double()
    with torch.no_grad():
        head.centers.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    loss = head(torch.tensor([[3.0, 0.0]], dtype=torch.float64), torch.tensor([0])).loss
    assert float(loss.detach()) == pytest.approx(log1pexp(-4.0) + log1pexp(0.0), abs=1e-12)


def test_the_mask_is_minus_infinity() -> None:
    """With a mask of -1e4 the target's own column would win over logits below that."""
    head = build_head(Component("softmax"), ClassShard(2), 1).double()
    with torch.no_grad():
        head.centers.copy_(torch.tensor([[-2.0], [-3.0]]))
    x = torch.tensor([[1e4]], dtype=torch.float64)
    assert float(head(x, torch.tensor([0])).loss.detach()) == pytest.approx(0.0, abs=1e-12)
    assert float(head(x, torch.tensor([1])).loss.detach()) == pytest.approx(1e4)


def test_normface_bound() -> None:
    """At its best, all centers apart as a simplex, the unscaled loss is the paper's bound."""
    classes = 4
    simplex = torch.eye(classes, dtype=torch.float64) - 1 / classes
    head = build_head(Component("normface", {"scale": 1.0}), ClassShard(classes), classes).double()
    with torch.no_grad():
        head.centers.copy_(simplex)
    loss = head(simplex, torch.arange(classes)).loss
    bound = math.log(1 + (classes - 1) * math.exp(-classes / (classes - 1)))
    assert float(loss.detach()) == pytest.approx(bound)
