"""Golden cases: what the authors' code computed, and which of our settings it corresponds to.

A case is mapped by the reference's repository and symbol and by its hyper-parameters, never by its
name. Whatever this page does not know raises `Unmapped`, which fails the case.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facerec.losses import LOSSES
from tests.losses.angular_plans import ANGULAR
from tests.losses.plans import ADAPTIVE, Hyper, Plan, Unmapped

OUR_NAME = {
    "uniface_uce": "uniface",
    "combined_margin": "combined",
    "unitsface_uss": "unitsface",
}
OF_THE_HEAD = {"partial_fc"}  # tests the sampling, with the combined margin
ARRAYS = {
    *("embeddings", "weight", "labels", "logits", "loss", "grad_embeddings", "grad_weight"),
    *("weight_after", "bias", "bias_default_init", "grad_bias", "cosine", "scaled_cosine"),
    *("partial_index", "weight_index", "weight_before", "num_steps"),
    *("norms", "margins_drawn", "loss_id", "loss_g", "x_norm_clamped", "margin"),
    *("lambda", "it_after", "norm_cos", "norm_phi"),
}
_STEP = re.compile(r"^step\d+\.")
MEAN = {
    *("mean over batch", "sum over (sampled) classes, mean over batch"),
    "weighted BCE mean over B*C entries",
    "weighted BCE mean over B*C entries, weights lw*C/r*(alpha | 1-alpha)",
}


@dataclass(frozen=True)
class Case:
    """One golden case."""

    loss: str
    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def _cosface(storage: str = "free", eps: float = 0.0) -> Callable[[Hyper], Plan]:
    def plan(h: Hyper) -> Plan:
        args = {"margin": h.pop("m"), "scale": h.pop("s"), "cosine_eps": eps}
        return Plan("cosface", args, center_storage=storage)

    return plan


def _arcface(
    gradient: str, past_pi: str, storage: str = "free", eps: float = 0.0
) -> Callable[[Hyper], Plan]:
    def plan(h: Hyper) -> Plan:
        rule = past_pi
        if past_pi == "flag":
            rule = "easy" if h.pop("easy_margin") else "linear"
        args = {"margin": h.pop("m"), "scale": h.pop("s"), "cosine_eps": eps}
        args |= {"gradient": gradient, "past_pi": rule}
        return Plan("arcface", args, center_storage=storage)

    return plan


def _uniface(loss: str) -> Callable[[Hyper], Plan]:
    def plan(h: Hyper) -> Plan:
        h.pop("bias")  # also an array, beside the constructor's own value
        args = {"margin": h.pop("m"), "scale": h.pop("s"), "negative_weight": h.pop("l")}
        return Plan(loss, args | {"bias_init": "log_10rc"}, sample_rate=h.pop("r"))

    return plan


def _uniface_softmax(h: Hyper) -> Plan:
    if h.pop("r", 1) != 1:
        raise Unmapped("the reference mis-labels its samples")
    return Plan("uniface_softmax", {"margin": h.pop("m"), "scale": h.pop("s")})


def _normface_of_uniface(h: Hyper) -> Plan:
    if h.pop("m") != 0 or h.pop("r", 1) != 1:
        raise Unmapped("NormFace has no margin, and the reference mis-labels its samples")
    return Plan("normface", {"scale": h.pop("s")})


PLANS: dict[tuple[str, str, str], Callable[[Hyper], Plan]] = {
    ("softmax", "ydwen/opensphere", "SoftmaxLoss"): lambda h: Plan("softmax"),
    ("normface", "ydwen/opensphere", "CocoLoss"): lambda h: Plan(
        "normface", {"scale": h.pop("s")}, center_storage="unit"
    ),
    ("normface", "CVI-SZU/UniFace", "Normalized_Softmax_Loss"): _normface_of_uniface,
    ("uniface_softmax", "CVI-SZU/UniFace", "Normalized_Softmax_Loss"): _uniface_softmax,
    ("uniface", "CVI-SZU/UniFace", "Unified_Cross_Entropy_Loss"): _uniface("uniface"),
    ("uniface_bce", "CVI-SZU/UniFace", "Normalized_BCE_Loss"): _uniface("uniface_bce"),
    ("cosface", "deepinsight/insightface", "CosFace"): _cosface(),
    ("cosface", "MuggleWang/CosFace_pytorch", "MarginCosineProduct"): _cosface(),
    ("cosface", "mk-minchul/AdaFace", "CosFace"): _cosface(eps=1e-4),
    ("cosface", "fdbtrs/ElasticFace", "CosFace"): _cosface(),
    ("cosface", "ka-tsu-mo/pytorch-uniformface", "LargeMarginCosine"): _cosface(),
    ("cosface", "ydwen/opensphere", "CosFace"): _cosface("unit"),
    ("arcface", "deepinsight/insightface", "ArcFace"): _arcface("detached", "none"),
    ("arcface", "HuangYG123/CurricularFace", "ArcFace"): _arcface("exact", "linear"),
    ("arcface", "mk-minchul/AdaFace", "ArcFace"): _arcface("exact", "clip", eps=1e-4),
    ("arcface", "fdbtrs/ElasticFace", "ArcFace"): _arcface("exact", "none"),
    ("arcface", "ydwen/opensphere", "ArcFace"): _arcface("detached", "clip", "unit", 1e-5),
    ("arcface", "ka-tsu-mo/pytorch-uniformface", "AdditiveAngularMargin"): _arcface(
        "exact", "flag"
    ),
    **ADAPTIVE,
    **ANGULAR,
}


def plan(case: Case) -> Plan:
    """Our settings for a case.

    Raises:
        Unmapped: Something about it is not known here.
    """
    reference = case.meta["reference"]
    key = (case.loss, reference["repository"], reference["symbol"])
    if key not in PLANS:
        raise Unmapped(f"no plan for {key}")
    hyper = dict(case.meta["hyperparameters"])
    if case.loss in ("uniface", "uniface_bce"):
        hyper.setdefault("bias", None)
    try:
        found = PLANS[key](hyper)
    except KeyError as error:
        raise Unmapped(f"hyper-parameter {error} is missing") from None
    if hyper:
        raise Unmapped(f"unknown hyper-parameters {hyper}")
    known = ARRAYS | {f"state_{name}" for name in found.state}
    if unknown := {_STEP.sub("", name) for name in case.arrays} - known:
        raise Unmapped(f"unknown fields {sorted(unknown)}")
    if case.meta["reduction"] not in MEAN:
        raise Unmapped(f"unknown reduction {case.meta['reduction']!r}")
    return found


def calls(case: Case) -> list[dict[str, NDArray[Any]]]:
    """The fields of each call in turn; a case without steps is one call."""
    if "num_steps" not in case.arrays:
        return [case.arrays]
    shared = {name: array for name, array in case.arrays.items() if not _STEP.match(name)}
    found = []
    for number in range(int(shared.pop("num_steps"))):
        start = f"step{number}."
        own = {k.removeprefix(start): v for k, v in case.arrays.items() if k.startswith(start)}
        if "weight_before" in own:
            own["weight"] = own.pop("weight_before")
        found.append(shared | own)
    return found


def folder() -> Path | None:
    """Where the golden files lie, if anybody said so."""
    named = os.environ.get("FACEREC_GOLDENS", "")
    return Path(named) if named else None


def files() -> list[Path]:
    """All golden files."""
    where = folder()
    return sorted(where.glob("*.npz")) if where else []


@functools.cache
def _index(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        found: dict[str, Any] = json.loads(str(archive["__meta__"]))
    return found


def loss_of(path: Path) -> str:
    """Our name of the loss that a file is about."""
    loss: str = _index(path)["loss"]
    return OUR_NAME.get(loss, loss)


def built(path: Path) -> bool:
    """Whether the loss of a file can be built."""
    return loss_of(path) in OF_THE_HEAD or loss_of(path) in LOSSES


def names(path: Path) -> list[str]:
    """The cases of a file."""
    return list(_index(path)["cases"])


def read(path: Path, name: str) -> Case:
    """One case; a field that the file lists and lacks, or holds and does not list, is an error."""
    meta = _index(path)["cases"][name]
    with np.load(path, allow_pickle=False) as archive:
        prefix = f"{name}/"
        arrays = {k.removeprefix(prefix): archive[k] for k in archive.files if k.startswith(prefix)}
    if set(arrays) != set(meta["fields"]):
        raise Unmapped(f"holds {sorted(arrays)} but lists {sorted(meta['fields'])}")
    return Case(loss_of(path), meta, arrays)
