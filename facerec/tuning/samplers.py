"""Where settings come from: Optuna samplers whose draws are functions of (seed, trial's number).

A sweep that was killed and resumed therefore asks for the same settings as an undisturbed one
(random sampling, and the first draws of TPE), or for ones as good (TPE's later draws, which follow
from the results that were known when they were asked for).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from facerec.domains import Choice, Domain, IntUniform, LogUniform, Scalar, Uniform


def distribution(domain: Domain) -> BaseDistribution:
    """Give Optuna's word for a domain."""
    match domain:
        case Uniform(low, high):
            return FloatDistribution(low, high)
        case LogUniform(low, high):
            return FloatDistribution(low, high, log=True)
        case IntUniform(low, high, log):
            return IntDistribution(low, high, log=log)
        case Choice(options):
            return CategoricalDistribution(options)


class RandomByNumber(BaseSampler):  # type: ignore[misc]  # Optuna is not followed
    """Independent draws, each from (seed, number, key)."""

    def __init__(self, keys: Sequence[str], seed: int) -> None:
        self._keys, self._seed = list(keys), seed

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one value."""
        return _at(self.unit(trial.number, param_name), param_distribution)

    def unit(self, number: int, key: str) -> float:
        """Give the number in [0, 1) that the draw of `key` in trial `number` comes from."""
        return float(np.random.default_rng([self._seed, number, self._keys.index(key)]).random())


_RIM = 0.05  # of a range on each side: few draws say more away from its ends


class SpreadByNumber(RandomByNumber):
    """Draws that spread evenly over the space, however few they are.

    Real keys follow the additive recurrence of the generalised golden ratio (a low-discrepancy
    sequence) from a random start; the first choice goes round its options, so that k of them are
    all tried by the first k trials.

    Args:
        space: Searched key -> domain.
        seed: Of the random start.
        first: The setting of trial 0 where it is given; the round of options begins there.
    """

    def __init__(self, space: Mapping[str, Domain], seed: int, first: Mapping[str, Scalar]) -> None:
        super().__init__(list(space), seed)
        count = len(space)
        golden = 2.0
        for _ in range(64):  # the root of x^(d + 1) = x + 1
            golden = (1 + golden) ** (1 / (count + 1))
        self._steps = [golden ** -(i + 1) for i in range(count)]
        start = np.random.default_rng([seed, count]).random(count)
        self._start = [float(value) for value in start]
        choices = [key for key, domain in space.items() if isinstance(domain, Choice)]
        self._round = choices[0] if choices else None
        if self._round is not None:
            domain = space[self._round]
            assert isinstance(domain, Choice)
            self._options = len(domain.options)
            self._offset = domain.options.index(first[self._round]) if first else 0

    def unit(self, number: int, key: str) -> float:
        """Give the number in [0, 1) that the draw of `key` in trial `number` comes from."""
        if key == self._round:
            return ((number + self._offset) % self._options + 0.5) / self._options
        index = self._keys.index(key)
        spread = (self._start[index] + number * self._steps[index]) % 1.0
        return _RIM + (1 - 2 * _RIM) * spread


class SpreadThenTPE(BaseSampler):  # type: ignore[misc]  # Optuna is not followed
    """Spread draws for the first trials, then the tree-structured Parzen estimator.

    TPE is multivariate, and counts running trials as bad ones while they run, so that trials
    asked for at the same time differ.

    Args:
        first: Gives the first draws.
        space: Searched key -> its distribution.
        startup: Trials below this number are spread.
        seed: Of TPE, together with the trial's number.
        earlier: Trials of earlier sweeps, which TPE learns from as from this one's.
    """

    def __init__(
        self,
        first: SpreadByNumber,
        space: Mapping[str, BaseDistribution],
        startup: int,
        seed: int,
        earlier: Sequence[FrozenTrial] = (),
    ) -> None:
        self._first, self._startup, self._seed = first, startup, seed
        # In this order TPE finds them itself, by going through all trials again for each.
        self._space = {key: space[key] for key in sorted(space) if not space[key].single()}
        self._earlier = list(earlier)
        self._sampler: BaseSampler = first

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose who draws this trial."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        known = self._earlier or study.get_trials(deepcopy=False, states=states)
        if trial.number < self._startup or not known:
            self._sampler = self._first
        else:
            seed = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0]
            self._sampler = TPESampler(
                seed=int(seed), n_startup_trials=0, multivariate=True, constant_liar=True
            )

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Give what is drawn jointly."""
        return {} if self._sampler is self._first else self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw jointly."""
        drawn: dict[str, Any] = self._sampler.sample_relative(
            self._seen(study), trial, search_space
        )
        return drawn

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one value."""
        return self._sampler.sample_independent(
            self._seen(study), trial, param_name, param_distribution
        )

    def _seen(self, study: Study) -> Any:
        return _Joined(study, self._earlier) if self._earlier else study


class _Joined:
    """A study as a sampler sees it, with earlier sweeps' trials before its own.

    (In the study itself they would take the numbers of this sweep's trials.)
    """

    def __init__(self, study: Study, earlier: Sequence[FrozenTrial]) -> None:
        self._study, self._earlier = study, list(earlier)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Sequence[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        own = self._study._get_trials(deepcopy, states, use_cache)
        return [t for t in self._earlier if states is None or t.state in states] + list(own)


def as_trials(
    earlier: Sequence[Mapping[str, Any]], space: Mapping[str, Domain], worst: float
) -> list[FrozenTrial]:
    """Give trials of earlier sweeps as Optuna has them, each as it would have been told here.

    Args:
        earlier: As `warm_start.gather` gives them.
        space: Searched key -> domain.
        worst: What a trial that diverged is told as.
    """
    wanted = {key: distribution(domain) for key, domain in space.items()}
    found = []
    for trial in earlier:
        diverged, stopped = trial["status"] == "diverged", trial["status"] == "stopped"
        found.append(
            create_trial(
                state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
                value=worst if diverged else trial["value"],
                params=dict(trial["setting"]),
                distributions=wanted,
                intermediate_values={math.ceil(e): float(v) for e, v in trial["epochs"]},
                constraints={"diverged": 1.0} if diverged else None,
            )
        )
    return found


def build(
    name: str,
    space: Mapping[str, Domain],
    *,
    trials: int,
    seed: int,
    first: Mapping[str, Scalar],
    earlier: Sequence[FrozenTrial] = (),
) -> BaseSampler:
    """Give the sampler of a sweep.

    Args:
        name: `tpe` or `random`.
        space: Searched key -> domain.
        trials: Length of the sweep; half of it, at most 10 trials, is spread before TPE starts
            (but each option of a choice is tried once). Earlier trials count among these.
        seed: Of all draws.
        first: The setting of trial 0 where it is given.
        earlier: Trials of earlier sweeps; only `tpe` learns.
    """
    if name == "random":
        return RandomByNumber(list(space), seed)
    options = max((len(d.options) for d in space.values() if isinstance(d, Choice)), default=0)
    startup = max(min(10, trials // 2), min(options, trials))
    startup = max(startup - len(earlier), 0)
    distributions = {key: distribution(domain) for key, domain in space.items()}
    return SpreadThenTPE(SpreadByNumber(space, seed, first), distributions, startup, seed, earlier)


def _at(unit: float, wanted: BaseDistribution) -> Any:
    """Map a number in [0, 1) to a distribution's value."""
    match wanted:
        case FloatDistribution(low=low, high=high, log=True):
            return min(max(math.exp(math.log(low) + unit * math.log(high / low)), low), high)
        case FloatDistribution(low=low, high=high):
            return low + unit * (high - low)
        case IntDistribution(low=low, high=high, log=True):
            drawn = math.exp(math.log(low - 0.5) + unit * math.log((high + 0.5) / (low - 0.5)))
            return min(max(round(drawn), low), high)
        case IntDistribution(low=low, high=high):
            return low + int(unit * (high - low + 1))
        case CategoricalDistribution(choices=choices):
            return choices[int(unit * len(choices))]
    raise AssertionError(wanted)
