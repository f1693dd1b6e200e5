"""What a sweep is: a frozen value that says what is searched, around which config."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from facerec.config import ConfigError, TrainConfig, override
from facerec.domains import Choice, Domain, IntUniform, LogUniform, Scalar, Uniform

MOST_SEEDS = 1000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
# Not searchable, each with what to do instead.
_REFUSED = {
    "loss.name": "losses are compared by one sweep each, with equal numbers of trials: a joint "
    "search starves those that start slowly",
    "epochs": "trials of different length cannot be ranked; set epochs=N for all of them",
    "data.train": "scores on different data cannot be ranked; make one sweep for each",
    "data.eval": "scores on different data cannot be ranked; give all sets to every trial",
}


@dataclass(frozen=True)
class Sweep:
    """A search for the best values of some config keys.

    Attributes:
        name: Name of the sweep's folder.
        base: The config that each trial changes.
        space: Dotted config key -> what it may be.
        metric: Column of the reports that is maximised: `val.tar`, `<set>.accuracy`, ...
        trials: How many settings are tried.
        confirm: So many of the best settings are trained again for the verdict, and with them the
            first of `points`; 0 leaves the confirmation out.
        seeds: How often each of them is trained again: with seeds `base.seed` + 1 and so on.
        early_stop: Stop trials that lag behind at a quarter or half of their epochs (ASHA).
            Large margins start slowly: where they matter, compare with `early_stop=False`.
        workers: Training processes per trial; each takes one accelerator where there are some.
        points: Settings that are tried first, the paper's values foremost; the first one is the
            one that the report compares the winner with.

    Raises:
        ConfigError: For a key that the base config does not have, values that it does not take,
            a point that is not in the space.
    """

    name: str
    base: TrainConfig
    space: Mapping[str, Domain]
    metric: str = "val.tar"
    trials: int = 20
    confirm: int = 3
    seeds: int = 3
    early_stop: bool = True
    workers: int = 1
    points: tuple[Mapping[str, Scalar], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", dict(self.space))
        object.__setattr__(self, "points", tuple(dict(point) for point in self.points))
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"name = {self.name!r}: a sweep's name has 1 to 60 letters, digits, '_', '-', '.'"
            )
        if not self.metric:
            raise ConfigError("metric = '': name a column to maximise, such as val.tar")
        for option, least in (("trials", 1), ("confirm", 0), ("seeds", 1), ("workers", 1)):
            if getattr(self, option) < least:
                raise ConfigError(f"{option} = {getattr(self, option)}: takes {least} or more")
        if self.seeds > MOST_SEEDS:
            raise ConfigError(f"seeds = {self.seeds}: takes {MOST_SEEDS} or fewer")
        if not self.space:
            raise ConfigError("space: is empty; give at least one key, such as loss.margin")
        for key, domain in self.space.items():
            self._check_domain(key, domain)
        for index, point in enumerate(self.points):
            self._check_point(index, point)

    def config(self, setting: Mapping[str, Scalar]) -> TrainConfig:
        """Give the config of a trial with this setting."""
        return override(self.base, setting)

    def _check_domain(self, key: str, domain: object) -> None:
        if key in _REFUSED:
            raise ConfigError(f"space: {key} cannot be searched: {_REFUSED[key]}")
        if not isinstance(domain, Domain):
            raise ConfigError(
                f"space: {key} = {domain!r}: takes Uniform, LogUniform, IntUniform or Choice"
            )
        for value in extremes(domain):
            try:
                self.config({key: value})
            except ConfigError as error:
                raise ConfigError(f"space: {key} in {domain} cannot be searched: {error}") from None

    def _check_point(self, index: int, point: Mapping[str, Scalar]) -> None:
        where = f"points[{index}]"
        for key in point:
            if key not in self.space:
                near = difflib.get_close_matches(key, self.space, n=1) or list(self.space)
                raise ConfigError(f"{where}: {key} is not searched. Did you mean {near[0]}?")
        for key, domain in self.space.items():
            if key not in point:
                raise ConfigError(f"{where}: lacks {key}; a point has a value for every key")
            if not domain.contains(point[key]):
                raise ConfigError(f"{where}: {key} = {point[key]!r} is not in {domain}")
        self.config(point)


def extremes(domain: Domain) -> Iterator[Scalar]:
    """Values that show whether a key takes all of a domain: its ends and one between."""
    match domain:
        case Choice(options):
            yield from options
        case IntUniform(low, high):
            yield from (low, high)
        case Uniform(low, high) | LogUniform(low, high):
            yield from (low, high, low + (high - low) / math.e)


def as_json(domain: Domain) -> dict[str, Scalar | list[Scalar]]:
    """Give a domain as a table that JSON can hold."""
    match domain:
        case Choice(options):
            return {"kind": "choice", "options": list(options)}
        case IntUniform(low, high, log):
            return {"kind": "int", "low": low, "high": high, "log": log}
        case LogUniform(low, high):
            return {"kind": "log_uniform", "low": low, "high": high}
        case Uniform(low, high):
            return {"kind": "uniform", "low": low, "high": high}
