"""Golden cases that are more than one batch of embeddings against centers.

Regularizers, the queue and the confidence have files of another shape; each is mapped, as in
`plans`, by the reference's repository and symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from facerec.config import Component
from facerec.domains import Scalar
from facerec.head import ClassificationHead, build_head
from facerec.losses.contraface import Contrast
from facerec.losses.scf import ConfidenceLikelihood
from facerec.losses.unitsface import SampleToSample
from facerec.parallel import ClassShard
from tests.losses import goldens

Given = dict[str, Tensor]
TOLERANCE = {torch.float64: (1e-6, 1e-6), torch.float32: (1e-4, 2e-3)}


def near(name: str, ours: Tensor, theirs: Tensor, floor: float) -> None:
    """Within the case's tolerance of the largest entry, or within what rounding leaves."""
    ours = ours.detach().reshape(theirs.shape)
    share = TOLERANCE[theirs.dtype][name.split(".")[-1].startswith("grad_")]
    error = float((ours - theirs).abs().max())
    limit = share * float(theirs.abs().max()) + floor
    assert error <= limit, f"{name}: off by {error:.3g}, the limit is {limit:.3g}"


def tensors(case: goldens.Case) -> Given:
    return {name: torch.as_tensor(array) for name, array in case.arrays.items()}


def exactly(given: Mapping[str, Any], *expected: str) -> None:
    if unknown := set(given) - set(expected):
        raise goldens.Unmapped(f"unknown fields {sorted(unknown)}")


def head_of(loss: str, args: dict[str, Scalar], weight: Tensor, **head: Any) -> ClassificationHead:
    made = build_head(Component(loss, args), ClassShard(len(weight)), weight.shape[1], **head)
    assert isinstance(made, ClassificationHead)
    made.to(weight.dtype)
    with torch.no_grad():
        made.centers.copy_(weight)
    return made


def rounding(x: Tensor, scale: float) -> float:
    return 8 * float(torch.finfo(x.dtype).eps) * scale


def broadface(case: goldens.Case) -> None:
    h, given = dict(case.meta["hyperparameters"]), tensors(case)
    rate, size = h.pop("harness_sgd_lr"), h.pop("queue_size")
    head = head_of(
        "broadface",
        {"margin": h.pop("m"), "scale": h.pop("s"), "past_pi": "linear", "gradient": "exact"},
        given["weight"],
        queue_size=size,
        queue_compensate=h.pop("compensate"),
    )
    exactly(h)
    for number in range(int(given["num_steps"])):
        step = {k.split(".")[1]: v for k, v in given.items() if k.startswith(f"step{number}.")}
        x = step["embeddings"].clone().requires_grad_()
        floor = rounding(x, float(case.meta["hyperparameters"]["s"]))
        near("weight_before", head.centers, step["weight_before"], floor)
        head.centers.grad = None
        output = head(x, step["labels"])
        output.loss.backward()
        assert x.grad is not None
        assert head.centers.grad is not None
        assert head.queue is not None
        order = head.queue.order()
        found = {
            "loss": output.loss,
            "grad_embeddings": x.grad,
            "grad_weight": head.centers.grad,
            "state_feature_mb": head.queue.embeddings[order],
            "state_proxy_mb": head.queue.centers[order],
        }
        exactly(step, *found, "embeddings", "labels", "weight_before", "state_label_mb")
        assert torch.equal(head.queue.past_labels(), step["state_label_mb"])
        for name, ours in found.items():
            near(name, ours, step[name], floor)
        with torch.no_grad():
            head.centers -= rate * head.centers.grad


class _NoCenters:
    """What the contrast sees of a head: nothing but its shard."""

    def __init__(self) -> None:
        self.shard = ClassShard(1)


def contrast(case: goldens.Case) -> None:
    h, given = dict(case.meta["hyperparameters"]), tensors(case)
    part = Contrast(contrast_weight=1.0, contrast_scale=h.pop("s"), contrast_momentum=0.01)
    part.to(given["step0.view1"].dtype)
    part.contrast_margin.fill_(h.pop("m0"))
    exactly(h)
    for number in range(int(given["num_steps"])):
        step = {k.split(".")[1]: v for k, v in given.items() if k.startswith(f"step{number}.")}
        exactly(step, "view1", "view2", "labels", "loss", "grad_view1", "grad_view2", "state_m")
        x = torch.stack([step["view1"], step["view2"]]).requires_grad_()
        loss = part(_NoCenters(), x, step["labels"])
        loss.backward()
        assert x.grad is not None
        floor = rounding(x, part.contrast_scale)
        near("loss", loss, step["loss"], floor)
        near("state_m", part.contrast_margin, step["state_m"], floor)
        for view in (1, 2):
            near(f"grad_view{view}", x.grad[view - 1], step[f"grad_view{view}"], floor)


def contraface(case: goldens.Case) -> None:
    h, given = dict(case.meta["hyperparameters"]), tensors(case)
    if h.pop("weight1") != 0.5 or h.pop("weight2") != 0.5:
        raise goldens.Unmapped("the head means over both views")
    args: dict[str, Scalar] = {"margin": h.pop("m_arc"), "past_pi": "none", "gradient": "exact"}
    args |= {"scale": h["s"], "contrast_scale": h.pop("s"), "contrast_weight": h.pop("weightC")}
    head = head_of("contraface", {**args, "contrast_momentum": 0.01}, given["weight"])
    exactly(h)
    x = torch.stack([given["view1"], given["view2"]]).requires_grad_()
    output = head(x, given["labels"])
    output.loss.backward()
    assert x.grad is not None
    assert head.centers.grad is not None
    assert isinstance(head.regularizer, Contrast)
    weight = float(args["contrast_weight"] or 0.0)
    found = {
        "loss": output.loss,
        "loss_contrast": output.terms["contrast"] / weight,
        "grad_view1": x.grad[0],
        "grad_view2": x.grad[1],
        "grad_weight": head.centers.grad,
        "state_m": head.regularizer.contrast_margin,
    }
    exactly(given, *found, "view1", "view2", "labels", "weight", "loss_id1", "loss_id2")
    for name, ours in found.items():
        near(name, ours, given[name], rounding(x, float(case.meta["hyperparameters"]["s"])))
    identity = 0.5 * (given["loss_id1"] + given["loss_id2"])
    near("loss_id", output.terms["softmax"], identity, 0.0)


def scf(case: goldens.Case) -> None:
    h, given = dict(case.meta["hyperparameters"]), tensors(case)
    size, radius = h.pop("z_dim"), h.pop("radius")
    exactly(h)
    mu, kappa = given["mu"].clone().requires_grad_(), given["kappa"].clone().requires_grad_()
    part = ConfidenceLikelihood(radius=radius, confidence_floor=1e-6)
    cos = (mu * given["wc"]).sum(dim=1) / radius
    losses = part.rows(cos, kappa[:, 0], size)
    losses.mean().backward()
    assert mu.grad is not None
    assert kappa.grad is not None
    found = {
        "losses": losses,
        "loss": losses.mean(),
        "grad_mu": mu.grad,
        "grad_kappa": kappa.grad,
        "l1": -kappa[:, 0] * cos,
    }
    exactly(given, *found, "mu", "kappa", "wc", "l2", "l3")
    for name, ours in found.items():
        near(name, ours, given[name], 0.0)
    near("l2 + l3", losses - found["l1"], (given["losses"] - given["l1"])[:, 0], 0.0)


def sample_to_sample(case: goldens.Case) -> None:
    h, given = dict(case.meta["hyperparameters"]), tensors(case)
    found_bias = h.pop("bias")
    args: dict[str, Scalar] = {"pair_margin": h.pop("m"), "pair_scale": h.pop("s")}
    exactly(h)
    head = head_of("unitsface", args, given["weight"])
    part = head.regularizer
    assert isinstance(part, SampleToSample)
    assert part.objective.bias is not None
    with torch.no_grad():
        part.memory.copy_(given["weight"])
        part.seen.fill_(True)
        if found_bias > 0:  # the reference starts it anew at 0 and below
            part.objective.bias.fill_(found_bias)
            part.objective.started.fill_(True)
    x = given["embeddings"].clone().requires_grad_()
    labels = given["labels"]
    head.columns = head.shard.columns(torch.arange(len(given["weight"])), labels)
    loss = part(head, x[None], labels)
    loss.backward()
    assert x.grad is not None
    assert part.objective.bias.grad is not None
    found = {
        "loss": loss,
        "bias_after": part.objective.bias,
        "grad_embeddings": x.grad,
        "grad_bias": part.objective.bias.grad,
    }
    exactly(given, *found, "embeddings", "weight", "labels", "bias")
    for name, ours in found.items():
        near(name, ours, given[name], rounding(x, float(args["pair_scale"] or 0.0)))


def uniformface(case: goldens.Case) -> None:
    h, given = dict(case.meta["hyperparameters"]), tensors(case)
    args: dict[str, Scalar] = {
        "margin": h.pop("m"),
        "alpha": h.pop("alpha"),
        "beta": h.pop("beta"),
        "in_batch": h.pop("compute_in_batch"),
        **{"base": 1000.0, "gamma": 0.12, "power": 1.0, "lambda_min": 5.0},
    }
    head = head_of("uniformface", args, given["weight"])
    head.step.fill_(h.pop("it"))
    exactly(h)
    x = given["embeddings"].clone().requires_grad_()
    output = head(x, given["labels"])
    output.loss.backward()
    assert x.grad is not None
    assert head.centers.grad is not None
    found = {
        "weight_after_move": head.centers,
        "loss_ce": output.terms["softmax"],
        "loss": output.loss,
        "grad_embeddings": x.grad,
        "grad_weight": head.centers.grad,
    }
    alpha = float(args["alpha"] or 0.0)
    if alpha:
        found["loss_uniform"] = output.terms["uniform"] / alpha
    elsewhere = {"min_avg_squared", "mean_distance"}  # measured by evaluation.geometry
    exactly(given, *found, *elsewhere, "embeddings", "labels", "weight", "logits", "lambda")
    largest = float((given["embeddings"] @ given["weight"].T).abs().max())
    for name, ours in found.items():
        near(name, ours, given[name], rounding(x, largest))


REPLAYS: dict[tuple[str, str, str], Callable[[goldens.Case], None]] = {
    ("broadface", "kakaoenterprise/BroadFace", "BroadFaceArcFace"): broadface,
    ("contraface", "IsidoreSong/ContraFace", "ContraFace"): contrast,
    ("contraface", "IsidoreSong/ContraFace", "ArcFace + ContraFace"): contraface,
    ("scf", "MathsShen/SCF", "KLDiracVMF"): scf,
    (
        "unitsface",
        "CVI-SZU/UniTSFace",
        "Unified_Threshold_Integrated_Sample_to_Sample_Loss",
    ): sample_to_sample,
    (
        "uniformface",
        "ka-tsu-mo/pytorch-uniformface",
        "ASoftmax, uniform_loss, move_class_centers",
    ): uniformface,
}
