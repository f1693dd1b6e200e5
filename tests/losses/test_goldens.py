"""Replays every golden case: loss, logits and gradients as the authors' code computed them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facerec.config import Component
from facerec.head import ClassificationHead, build_head
from facerec.losses import build
from facerec.losses.base import unit
from facerec.parallel import ClassShard
from tests.losses import goldens

TOLERANCE = {  # of values, of gradients: share of the largest entry
    torch.float64: (1e-6, 1e-6),
    torch.float32: (1e-4, 2e-3),
}
CASES = [
    pytest.param(path, name, id=f"{path.stem}-{name}")
    for path in goldens.files()
    if goldens.built(path)
    for name in goldens.names(path)
]


def test_goldens_are_there() -> None:
    if goldens.folder() is None:
        pytest.skip("FACEREC_GOLDENS names no folder of golden files: nothing to compare with")
    assert CASES, f"FACEREC_GOLDENS = {goldens.folder()}: no golden file of a loss built here"


@pytest.mark.parametrize(("path", "name"), CASES)
def test_case(path: Path, name: str) -> None:
    case = goldens.read(path, name)
    if set(case.arrays) == {"num_classes", "r", "bias"}:
        replay_bias_table(case)
    else:
        replay(case)


def replay_bias_table(case: goldens.Case) -> None:
    assert case.loss == "uniface"
    assert case.meta["reference"]["symbol"] == "Unified_Cross_Entropy_Loss"
    for classes, rate, bias in zip(
        *(case.arrays[k] for k in ("num_classes", "r", "bias")), strict=True
    ):
        loss = build(
            "uniface",
            {"bias_init": "log_10rc"},
            num_classes=int(classes),
            embedding_size=512,
            sample_rate=float(rate),
        )
        assert loss.bias_start == pytest.approx(float(bias), rel=1e-6)


def replay(case: goldens.Case) -> None:
    plan = goldens.plan(case)
    given = {name: torch.from_numpy(np.asarray(array)) for name, array in case.arrays.items()}
    dtype = given["embeddings"].dtype
    assert dtype == getattr(torch, case.meta["dtype"])
    head = build_head(
        Component(plan.loss, plan.args),
        ClassShard(len(given["weight"])),
        given["weight"].shape[1],
        sample_rate=plan.sample_rate,
        center_storage=plan.center_storage,
    ).to(dtype)
    x = given["embeddings"].clone().requires_grad_()
    bias = head.objective.bias if head.bias is None else head.bias
    with torch.no_grad():
        head.centers.copy_(given["weight"])
        if "bias_default_init" in given:
            assert bias is not None
            check_like(case, given)("bias_default_init", bias.detach())
        if "bias" in given:
            assert bias is not None
            bias.copy_(given["bias"].reshape(-1))
    ids = given.get("partial_index", given.get("weight_index", torch.arange(len(given["weight"]))))
    head.sample = lambda labels: ids  # type: ignore[method-assign]

    output = head(x, given["labels"])
    output.loss.backward()

    logits, cosine, own = by_hand(head, given, ids)
    assert x.grad is not None
    assert head.centers.grad is not None
    check = check_like(case, given)
    loss = output.loss
    if plan.smallest_p:
        rows = -torch.log_softmax(logits, dim=1)[own]
        check("loss", loss.detach(), rows.mean())
        loss = rows.clamp(max=-np.log(plan.smallest_p)).mean()
    check("loss", loss.detach())
    check("grad_embeddings", x.grad)
    check("grad_weight", head.centers.grad)
    if plan.center_storage == "unit":
        check("weight_after", head.centers.detach())
    optional = {"logits": logits, "cosine": cosine}
    optional["scaled_cosine"] = cosine * case.meta["hyperparameters"].get("s", 1.0)
    if bias is not None:
        assert bias.grad is not None
        optional["grad_bias"] = bias.grad
    for name, ours in optional.items():
        if name in given:
            check(name, ours)


def by_hand(
    head: ClassificationHead, given: dict[str, Tensor], ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits before the bias and cosines, from the margin; where the rows' own classes stand."""
    with torch.no_grad():
        x, margin = given["embeddings"], head.margin
        norm = torch.linalg.vector_norm(x, dim=1)
        centers = given["weight"][ids]
        cosine = unit(x) @ unit(centers).T if margin.cosine else x @ centers.T
        own = ids == given["labels"][:, None]
        target_cos = (cosine * own).sum(dim=1)
        others = margin.others(cosine, target_cos, norm)
        logits = torch.where(own, margin.target(target_cos, norm)[:, None], others)
    return logits * margin.scale(norm), cosine, own


def check_like(case: goldens.Case, given: dict[str, Tensor]) -> Callable[..., None]:
    """A comparison with a case's tensor: a share of its largest entry, and what rounding leaves.

    Rounding matters where a tensor is zero in truth: a logit is known to a few units in the last
    place of the scale, the gradient of a row to that over the norm of the row.
    """
    x, weight = given["embeddings"], given["weight"]
    values, gradients = TOLERANCE[x.dtype]
    largest = (
        float(case.meta["hyperparameters"].get("s", 0)) or float((x @ weight.T).abs().max()) or 1.0
    )
    rounding = 8 * torch.finfo(x.dtype).eps * largest
    shortest = min(float(x.norm(dim=1).min()), float(weight.norm(dim=1).min()), 1.0)

    def check(name: str, ours: Tensor, theirs: Tensor | None = None) -> None:
        theirs = given[name] if theirs is None else theirs
        ours = ours.reshape(theirs.shape)
        assert ours.dtype == theirs.dtype
        share, floor = values, rounding
        if name.startswith("grad_"):
            share, floor = gradients, rounding / shortest
        error = float((ours - theirs).abs().max())
        limit = share * float(theirs.abs().max()) + floor
        assert error <= limit, f"{name}: off by {error:.3g}, the limit is {limit:.3g}"

    return check
