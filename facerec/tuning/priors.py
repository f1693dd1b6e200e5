"""What theory says before any trial: a first point of a search, a line in its plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from facerec.config import flatten
from facerec.data.shards import Shards
from facerec.losses.cosface import least_scale
from facerec.tuning.sweep import Sweep

POSTERIOR = 0.999  # of the own class, which the least scale is for
_SCALE = "loss.scale"


def smallest_scale(base: Mapping[str, Any], classes: int) -> float | None:
    """The scale under which softmax cannot be sure; None where the loss is no softmax.

    Paper: CosFace, CVPR 2018: its lower bound of s.

    Args:
        base: Flat config.
        classes: Identities to train on.
    """
    if base.get("loss.objective") != "softmax" or classes < 2:
        return None
    return least_scale(classes, POSTERIOR)


def with_points(sweep: Sweep) -> Sweep:
    """Add a point to those that are tried first: the paper's values at the least scale.

    Papers tune their scale for ten thousand identities and more; with fewer the bound is lower, and
    gentle scales are often better. The point comes after the sweep's own, and only where the search
    has trials left for it and the scale is within its range.

    Args:
        sweep: With its data.
    """
    if _SCALE not in sweep.space or not sweep.points or len(sweep.points) >= sweep.trials:
        return sweep
    classes = Shards(sweep.base.data.train).split("train").classes
    least = smallest_scale(flatten(sweep.base), classes)
    point = {**sweep.points[0], _SCALE: round(least, 2) if least else None}
    if least is None or not sweep.space[_SCALE].contains(point[_SCALE]) or point in sweep.points:
        return sweep
    return replace(sweep, points=(*sweep.points, point))
