"""Is a setting better than the paper's values? The verdict over trainings with several seeds.

The statistics are those of `facerec.tuning.differences`; here they become words, never stronger
than the interval is. Pure: no files, no Ray, no Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facerec.domains import Scalar
from facerec.evaluation.comparison import NEITHER, verdict
from facerec.evaluation.uncertainty import CONFIDENCE, Interval, Resampled
from facerec.tuning.differences import Differences

METRIC = "confirm.tar"
_CONTROL = "the paper's values"
_MANY = 1000  # more seeds than that are no advice


@dataclass(frozen=True)
class Arm:
    """A setting that was trained with several seeds.

    Attributes:
        name: Such as `defaults`, `1`, `2`.
        setting: Its searched keys.
        seeds: Those whose training reached its end with a score.
        scores: (seeds,), the metric that judges; more is better.
        seconds: (seeds,), what each training took.

    Raises:
        ValueError: Numbers that do not fit each other, a seed that comes twice, a score that is
            not finite.
    """

    name: str
    setting: Mapping[str, Scalar]
    seeds: tuple[int, ...]
    scores: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def __post_init__(self) -> None:
        count = len(self.seeds)
        if np.shape(self.scores) != (count,) or np.shape(self.seconds) != (count,):
            raise ValueError(
                f"{self.name}: {count} seeds, scores {np.shape(self.scores)}, seconds "
                f"{np.shape(self.seconds)}: takes one score and one time for each seed"
            )
        if len(set(self.seeds)) < count or not np.isfinite(self.scores).all():
            raise ValueError(
                f"{self.name}: seeds {list(self.seeds)}, scores {np.asarray(self.scores).tolist()}"
                ": takes each seed once, and finite scores; leave out what diverged"
            )


@dataclass(frozen=True)
class Verdict:
    """What came of a setting beside the paper's values.

    Attributes:
        name: Of the setting.
        effect: Mean over common seeds of its score minus the defaults', in units of the metric;
            NaN where no seed has both.
        low: Lower end of the effect's interval, which holds for all settings together; NaN where
            nothing tells how far seeds differ.
        high: Upper end.
        verdict: `better`, `worse` or `not distinguishable`.
        seeds: How many trainings of each are compared.
        missing: Seeds that it or the defaults have no score for: they diverged, or failed.
        people: Identities measured on; 0 where other people are not part of the interval.
        standard_error: Of the effect.
        seeds_error: The part of it that other seeds account for (squares add up).
        people_error: The part that other people account for, whatever the seeds.
        seeds_needed: How many seeds of each it takes until the interval excludes 0, if the effect
            stays as estimated; None where the verdict is clear, and where no number of seeds does.
        people_needed: Where no number of seeds does: how many identities, with seeds enough.
        seconds: Mean over its trainings.
        sentence: All this in one.
    """

    name: str
    effect: float
    low: float
    high: float
    verdict: str
    seeds: int
    missing: tuple[int, ...]
    people: int
    standard_error: float
    seeds_error: float
    people_error: float
    seeds_needed: int | None
    people_needed: int | None
    seconds: float
    sentence: str


def judge(
    defaults: Arm,
    candidates: Sequence[Arm],
    identities: Resampled | None = None,
    *,
    confidence: float = CONFIDENCE,
    metric: str = METRIC,
    earlier: Sequence[Arm] = (),
) -> tuple[Verdict, ...]:
    """Compare confirmed settings with the paper's values.

    Args:
        defaults: The paper's values.
        candidates: The confirmed settings, trained with the same seeds.
        identities: One figure per training under the same draws of identities, in the order
            (defaults, each candidate), each with its seeds in their order; without it the interval
            says nothing of other people.
        confidence: Of the intervals, for all candidates together.
        metric: What the scores are, for the sentences.
        earlier: Other settings that were trained with several seeds, with the same budget on the
            same data. They are not judged, but their spread over seeds counts.

    Returns:
        One per candidate, in their order.

    Raises:
        ValueError: A confidence that is not between 0 and 1, or another number of figures than of
            trainings.
    """
    arms = [defaults, *candidates]
    trainings = sum(len(arm.seeds) for arm in arms)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: takes a number between 0 and 1, such as 0.95")
    if identities is not None and len(identities.values) != trainings:
        raise ValueError(
            f"{len(identities.values)} figures of identities for {trainings} trainings: takes one "
            "for each, those of the defaults first"
        )
    known = identities if trainings else None
    found = Differences(
        [(arm.seeds, arm.scores) for arm in arms],
        known,
        [(arm.seeds, arm.scores) for arm in earlier],
        confidence,
    )
    every = {seed for arm in arms for seed in arm.seeds}
    people = int(known.members.min()) if known is not None else 0
    verdicts = []
    for own, arm in enumerate(candidates):
        effect, half = float(found.effects[own]), found.half(own)
        interval = Interval(effect, effect - half, effect + half, people)
        unclear = verdict(interval) == NEITHER and bool(effect) and math.isfinite(half)
        seeds = found.seeds_needed(own) if unclear else None
        by_seeds, by_people = found.variances(own)
        verdicts.append(
            Verdict(
                name=arm.name,
                effect=effect,
                low=interval.low,
                high=interval.high,
                verdict=verdict(interval),
                seeds=len(found.common[own]),
                missing=tuple(sorted(every.difference(found.common[own]))),
                people=people,
                standard_error=math.sqrt(by_seeds + by_people),
                seeds_error=math.sqrt(by_seeds),
                people_error=math.sqrt(by_people),
                seeds_needed=seeds,
                people_needed=found.people_needed(own) if unclear and seeds is None else None,
                seconds=float(np.mean(arm.seconds)) if arm.seeds else math.nan,
                sentence="",
            )
        )
    # Nothing that was confirmed did better: then the paper's values are the best there is.
    unbeaten = any(v.seeds for v in verdicts) and not any(v.effect > 0 for v in verdicts)
    best = f"; of the {len(arms)} settings {_CONTROL} came out first" if unbeaten else ""
    return tuple(
        replace(v, sentence=_sentence(v, arm.setting, metric, confidence) + best)
        for v, arm in zip(verdicts, candidates, strict=True)
    )


def _sentence(found: Verdict, setting: Mapping[str, Scalar], metric: str, confidence: float) -> str:
    name = " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in setting.items()
    )
    lost = f"; no score of both with {_count(found.missing, 'seed')}" if found.missing else ""
    if not found.seeds:
        return f"{name} cannot be compared with {_CONTROL} by {metric}{lost}"
    said = f"{name} is {found.verdict} {'from' if found.verdict == NEITHER else 'than'} {_CONTROL}"
    digits = 3
    if found.standard_error > 0:  # two of its digits
        digits = min(max(1 - math.floor(math.log10(found.standard_error)), 2), 6)
    effect, low, high = (f"{v:+.{digits}f}" for v in (found.effect, found.low, found.high))
    behind = f"{found.seeds} seed{'s' if found.seeds > 1 else ''}"
    if math.isnan(found.low):
        return (
            f"{said} by {metric}: {effect}, without an interval ({behind}; it takes 2 or more)"
            f"{lost}"
        )
    behind += f", {found.people} people" if found.people else "; other people are not in it"
    return (
        f"{said} by {metric}: {effect}, {100 * confidence:g} % interval {low} to {high} "
        f"({behind}){lost}{_wanted(found)}"
    )


def _count(seeds: Sequence[int], word: str) -> str:
    return f"{word}{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _wanted(found: Verdict) -> str:
    """What it would take to tell, were the effect to stay as it is."""
    if found.seeds_needed is not None and found.seeds_needed <= _MANY:
        return f"; about {found.seeds_needed} seeds would tell an effect of this size"
    if found.seeds_needed is not None:
        return f"; more than {_MANY} seeds would be needed to tell an effect of this size"
    if found.people_needed is not None:
        return (
            f"; no number of seeds would tell an effect of this size, more than "
            f"{found.people_needed} people might"
        )
    return ""
