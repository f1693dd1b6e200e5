"""The tables of losses, and how a name with keywords becomes the parts of a loss.

A loss is a margin, an objective and perhaps a regularizer. Any margin goes with any objective
through the keyword `objective`, any regularizer with any loss through `regularizer`; the keywords
of all parts are flat and never collide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from facerec.domains import Scalar, Uniform
from facerec.losses.adaface import AdaFace
from facerec.losses.arcface import ArcFace
from facerec.losses.arguments import checked, defaults, unknown
from facerec.losses.base import Loss, LossSpec, Margin, Objective, Regularizer
from facerec.losses.combined import CombinedMargin
from facerec.losses.contraface import Contrast
from facerec.losses.cosface import CosFace
from facerec.losses.curricularface import CurricularFace
from facerec.losses.elasticface import ElasticFace
from facerec.losses.magface import MagFace
from facerec.losses.mv_softmax import MVSoftmax
from facerec.losses.normface import NormFace
from facerec.losses.scf import ConfidenceLikelihood
from facerec.losses.softmax import InnerProduct, Softmax
from facerec.losses.sphereface import SphereFace
from facerec.losses.sphereface2 import SphereFace2, WeightedBinaryCrossEntropy
from facerec.losses.sphereface_r import SphereFaceR
from facerec.losses.uniface import BinaryCrossEntropy, UnifiedCrossEntropy
from facerec.losses.uniformface import Exclusive
from facerec.losses.uniformface import Uniform as UniformSpread
from facerec.losses.unitsface import SampleToSample
from facerec.values import one_of

__all__ = ["LOSSES", "OBJECTIVES", "REGULARIZERS", "build", "check", "keywords", "parts"]

OBJECTIVES: Final[dict[str, type[Objective]]] = {
    "softmax": Softmax,
    "unified": UnifiedCrossEntropy,
    "binary": BinaryCrossEntropy,
    "weighted_binary": WeightedBinaryCrossEntropy,
}

REGULARIZERS: Final[dict[str, type[Regularizer]]] = {
    "uniform": UniformSpread,
    "exclusive": Exclusive,
    "contrast": Contrast,
    "sample_to_sample": SampleToSample,
}

_OF_UNIFACE = {"margin": Uniform(0.2, 0.6)}

LOSSES: Final[dict[str, LossSpec]] = {
    "softmax": LossSpec(InnerProduct, Softmax),
    "normface": LossSpec(NormFace, Softmax),
    "sphereface": LossSpec(SphereFace, Softmax),
    "sphereface_r": LossSpec(SphereFaceR, Softmax, {"loss_weight": 50.0}),
    "sphereface2": LossSpec(SphereFace2, WeightedBinaryCrossEntropy),
    "cosface": LossSpec(CosFace, Softmax),
    "arcface": LossSpec(ArcFace, Softmax),
    "combined": LossSpec(CombinedMargin, Softmax),
    "mv_softmax": LossSpec(MVSoftmax, Softmax),
    "curricularface": LossSpec(CurricularFace, Softmax),
    "broadface": LossSpec(ArcFace, Softmax, queue_size=32_000),
    "scf": LossSpec(InnerProduct, ConfidenceLikelihood, composable=False),
    "adaface": LossSpec(AdaFace, Softmax),
    "elasticface": LossSpec(ElasticFace, Softmax),
    "magface": LossSpec(MagFace, Softmax),
    "uniface": LossSpec(CosFace, UnifiedCrossEntropy, {"margin": 0.4}, _OF_UNIFACE),
    "uniface_bce": LossSpec(CosFace, BinaryCrossEntropy, {"margin": 0.4}, _OF_UNIFACE),
    "uniface_softmax": LossSpec(CosFace, Softmax, {"margin": 0.4}, _OF_UNIFACE),
    "uniformface": LossSpec(SphereFace, Softmax, regularizer=UniformSpread),
    "contraface": LossSpec(ArcFace, Softmax, regularizer=Contrast),
    "unitsface": LossSpec(CosFace, Softmax, {"margin": 0.4}, regularizer=SampleToSample),
}

Parts = tuple[type[Margin], type[Objective], type[Regularizer] | None]


def parts(name: str, args: Mapping[str, Scalar] | None = None) -> Parts:
    """Margin, objective and regularizer that a loss with these keywords is made of.

    Raises:
        ValueError: No such loss, objective or regularizer.
    """
    one_of("loss", name, tuple(LOSSES))
    spec, given = LOSSES[name], args or {}
    if not spec.composable:
        return spec.margin, spec.objective, None
    objective = str(given.get("objective", spec.objective.term))
    one_of("objective", objective, tuple(OBJECTIVES))
    own = "none" if spec.regularizer is None else spec.regularizer.term
    regularizer = str(given.get("regularizer", own))
    one_of("regularizer", regularizer, ("none", *REGULARIZERS))
    return spec.margin, OBJECTIVES[objective], REGULARIZERS.get(regularizer)


def keywords(name: str, args: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
    """Keyword -> default of a loss, over all its parts.

    Args:
        name: An entry of `LOSSES`.
        args: Keywords that are given; `objective` and `regularizer` among them decide which
            others there are.

    Raises:
        ValueError: No such loss, objective or regularizer.
    """
    found = {k: v for part in parts(name, args) if part for k, v in defaults(part).items()}
    spec = LOSSES[name]
    found |= {keyword: value for keyword, value in spec.changed.items() if keyword in found}
    if spec.composable:
        found["objective"] = spec.objective.term
        found["regularizer"] = "none" if spec.regularizer is None else spec.regularizer.term
    return found


def build(
    name: str,
    args: Mapping[str, Scalar],
    *,
    num_classes: int,
    embedding_size: int,
    sample_rate: float = 1.0,
) -> Loss:
    """The parts of a loss, ready for a head.

    Args:
        name: An entry of `LOSSES`.
        args: Keywords that differ from the defaults, of any part, `objective` and `regularizer`
            included.
        num_classes: Classes over all workers.
        embedding_size: D.
        sample_rate: Share of the classes that each batch meets.

    Raises:
        ValueError: An unknown name or keyword, a wrong type, a value outside its valid range, or a
            formula that these classes do not allow; says which would be right.
    """
    margin_type, objective_type, regularizer_type = parts(name, args)
    values = keywords(name, args)
    for keyword, value in args.items():
        if keyword not in values:
            elsewhere: dict[str, Any] = {}
            if LOSSES[name].composable:
                elsewhere = {f"objective={o}": defaults(part) for o, part in OBJECTIVES.items()}
                elsewhere |= {f"regularizer={r}": defaults(p) for r, p in REGULARIZERS.items()}
            raise unknown(name, keyword, values, elsewhere)
        values[keyword] = value
    margin = margin_type(**_arguments(margin_type, values))
    objective = objective_type(**_arguments(objective_type, values))
    bias_start = objective.start(
        margin, num_classes=num_classes, embedding_size=embedding_size, sample_rate=sample_rate
    )
    regularizer = None
    if regularizer_type is not None:
        regularizer = regularizer_type(**_arguments(regularizer_type, values))
    return Loss(margin, objective, bias_start, regularizer)


def _arguments(part: type, values: Mapping[str, Scalar]) -> dict[str, Any]:
    """The keywords of one part, checked."""
    return {keyword: checked(part, keyword, values[keyword]) for keyword in defaults(part)}


def check(name: str, args: Mapping[str, Scalar]) -> None:
    """Raises the ValueError of `build` where no data could make these keywords right."""
    build(name, args, num_classes=10_000, embedding_size=512)
