"""Which of our settings a golden case corresponds to; the losses that multiply or combine angles.

opensphere multiplies without a gradient through the margin, and stores centers normalised.
"""

from __future__ import annotations

from collections.abc import Callable

from facerec.domains import Scalar
from tests.losses.plans import Hyper, Plan, Unmapped


def _sphereface_of_clcarwin(h: Hyper) -> Plan:
    args: dict[str, Scalar] = {"margin": h.pop("m"), "focal": h.pop("gamma", 0)}
    args |= {"base": 1500.0, "gamma": 0.1, "power": 1.0, "lambda_min": 5.0}
    return Plan("sphereface", args, step=h.pop("it", 0))


def _sphereface_of_mugglewang(h: Hyper) -> Plan:
    args: dict[str, Scalar] = {"margin": h.pop("m")}
    args |= {"base": 1000.0, "gamma": 0.12, "power": 1.0, "lambda_min": 5.0}
    return Plan("sphereface", args, step=h.pop("it", 0))


def _sphereface_r(h: Hyper) -> Plan:
    """`SphereFace` is v0 and has no weight; `SphereFaceR_H` has both keywords."""
    args: dict[str, Scalar] = {"margin": h.pop("m"), "scale": h.pop("s"), "gradient": "detached"}
    args |= {"variant": h.pop("magn_type", "v0"), "loss_weight": h.pop("lw", None)}
    return Plan("sphereface_r", args | {"cosine_eps": 1e-5}, center_storage="unit")


def _sphereface2(variant: str, gradient: str, **more: Scalar) -> Callable[[Hyper], Plan]:
    def plan(h: Hyper) -> Plan:
        margin = h.pop("m") - (1.0 if variant == "M" else 0.0)
        args: dict[str, Scalar] = {"margin": margin, "scale": h.pop("r"), "warp": h.pop("t")}
        args |= {"positive_weight": h.pop("alpha"), "loss_weight": h.pop("lw")}
        args |= {"variant": variant, "gradient": gradient}
        return Plan("sphereface2", args | more, center_storage="unit")

    return plan


def _insightface(h: Hyper) -> dict[str, Scalar]:
    """`CombinedMarginLoss`, which is not the paper's formula."""
    args: dict[str, Scalar] = {name: h.pop(name) for name in ("m1", "m2", "m3")}
    if args["m3"] == 0 and args["m1"] != 1:
        raise Unmapped(f"{args}: the reference refuses these")
    return args | {"scale": h.pop("s"), "insightface_compat": True}


def _combined(h: Hyper) -> Plan:
    limit = h.pop("interclass_filtering_threshold", 0)
    return Plan("combined", _insightface(h) | {"filter": limit})


def _partial_fc(h: Hyper) -> Plan:
    h.pop("torch_seed", None)  # the sample itself is given
    args = _insightface(h) | {"filter": h.pop("filter")}
    return Plan("combined", args, h.pop("sample_rate"), smallest_p=1e-30)


ANGULAR: dict[tuple[str, str, str], Callable[[Hyper], Plan]] = {
    ("sphereface", "clcarwin/sphereface_pytorch", "AngleLinear + AngleLoss"): (
        _sphereface_of_clcarwin
    ),
    ("sphereface", "MuggleWang/CosFace_pytorch", "AngleLinear"): _sphereface_of_mugglewang,
    ("sphereface_r", "ydwen/opensphere", "SphereFace"): _sphereface_r,
    ("sphereface_r", "ydwen/opensphere", "SphereFaceR_H"): _sphereface_r,
    ("sphereface2", "ydwen/opensphere", "SphereFace2"): _sphereface2("C", "detached"),
    ("sphereface2", "ydwen/opensphere", "SphereFace2C"): _sphereface2("C", "exact"),
    ("sphereface2", "ydwen/opensphere", "SphereFace2A"): _sphereface2(
        "A", "detached", cosine_eps=1e-8, largest_angle=3.14
    ),
    ("sphereface2", "ydwen/opensphere", "SphereFace2M"): _sphereface2(
        "M", "detached", cosine_eps=1e-8, largest_angle=3.14
    ),
    ("combined", "deepinsight/insightface", "CombinedMarginLoss"): _combined,
    ("partial_fc", "deepinsight/insightface", "PartialFC_V2"): _partial_fc,
}
