"""Single values: are they of the right type, are they in range? With errors that help."""

from __future__ import annotations

import difflib
from types import NoneType
from typing import Any, get_args


class ConfigError(ValueError):
    """A key, a value or an option that the user can mend; the message says how."""


def typed(key: str, value: Any, wanted: Any) -> Any:
    """Check a value's type, reading text where another type is wanted.

    Raises:
        ConfigError: Naming key, value and what is taken.
    """
    if NoneType in get_args(wanted):
        if str(value).lower() == "none":
            return None
        (wanted,) = (kind for kind in get_args(wanted) if kind is not NoneType)
    if wanted is bool:
        words = {"true": True, "false": False}
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{key} = {value!r}: takes true or false")
    if wanted is type(None) and str(value).lower() == "none":
        return None
    if wanted is str:
        if isinstance(value, str):
            return value
        raise ConfigError(f"{key} = {value!r}: takes text")
    number: Any = value
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            try:
                number = float(value)
            except ValueError:
                number = None
    if isinstance(number, bool) or not isinstance(number, int | float):
        kind = "a whole number" if wanted is int else "a number"
        raise ConfigError(f"{key} = {value!r}: takes {kind}")
    if wanted is int and not isinstance(number, int):
        if number == number and abs(number) < 2**53 and number == int(number):
            return int(number)
        raise ConfigError(f"{key} = {value!r}: takes a whole number")
    if number != number:
        raise ConfigError(f"{key} = {value!r}: takes a number, not NaN")
    return float(number) if wanted is float else number


def at_least(name: str, value: float, limit: float) -> None:
    """Refuse a value below `limit`."""
    if not value >= limit:
        raise ValueError(f"{name} = {value}: takes {limit} or more")


def within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}: takes {low} to {high}")


def above_zero(name: str, value: float, high: float) -> None:
    """Refuse a value that is not above 0, or above `high`."""
    if not 0 < value <= high:
        raise ValueError(f"{name} = {value}: takes more than 0, up to {high}")


def one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    """Refuse a value that is none of the options, naming the nearest."""
    if value not in options:
        near = difflib.get_close_matches(str(value), options, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name} = {value!r}: takes {', '.join(options)}.{hint}")
