"""What a hyper-parameter may be: four small value objects. Imports nothing of the project.

A domain says which values are worth searching. It is comparable, hashable and printable; only
`facerec.tuning.search` knows how to turn one into a sampler's distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

Scalar: TypeAlias = bool | int | float | str | None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Uniform:
    """Real numbers from `low` to `high`, both included, all equally worth a try."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"{self}: low must be below high, both finite")

    def contains(self, value: Scalar) -> bool:
        """Whether `value` lies in the domain."""
        return _is_number(value) and self.low <= float(value or 0) <= self.high


@dataclass(frozen=True)
class LogUniform:
    """Positive real numbers from `low` to `high`, each factor equally worth a try."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"{self}: needs 0 < low < high, both finite")

    def contains(self, value: Scalar) -> bool:
        """Whether `value` lies in the domain."""
        return _is_number(value) and self.low <= float(value or 0) <= self.high


@dataclass(frozen=True)
class IntUniform:
    """Whole numbers from `low` to `high`, both included; by factors when `log`."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"{self}: low must be below high")
        if self.log and self.low < 1:
            raise ValueError(f"{self}: low must be at least 1 where log is set")

    def contains(self, value: Scalar) -> bool:
        """Whether `value` lies in the domain."""
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and (self.low <= value <= self.high)
        )


@dataclass(frozen=True)
class Choice:
    """One of a few named values, without an order."""

    options: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if len(self.options) < 2 or len(set(map(repr, self.options))) < len(self.options):
            raise ValueError(f"{self}: needs at least two options, each only once")

    def contains(self, value: Scalar) -> bool:
        """Whether `value` is one of the options (True is not 1)."""
        return any(value == option and type(value) is type(option) for option in self.options)


Domain: TypeAlias = Uniform | LogUniform | IntUniform | Choice
