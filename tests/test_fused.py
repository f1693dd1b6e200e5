"""The form of the head that holds no matrix: re-derived, and equal to the one that does."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from facerec import fused
from facerec.config import Component
from facerec.domains import Scalar
from facerec.fused import Form, reduced
from facerec.head import ClassificationHead, build_head
from facerec.losses import LOSSES, OBJECTIVES, build
from facerec.output import HeadOutput
from facerec.parallel import ClassColumns, ClassShard

ROWS, CLASSES, SIZE = 7, 20, 6
COMPOSABLE = [loss for loss, spec in LOSSES.items() if spec.composable]
BENT = {"sphereface2", "mv_softmax", "curricularface"}  # others are more than their cosines
Found = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    monkeypatch.setattr(fused, "_BLOCK", {"cpu": 7 * ROWS * 8})  # seven classes of seven doubles


def columns(labels: list[int], classes: int = CLASSES) -> ClassColumns:
    return ClassShard(classes).columns(torch.arange(classes), torch.tensor(labels))


def slow(
    x: Tensor, w: Tensor, scale: Tensor, bias: Tensor | None, labels: list[int], form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Own cosine, nearest other and reduction, pair by pair."""
    own, nearest, total = [], [], []
    for i, label in enumerate(labels):
        cosines, terms = [], []
        for j in range(len(w)):
            norm = w[j].square().sum().sqrt()
            direction = w[j] * 0 if float(norm.detach()) < 1e-5 else w[j] / norm
            cosines.append((x[i] * (direction if form.normalise else w[j])).sum())
            z = cosines[-1].clamp(-form.limit, form.limit) * scale.expand(len(labels))[i]
            if bias is not None:
                z = z + bias.expand(len(w))[j]
            terms.append(z.clamp(-form.clip, form.clip))
        own.append(cosines.pop(label))
        del terms[label]
        nearest.append(torch.stack(cosines).max())
        both = torch.stack(terms)
        one = both.exp().sum().log() if form.reduction == "logsumexp" else both.exp().log1p().sum()
        total.append(one)
    return torch.stack(own), torch.stack(nearest), torch.stack(total)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("form", "biases"),
    [
        (Form("logsumexp"), 0),
        (Form("logsumexp", normalise=False), 0),
        (Form("logsumexp", limit=0.4), 0),
        (Form("softplus"), 1),
        (Form("softplus", limit=0.4, clip=2.0), CLASSES),
        (Form("softplus", normalise=False), 0),
    ],
)
def test_it_is_what_a_plain_loop_gives(
    form: Form, biases: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "KEPT", 1 << 20 if kept else 0)
    labels = [3, 19, 0, 3, 8, 11, 2]
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, SIZE, generator=draw, dtype=torch.float64)
    x = torch.nn.functional.normalize(x)
    w = 0.5 * torch.randn(CLASSES, SIZE, generator=draw, dtype=torch.float64)
    w[5], w[8] = 1e-7, 3 * x[4]  # no direction; a cosine of 1
    scale = 1 + 4 * torch.rand(ROWS, generator=draw, dtype=torch.float64)
    given = [x, w, scale]
    if biases:
        given.append(0.3 * torch.randn(biases, generator=draw, dtype=torch.float64) - 1)
    weights = torch.randn(2, ROWS, generator=draw, dtype=torch.float64)
    results: list[list[Any]] = []
    for function in (slow, reduced):
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        bias = leaves[3] if biases else None
        where: Any = labels if function is slow else columns(labels)
        own, nearest, total = function(leaves[0], leaves[1], leaves[2], bias, where, form)
        ((weights[0] * own).sum() + (weights[1] * total).sum()).backward()  # type: ignore[no-untyped-call]
        results.append([own, nearest, total, *(leaf.grad for leaf in leaves)])
    for plain, found in zip(*results, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        again = reduced(x, w, scale, given[3] if biases else None, columns(labels), form)
    assert torch.equal(again.total, results[1][2])


def test_rows_and_classes_that_are_not_there() -> None:
    x = torch.nn.functional.normalize(torch.randn(2, SIZE)).requires_grad_()
    scale, form = torch.tensor(9.0), Form("logsumexp")
    alone = reduced(x, torch.randn(1, SIZE), scale, None, columns([0, 0], 1), form)
    assert alone.total.tolist() == alone.nearest.tolist() == [-math.inf, -math.inf]
    (slope,) = torch.autograd.grad(alone.own.sum() + alone.total.exp().sum(), x)
    assert bool(slope.isfinite().all())
    empty = ClassShard(2, 2, 3).columns(torch.arange(2), torch.tensor([0, 1]))
    none = reduced(x, torch.randn(0, SIZE), scale, None, empty, form)
    assert none.own.tolist() == [0.0, 0.0]
    assert none.total.tolist() == [-math.inf, -math.inf]
    binary = Form("softplus", clip=4.0)
    assert reduced(x, torch.randn(0, SIZE), scale, None, empty, binary).total.tolist() == [0, 0]


def test_large_logits_do_not_overflow_and_small_ones_are_not_lost() -> None:
    x, w = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    total = reduced(x, w, torch.tensor(1e4), None, columns([0, 0], 2), Form("logsumexp")).total
    assert total.tolist() == [1e4, -1e4]


def test_a_logsumexp_takes_no_bias() -> None:
    x, scale = torch.randn(2, SIZE), torch.tensor(1.0)
    with pytest.raises(ValueError, match="no bias"):
        reduced(x, x, scale, torch.zeros(1), columns([0, 1], 2), Form("logsumexp"))


def test_backward_may_run_again() -> None:
    x = torch.randn(ROWS, SIZE, dtype=torch.float64).requires_grad_()
    found = reduced(x, x.detach(), torch.tensor(9.0), None, columns([0] * 7, 7), Form("softplus"))
    slopes = [torch.autograd.grad(found.total.sum(), x, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*slopes)


@pytest.mark.parametrize("loss", COMPOSABLE)
def test_a_margin_says_what_it_makes_of_others(loss: str) -> None:
    """For each value of each choice, and with and without an epsilon."""
    margin_type = LOSSES[loss].margin
    tried: list[dict[str, Scalar]] = [{}]
    for keyword, domain in margin_type.space.items():
        tried += [{keyword: value} for value in getattr(domain, "options", ())]
    cos = torch.linspace(-1, 1, 41, dtype=torch.float64)[None].requires_grad_()
    for args in tried:
        for eps in ({}, {"cosine_eps": 0.1}):
            try:
                built = build(loss, {**args, **eps}, num_classes=9, embedding_size=8)
            except ValueError:  # a margin without an epsilon
                continue
            limit = built.margin.others_limit
            if limit is None:
                continue
            one = torch.ones(1, dtype=torch.float64)
            (expected,) = torch.autograd.grad(cos.clamp(-limit, limit).sum(), cos)
            others = built.margin.others(cos, one, one)
            (slope,) = torch.autograd.grad(others.sum(), cos)
            torch.testing.assert_close(others, cos.clamp(-limit, limit), rtol=0, atol=1e-15)
            assert torch.equal(slope, expected), (loss, args, eps)


def step(head: ClassificationHead, x: Tensor, labels: Tensor) -> Found:
    views = (x if head.views == 1 else torch.stack([x, 0.5 * x])).clone().requires_grad_()
    head.zero_grad()
    output: HeadOutput = head(views, labels)
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert views.grad is not None
    found = {"loss": output.loss.detach(), "x": views.grad, **output.stats}
    found |= {name: part.grad for name, part in head.named_parameters() if part.grad is not None}
    return found | {f"state/{name}": value for name, value in head.state_dict().items()}


HEADS: dict[str, dict[str, Any]] = {
    "whole": {"shard": ClassShard(CLASSES), "queue_size": 0},
    "sampled": {"shard": ClassShard(CLASSES), "queue_size": 9, "sample_rate": 0.5},
    "slice": {"shard": ClassShard(CLASSES, 1, 3), "center_storage": "unit", "queue_size": 0},
}


MARGINS = {spec.margin: loss for loss, spec in LOSSES.items() if spec.composable}
QUICK = ("softmax", "binary")
CASES = [pytest.param(loss, HEADS["sampled"], QUICK, id=loss) for loss in MARGINS.values()]
CASES += [
    pytest.param(loss, options, tuple(OBJECTIVES), id=f"{loss}-{name}", marks=pytest.mark.slow)
    for loss in COMPOSABLE
    for name, options in HEADS.items()
]


@pytest.mark.parametrize(("loss", "options", "objectives"), CASES)
def test_it_equals_the_whole_matrix(
    loss: str,
    options: dict[str, Any],
    objectives: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two steps, so that biases start and queues, means and margins have seen something."""
    monkeypatch.setattr(fused, "KEPT", 0 if options.get("sample_rate") else 1 << 20)
    for objective in objectives:
        args: dict[str, Scalar] = {"objective": objective}
        if objective in ("unified", "binary"):
            args["bias_init"] = "logsumexp"
        keywords = {name: value for name, value in options.items() if name != "shard"}
        ours = build_head(Component(loss, args), options["shard"], SIZE, **keywords).double()
        assert isinstance(ours, ClassificationHead)
        assert (ours.margin.others_limit is None) == (loss in BENT)
        whole = copy.deepcopy(ours)
        whole._form = lambda: None  # type: ignore[method-assign]
        draw = torch.Generator().manual_seed(4)
        for _ in range(2):
            x = 3 * torch.randn(ROWS, SIZE, generator=draw, dtype=torch.float64)
            labels = torch.randint(CLASSES, (ROWS,), generator=draw)
            found, expected = step(ours, x, labels), step(whole, x, labels)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                if name == "accuracy" and options["shard"].world_size > 1:
                    continue  # of rows whose class nobody holds there is none
                torch.testing.assert_close(
                    found[name], value, rtol=1e-11, atol=1e-12, msg=f"{objective} {name}"
                )
