"""The tables of losses, and how a name with keywords becomes the parts of a loss.

A loss is a margin and an objective. Any margin goes with any objective through the keyword
`objective`; the keywords of both are flat and never collide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from facerec.domains import Scalar, Uniform
from facerec.losses.arcface import ArcFace
from facerec.losses.arguments import checked, defaults, unknown
from facerec.losses.base import Loss, LossSpec, Objective
from facerec.losses.cosface import CosFace
from facerec.losses.normface import NormFace
from facerec.losses.softmax import InnerProduct, Softmax
from facerec.losses.uniface import BinaryCrossEntropy, UnifiedCrossEntropy
from facerec.values import one_of

__all__ = ["LOSSES", "OBJECTIVES", "REGULARIZERS", "build", "check", "keywords"]

OBJECTIVES: Final[dict[str, type[Objective]]] = {
    "softmax": Softmax,
    "unified": UnifiedCrossEntropy,
    "binary": BinaryCrossEntropy,
}

REGULARIZERS: Final[dict[str, type]] = {}

LOSSES: Final[dict[str, LossSpec]] = {
    "softmax": LossSpec(InnerProduct, Softmax),
    "normface": LossSpec(NormFace, Softmax),
    "cosface": LossSpec(CosFace, Softmax),
    "arcface": LossSpec(ArcFace, Softmax),
    "uniface": LossSpec(
        CosFace, UnifiedCrossEntropy, {"margin": 0.4}, {"margin": Uniform(0.2, 0.6)}
    ),
    "uniface_bce": LossSpec(
        CosFace, BinaryCrossEntropy, {"margin": 0.4}, {"margin": Uniform(0.2, 0.6)}
    ),
    "uniface_softmax": LossSpec(CosFace, Softmax, {"margin": 0.4}, {"margin": Uniform(0.2, 0.6)}),
}


def _objective(name: str, args: Mapping[str, Scalar]) -> type[Objective]:
    """The objective that `args` ask for, else the loss's own."""
    one_of("loss", name, tuple(LOSSES))
    objective = str(args.get("objective", LOSSES[name].objective.term))
    one_of("objective", objective, tuple(OBJECTIVES))
    return OBJECTIVES[objective]


def keywords(name: str, args: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
    """Keyword -> default of a loss, over all its parts.

    Args:
        name: An entry of `LOSSES`.
        args: Keywords that are given; `objective` among them decides which others there are.

    Raises:
        ValueError: No such loss or objective.
    """
    objective = _objective(name, args or {})
    own = LOSSES[name].objective.term
    return {**LOSSES[name].defaults(objective), "objective": own, "regularizer": "none"}


def _arguments(part: type, values: Mapping[str, Scalar]) -> dict[str, Any]:
    """The keywords of one part, checked."""
    return {keyword: checked(part, keyword, values[keyword]) for keyword in defaults(part)}


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
        args: Keywords that differ from the defaults, of any part, `objective` included.
        num_classes: Classes over all workers.
        embedding_size: D.
        sample_rate: Share of the classes that each batch meets.

    Raises:
        ValueError: An unknown name or keyword, a wrong type, a value outside its valid range, or a
            formula that these classes do not allow; says which would be right.
    """
    objective_type, margin_type = _objective(name, args), LOSSES[name].margin
    values = keywords(name, args)
    for keyword, value in args.items():
        if keyword not in values:
            elsewhere = {f"objective={o}": defaults(part) for o, part in OBJECTIVES.items()}
            raise unknown(name, keyword, values, elsewhere)
        values[keyword] = value
    one_of("regularizer", str(values["regularizer"]), ("none", *REGULARIZERS))
    margin = margin_type(**_arguments(margin_type, values))
    objective = objective_type(**_arguments(objective_type, values))
    bias_start = objective.start(
        margin, num_classes=num_classes, embedding_size=embedding_size, sample_rate=sample_rate
    )
    return Loss(margin, objective, bias_start)


def check(name: str, args: Mapping[str, Scalar]) -> None:
    """Raises the ValueError of `build` where no data could make these keywords right."""
    build(name, args, num_classes=10_000, embedding_size=512)
