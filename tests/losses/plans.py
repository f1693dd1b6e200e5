"""Which of our settings a golden case corresponds to; the losses that adapt their margin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from facerec.domains import Scalar

Hyper = dict[str, Any]


class Unmapped(AssertionError):
    """A golden case that asks for something unknown here."""


@dataclass
class Plan:
    """How our code computes a case.

    Attributes:
        loss: Our name.
        args: Keywords of the loss.
        sample_rate: Of the head.
        center_storage: Of the head.
        smallest_p: Below it the reference's loss (not its gradient) stands still.
        step: Batches that the head has seen before the first call.
        start: Attribute of the margin -> number that it holds before the first call.
        state: Field `state_<name>` of the case, after a step -> dotted attribute of our head.
    """

    loss: str
    args: dict[str, Scalar] = field(default_factory=dict)
    sample_rate: float = 1.0
    center_storage: str = "free"
    smallest_p: float = 0.0
    step: int = 0
    start: dict[str, float] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)


def _mv_softmax(h: Hyper) -> Plan:
    """`FC`: MV-AM and MV-Arc re-weight; AM and Arc are the same margins with a weight of 0."""
    kind, margin, weight = h.pop("fc_type"), h.pop("margin"), h.pop("t", 0.0)
    args: dict[str, Scalar] = {"scale": h.pop("scale")}
    easy = h.pop("easy_margin", True)
    if kind == "SphereFace":
        args |= {"margin": margin, "base": 1000.0, "gamma": 1e-4, "power": 2.0, "lambda_min": 5.0}
        return Plan("sphereface", args, step=h.pop("it", 0))
    if kind not in ("MV-AM", "MV-Arc", "AM", "Arc"):
        raise Unmapped(f"fc_type = {kind!r} is not known here")
    h.pop("it", None)  # counts for SphereFace alone
    args |= {"margin": margin, "past_pi": "easy" if easy else "none"}
    args["variant"] = "am" if kind.endswith("AM") else "arc"
    if kind.startswith("MV-"):
        return Plan("mv_softmax", args | {"hard_weight": weight, "adaptive": True})
    return Plan("mv_softmax", args | {"hard_weight": 0.0, "adaptive": False})


def _curricularface(h: Hyper) -> Plan:
    args = {"margin": h.pop("m"), "scale": h.pop("s"), "past_pi": "linear"}
    start = {"hardness": h.pop("t0", 0.0)}
    return Plan("curricularface", args, start=start, state={"t": "margin.hardness"})


def _adaface(h: Hyper) -> Plan:
    args = {"margin": h.pop("m"), "concentration": h.pop("h"), "scale": h.pop("s")}
    args |= {"norm_momentum": h.pop("t_alpha"), "cosine_eps": 1e-3}
    names = ("batch_mean", "batch_std")
    return Plan("adaface", args, state={name: f"margin.{name}" for name in names})


def _elasticface(variant: str) -> Callable[[Hyper], Plan]:
    def plan(h: Hyper) -> Plan:
        args = {"margin": h.pop("m"), "sigma": h.pop("std"), "scale": h.pop("s")}
        args |= {"plus": h.pop("plus"), "plus_assignment": "reference"}
        return Plan("elasticface", args | {"variant": variant, "past_pi": "none"})

    return plan


def _magface(h: Hyper) -> Plan:
    args: dict[str, Scalar] = {"norm_low": h.pop("l_a"), "norm_high": h.pop("u_a")}
    args |= {"margin_low": h.pop("l_margin"), "margin_high": h.pop("u_margin")}
    args |= {"scale": h.pop("scale"), "past_pi": "easy" if h.pop("easy_margin") else "linear"}
    # Not as a keyword: the reference takes weights under the bound too.
    return Plan("magface", args, start={"lambda_g": h.pop("lambda_g")})


ADAPTIVE: dict[tuple[str, str, str], Callable[[Hyper], Plan]] = {
    ("mv_softmax", "xiaoboCASIA/SV-X-Softmax", "FC"): _mv_softmax,
    ("curricularface", "HuangYG123/CurricularFace", "CurricularFace"): _curricularface,
    ("adaface", "mk-minchul/AdaFace", "AdaFace"): _adaface,
    ("elasticface", "fdbtrs/ElasticFace", "ElasticArcFace"): _elasticface("arc"),
    ("elasticface", "fdbtrs/ElasticFace", "ElasticCosFace"): _elasticface("cos"),
    ("magface", "IrvingMeng/MagFace", "MagLinear + MagLoss"): _magface,
}
