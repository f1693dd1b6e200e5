"""What a protocol gives: numbers with intervals, sentences, and what plots are drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from facerec.evaluation.curves import Curves
from facerec.evaluation.scores import Scores
from facerec.evaluation.templates import Switches
from facerec.evaluation.uncertainty import Interval, Resampled


@dataclass(frozen=True)
class Wanted:
    """What is asked of a measurement, beside the protocol's own numbers.

    Attributes:
        draws: Of the identities, for intervals; without any, as in training, there are none.
        seed: Of the draws.
        switches: Choices that change numbers.
        curves: Whether plots will be drawn.
        features: Where a set of distractors leaves feature files for MegaFace's development kit.
    """

    draws: int = 0
    seed: int = 0
    switches: Switches = field(default_factory=Switches)
    curves: bool = False
    features: Path | None = None


@dataclass(frozen=True)
class Measure:
    """One number: a row of the table that `facerec evaluate` writes.

    Attributes:
        metric: Such as `accuracy` or `tar@far=1e-3`.
        value: A fraction; NaN where it could not be measured.
        threshold: Where pairs were accepted: a squared distance of unit embeddings (10 folds) or a
            cosine (all others); None for numbers over several thresholds.
        fold: Number of the fold, from 0; None for all folds.
        low: Lower end of the 95 % interval; None where none was asked for, NaN where none can be.
        high: Upper end.
        group: Whose number it is; None for all pairs. A gap's is `BEST - WORST`.
    """

    metric: str
    value: float
    threshold: float | None = None
    fold: int | None = None
    low: float | None = None
    high: float | None = None
    group: str | None = None

    def within(self, interval: Interval | None) -> Measure:
        """The same number with its interval."""
        return self if interval is None else replace(self, low=interval.low, high=interval.high)


@dataclass(frozen=True)
class Part:
    """What one protocol gave.

    Attributes:
        protocol: Name, version and every switch, such as `ijb 1:N v1, flip=on, norm=on, ...`.
        measures: The numbers.
        curves: What plots are drawn from, where they were asked for.
    """

    protocol: str
    measures: tuple[Measure, ...]
    curves: Curves | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one set, from one pass over its images.

    Attributes:
        name: The set's name, the first part of its metrics' names.
        parts: One per protocol.
        notes: Sentences to show: what was counted, and why a number is missing.
        scores: Of single pairs, where the set has 10 folds and intervals were asked for.
    """

    name: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    scores: Scores | None = None

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The numbers of all protocols."""
        return tuple(one for part in self.parts for one in part.measures)

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers over all folds and groups by dotted name, such as `lfw.accuracy`."""
        whole = (m for m in self.measures if m.fold is None and m.group is None)
        return {f"{self.name}.{m.metric}": m.value for m in whole}


def with_intervals(
    measures: Sequence[Measure], names: Sequence[str], found: Resampled
) -> tuple[Measure, ...]:
    """Measures with the intervals of the figures that have their names.

    The interval lies around the measure's own value: the draws' may differ in the last digits.
    """
    place = {name: number for number, name in enumerate(names)}
    values = found.values.copy()
    for one in measures:
        if one.metric in place and not math.isnan(one.value):
            values[place[one.metric]] = one.value
    centred = replace(found, values=values)
    return tuple(
        one.within(centred.interval(place[one.metric])) if one.metric in place else one
        for one in measures
    )


def drawn(name: str, draws: int, identities: int, who: str) -> str:
    """What the intervals of a set were made from."""
    return f"{name}: 95 % intervals from {draws} draws of {identities} {who}"


def missing(name: str, reason: str) -> str:
    """Why there is no number."""
    return f"{name}: no number: {reason}"


def on_off(switch: bool) -> str:
    """How a switch is written in a protocol's line."""
    return "on" if switch else "off"
