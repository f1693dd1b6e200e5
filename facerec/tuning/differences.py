"""Differences of several settings to one, over seeds and people: how large, and how sure.

All settings were trained with the same seeds and measured on the same people, so what a seed or a
person does to all of them falls out of the differences. Two things do not. Another seed would give
other models: the spread of the scores about what setting and seed explain, pooled over all
settings, because a single one has far too few seeds to tell its own (it is taken as equal in all).
Other people would prefer other settings: draws of identities. A part of that, what single models
happen to do with these people, is in the spread over seeds already, and is not counted twice.

The interval has Satterthwaite's degrees of freedom, and Dunnett's quantile: it holds for all the
differences together. The formula is the same for any number of seeds. NumPy and SciPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from facerec.evaluation.uncertainty import Resampled
from facerec.tuning import dunnett

Floats = NDArray[np.float64]
Trained = tuple[Sequence[int], Floats]  # seeds, and a score for each

_ENDLESS = 10**9  # seeds, or times as many people


class Differences:
    """Differences to the first of several settings; numbered from 0, which is the second setting.

    Args:
        settings: Seeds and scores of each.
        identities: One figure per training under the same draws of identities, setting by setting;
            None where other people are left out of account.
        earlier: Further settings, trained likewise, whose spread over seeds counts as well.
        confidence: Of all intervals together.

    Attributes:
        effects: (settings - 1,), means over common seeds; NaN where no seed is common.
        common: The seeds that each setting has in common with the first.
    """

    def __init__(
        self,
        settings: Sequence[Trained],
        identities: Resampled | None = None,
        earlier: Sequence[Trained] = (),
        confidence: float = 0.95,
    ) -> None:
        first = set(settings[0][0])
        cells = [(k, seed) for k, (own, _) in enumerate(settings) for seed in own]
        self._arms, self._confidence, self._identities = len(settings), confidence, identities
        self.common = [sorted(first & set(own)) for own, _ in settings[1:]]
        self._mixes = [
            np.array([((k == own) - (k == 0)) * (s in both) / max(len(both), 1) for k, s in cells])
            for own, both in enumerate(self.common, 1)
        ]
        scores = [dict(zip(own, map(float, values), strict=True)) for own, values in settings]
        self.effects = np.array(
            [
                np.mean([own[s] - scores[0][s] for s in both]) if both else math.nan
                for own, both in zip(scores[1:], self.common, strict=True)
            ]
        )
        self._spread(settings, earlier)
        self._people = np.zeros(len(self.effects))  # variances that no number of seeds takes away
        self._freedoms = np.ones(len(self.effects))
        if identities is not None:
            for own, both in enumerate(self.common):
                if both:
                    _, error, self._freedoms[own] = identities.contrast(self._mixes[own])
                    lasting = error**2 - 2 * self._chance / len(both)
                    self._people[own] = lasting if math.isnan(lasting) else max(lasting, 0.0)
        self._correlation = self._least_correlation()

    def variances(self, own: int) -> tuple[float, float]:
        """Give the variance that other seeds account for, and the one of other people."""
        seeds = len(self.common[own])
        return (2 * self._training / seeds if seeds else math.nan), float(self._people[own])

    def half(self, own: int, seeds: float | None = None, people: float = 1.0) -> float:
        """Give half the interval's length; NaN where nothing tells how far seeds differ.

        Args:
            own: Number of the difference.
            seeds: With so many of each in place of those there are.
            people: With so many times the people.
        """
        there = len(self.common[own])
        count = there if seeds is None else seeds
        if not there or math.isnan(self._training + self._people[own]):
            return math.nan
        drawn, lasting = 2 * self._training / count, float(self._people[own]) / people
        # A seed more is a residual more in each setting but the first.
        freedom = max(self._freedom + (self._arms - 1) * (count - there), 1.0)
        if drawn + lasting > 0:
            parts = drawn**2 / freedom + lasting**2 / (self._freedoms[own] * people)
            freedom = max((drawn + lasting) ** 2 / parts, 1.0)
        compared = sum(map(bool, self.common))
        limit = dunnett.quantile(compared, freedom, self._correlation, self._confidence)
        return limit * math.sqrt(drawn + lasting)

    def seeds_needed(self, own: int) -> int | None:
        """Give how many seeds it takes until the interval excludes 0, the effect staying as it is.

        None where no number of seeds does.
        """
        effect = abs(float(self.effects[own]))
        return _least(2, lambda seeds: self.half(own, seeds) < effect)

    def people_needed(self, own: int) -> int | None:
        """Give how many people it takes, with seeds enough; None where none are known of."""
        if self._identities is None:
            return None
        effect, people = abs(float(self.effects[own])), int(self._identities.members.min())
        return _least(people, lambda n: self.half(own, _ENDLESS, n / people) < effect)

    def _spread(self, settings: Sequence[Trained], earlier: Sequence[Trained]) -> None:
        """Variance of one training by its seed, and what of it is chance with these people."""
        total, self._freedom, self._training, self._chance = 0.0, 0, math.nan, 0.0
        # Apart: in an earlier sweep the same seed need not have done the same.
        for group in filter(None, (settings, earlier)):
            mixes = _left_over(group)
            values = np.concatenate([np.asarray(own, np.float64) for _, own in group])
            total += float(np.square(values @ mixes).sum())
            self._freedom += mixes.shape[1]
        if not self._freedom:
            return
        self._training = total / self._freedom
        mixes = _left_over(settings)
        if self._identities is not None and mixes.shape[1]:
            errors = [self._identities.contrast(mix)[1] for mix in mixes.T]
            self._chance = float(np.square(errors).mean())
            # A few seeds may happen to lie closer together than their people alone allow.
            self._training = max(self._training, self._chance)

    def _least_correlation(self) -> float:
        """The lowest correlation between two of the differences, as far as it is known."""
        found = [1.0]
        for one, two in ((i, j) for j in range(len(self.effects)) for i in range(j)):
            sets = set(self.common[one]), set(self.common[two])
            if not (sets[0] and sets[1]) or math.isnan(self._training):
                continue
            shared = len(sets[0] & sets[1]) / (len(sets[0]) * len(sets[1]))
            covariance = shared * self._training
            if self._identities is not None:
                mixes = self._mixes[one], self._mixes[two]
                both, *each = (self._identities.contrast(m)[1] for m in (sum(mixes), *mixes))
                together = (both**2 - each[0] ** 2 - each[1] ** 2) / 2
                covariance += together - shared * self._chance
            product = math.prod(sum(self.variances(own)) for own in (one, two))
            found.append(covariance / math.sqrt(product) if product > 0 else 0.0)
        return max(min(found), 0.0) if not any(map(math.isnan, found)) else 0.0


def _left_over(settings: Sequence[Trained]) -> Floats:
    """(trainings, freedom): what neither setting nor seed explains of the scores."""
    arms = np.repeat(np.arange(len(settings)), [len(seeds) for seeds, _ in settings])
    flat = [seed for seeds, _ in settings for seed in seeds]
    known, place = np.unique(flat, return_inverse=True)
    design = np.hstack([np.eye(len(settings))[arms], np.eye(len(known))[place]])
    basis: Floats = linalg.null_space(design.T) if len(flat) else np.empty((0, 0))
    return basis


def _least(start: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest number from `start` on that is enough; None where none below 10^9 is."""
    if not enough(_ENDLESS):
        return None
    low, high = start - 1, start
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
