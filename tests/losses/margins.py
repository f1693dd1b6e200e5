"""What the tests of single margins share: a head's softmax loss by slow loops, and hard places."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from facerec.config import Component
from facerec.domains import Scalar
from facerec.head import ClassificationHead, build_head
from facerec.losses.base import Margin
from facerec.parallel import ClassShard
from tests.losses.test_formulas import Array, by_differences, cosine, dot

LABELS = [0, 3, 4, 1, 3]
CLASSES, SIZE = 5, 3

Bent = Callable[[float, float, int], float]


def points(shortest: float = 0.5, longest: float = 3.0) -> tuple[Array, Array]:
    """Embeddings and centers: near the own class, far off, opposite, and nearer to another's."""
    rng = np.random.default_rng(11)
    x, w = rng.standard_normal((len(LABELS), SIZE)), rng.standard_normal((CLASSES, SIZE))
    w[0] = 2.0 * x[0] + 0.2 * rng.standard_normal(SIZE)
    w[4] = -1.1 * x[2] + 0.2 * rng.standard_normal(SIZE)
    w[2] = 0.5 * x[3] + 0.1 * rng.standard_normal(SIZE)
    lengths = np.linspace(shortest, longest, len(x))
    return x * (lengths / np.linalg.norm(x, axis=1))[:, None], w


def make(loss: str, w: Array, args: dict[str, Scalar]) -> ClassificationHead:
    """A head in double precision with these centers."""
    head = build_head(Component(loss, args), ClassShard(len(w)), w.shape[1]).double()
    assert isinstance(head, ClassificationHead)
    with torch.no_grad():
        head.centers.copy_(torch.from_numpy(w))
    return head


def slow_loss(
    x: Array,
    w: Array,
    scale: float,
    target: Bent,
    others: Bent,
    penalty: Callable[[float], float],
) -> float:
    """The mean softmax loss, one row and one class at a time.

    Args:
        x: Embeddings.
        w: Centers.
        scale: Of the cosines.
        target: The target's cosine, the norm and the row -> the cosine with its margin.
        others: Another's cosine, the target's and the row -> the cosine that counts.
        penalty: The norm -> what is added to the loss of the row.
    """
    total = 0.0
    for number, (row, label) in enumerate(zip(x, LABELS, strict=True)):
        norm, cosines = math.sqrt(dot(row, row)), [cosine(row, center) for center in w]
        own = cosines[label]
        logits = [scale * others(c, own, number) for c in cosines]
        logits[label] = scale * target(own, norm, number)
        top = max(logits)
        total += top + math.log(sum(math.exp(z - top) for z in logits)) - logits[label]
        total += penalty(norm)
    return total / len(x)


def assert_formula(
    head: ClassificationHead,
    x: Array,
    w: Array,
    target: Bent,
    others: Bent = lambda c, own, row: c,
    penalty: Callable[[float], float] = lambda norm: 0.0,
) -> None:
    """One training batch: the value by slow loops, the gradients by central differences."""
    embeddings = torch.from_numpy(x).requires_grad_()
    head.zero_grad()
    loss = head(embeddings, torch.tensor(LABELS)).loss
    loss.backward()
    scale = float(head.margin.scale(torch.ones(1)))
    given = (scale, target, others, penalty)
    np.testing.assert_allclose(float(loss.detach()), slow_loss(x, w, *given), rtol=1e-12)
    assert embeddings.grad is not None
    assert head.centers.grad is not None
    slow_x = by_differences(lambda v: slow_loss(v, w, *given), x)
    slow_w = by_differences(lambda v: slow_loss(x, v, *given), w)
    for ours, slow in ((embeddings.grad, slow_x), (head.centers.grad, slow_w)):
        np.testing.assert_allclose(ours.numpy(), slow, atol=3e-7 * max(1, abs(slow).max()))


def bend(c: float, margin: float, rule: str) -> float:
    """cos(θ + m) with a rule past π, from the cosine of θ."""
    theta = math.acos(c)
    if rule == "easy" and c <= 0:
        return c
    if rule == "linear" and theta + margin >= math.pi:
        return c - margin * math.sin(margin)
    if rule == "clip":
        return math.cos(min(max(theta + margin, 0.0), math.pi))
    return math.cos(theta + margin)


def assert_finite_at_the_ends(margin: Margin) -> None:
    """Value and gradient at and beyond the ends of the cosine, for tiny and for long embeddings."""
    for dtype in (torch.float32, torch.float64):
        margin = margin.to(dtype)
        ulp = torch.finfo(dtype).eps / 2
        ends = [-1 - 4 * ulp, -1.0, -1 + ulp, 0.0, 1 - ulp, 1.0, 1 + 4 * ulp]
        for length in (0.0, 1e-4, 1.0, 1e4):
            cos = torch.tensor(ends, dtype=dtype).requires_grad_()
            norm = torch.full((len(ends),), length, dtype=dtype).requires_grad_()
            margin.observe(cos.detach(), norm.detach(), torch.tensor(0), 1.0)
            square = cos[None].expand(len(ends), -1)
            found = [margin.target(cos, norm), margin.others(square, cos.detach(), norm)]
            penalty = margin.penalty(norm)
            if penalty is not None:
                found.append(penalty)
            total = torch.stack([f.sum() for f in found]).sum()
            slopes_of = torch.autograd.grad(total, (cos, norm), materialize_grads=True)
            for tensor in (*found, *slopes_of):
                assert bool(tensor.isfinite().all())


def slopes(values: Tensor, cos: Tensor) -> Tensor:
    """The derivative of each value by its cosine."""
    (found,) = torch.autograd.grad(values.sum(), cos)
    return found
