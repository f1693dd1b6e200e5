"""Replays every golden case: loss, logits and gradients as the authors' code computed them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facerec.config import Component
from facerec.head import ClassificationHead, build_head
from facerec.losses import build
from facerec.losses.base import Margin, unit
from facerec.losses.elasticface import ElasticFace
from facerec.losses.magface import MagFace
from facerec.losses.sphereface import SphereFace, psi
from facerec.parallel import ClassShard
from tests.losses import goldens
from tests.losses.plans import Plan
from tests.losses.replays import REPLAYS

TOLERANCE = {  # of values, of gradients: share of the largest entry
    torch.float64: (1e-6, 1e-6),
    torch.float32: (1e-4, 2e-3),
}
TAKEN = {  # inputs, and what is compared with no name of its own
    *("embeddings", "weight", "labels", "bias", "bias_default_init", "margins_drawn", "loss_g"),
    *("partial_index", "weight_index", "loss", "grad_embeddings", "grad_weight", "weight_after"),
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
    reference = case.meta["reference"]
    other = REPLAYS.get((case.loss, reference["repository"], reference["symbol"]))
    if set(case.arrays) == {"num_classes", "r", "bias"}:
        replay_bias_table(case)
    elif other is not None:
        other(case)
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
    plan, calls = goldens.plan(case), goldens.calls(case)
    head = None
    for arrays in calls:
        given = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
        assert given["embeddings"].dtype == getattr(torch, case.meta["dtype"])
        if head is None:
            head = started(plan, given)
        replay_call(case, plan, head, given)


def started(plan: Plan, given: dict[str, Tensor]) -> ClassificationHead:
    """The head as the reference was before the first call."""
    head = build_head(
        Component(plan.loss, plan.args),
        ClassShard(len(given["weight"])),
        given["weight"].shape[1],
        sample_rate=plan.sample_rate,
        center_storage=plan.center_storage,
    ).to(given["embeddings"].dtype)
    assert isinstance(head, ClassificationHead)
    head.step.fill_(plan.step)
    for name, value in plan.start.items():
        kept = getattr(head.margin, name)
        if isinstance(kept, Tensor):
            kept.fill_(value)
        else:
            setattr(head.margin, name, value)
    return head


def replay_call(
    case: goldens.Case, plan: Plan, head: ClassificationHead, given: dict[str, Tensor]
) -> None:
    x = given["embeddings"].clone().requires_grad_()
    check = check_like(case, given)
    bias = head.objective.bias if head.bias is None else head.bias
    with torch.no_grad():
        head.centers.copy_(given["weight"])
        if "bias_default_init" in given:
            assert bias is not None
            check("bias_default_init", bias.detach())
        if "bias" in given:
            assert bias is not None
            bias.copy_(given["bias"].reshape(-1))
    ids = given.get("partial_index", given.get("weight_index", torch.arange(len(given["weight"]))))
    head.sample = lambda labels: ids  # type: ignore[method-assign]
    if "margins_drawn" in given:
        assert isinstance(head.margin, ElasticFace)
        head.margin.draw = lambda rows, step: given["margins_drawn"].reshape(rows)  # type: ignore[method-assign]

    head.zero_grad()
    output = head(x, given["labels"])
    output.loss.backward()

    logits, cosine, own = by_hand(head, given, ids)
    assert x.grad is not None
    assert head.centers.grad is not None
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
    optional = {"logits": logits, "cosine": cosine, "norms": norms(x)}
    optional["scaled_cosine"] = cosine * (scale_of(case) or 1.0)
    if bias is not None:
        assert bias.grad is not None
        optional["grad_bias"] = bias.grad
    optional |= own_fields(head.margin, cosine, norms(x))
    optional["loss_id"] = output.terms[head.objective.term].detach()
    if "penalty" in output.terms and "loss_g" in given:
        assert isinstance(head.margin, MagFace)
        check("loss_g", output.terms["penalty"].detach(), given["loss_g"] * head.margin.lambda_g)
    optional["it_after"] = head.step
    for name, attribute in plan.state.items():
        optional[f"state_{name}"] = operator.attrgetter(attribute)(head)
    for name in given:
        if name in optional:
            check(name, optional[name])
        else:
            assert name in TAKEN, f"{name} is given, and nothing is compared with it"


def own_fields(margin: Margin, cosine: Tensor, norm: Tensor) -> dict[str, Tensor]:
    """What files of one loss hold beside the rest."""
    if isinstance(margin, MagFace):
        return {"x_norm_clamped": margin.clamped_norm(norm), "margin": margin.margins(norm)}
    if isinstance(margin, SphereFace):
        by_row = norm[:, None]
        falling = psi(cosine, margin.margin)
        fields = {"norm_cos": by_row * cosine, "norm_phi": by_row * falling}
        return {**fields, "lambda": margin.annealing.double()}
    return {}


def norms(x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x.detach(), dim=1)
    return found


def scale_of(case: goldens.Case) -> float:
    """The reference's scale, 0 where it has none."""
    hyper = case.meta["hyperparameters"]
    return float(hyper.get("s", hyper.get("scale", 0)))


def by_hand(
    head: ClassificationHead, given: dict[str, Tensor], ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits before the bias and cosines, from the margin; where the rows' own classes stand."""
    with torch.no_grad():
        x, margin = given["embeddings"], head.margin
        norm = norms(x)
        centers = given["weight"][ids]
        cosine = unit(x) @ unit(centers).T if margin.cosine else x @ centers.T
        own = ids == given["labels"][:, None]
        target_cos = (cosine * own).sum(dim=1)
        others = margin.others(cosine, target_cos, norm)
        logits = torch.where(own, margin.target(target_cos, norm)[:, None], others)
    return logits * margin.scale(norm).reshape(-1, 1), cosine, own


def check_like(case: goldens.Case, given: dict[str, Tensor]) -> Callable[..., None]:
    """A comparison with a case's tensor: a share of its largest entry, and what rounding leaves.

    Rounding matters where a tensor is zero in truth: a logit is known to a few units in the last
    place of the scale, the gradient of a row to that over the norm of the row.
    """
    x, weight = given["embeddings"], given["weight"]
    values, gradients = TOLERANCE[x.dtype]
    largest = scale_of(case) or float((x @ weight.T).abs().max()) or 1.0
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
