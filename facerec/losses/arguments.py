"""Keywords of losses: declared by constructors, checked here, with errors that help.

A constructor's signature is the declaration. `Annotated[float, Interval(...)]` says which values
are valid, `Literal[...]` which names are; the default is the value where nothing is said.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from facerec.domains import Scalar
from facerec.values import one_of


@dataclass(frozen=True)
class Interval:
    """The valid values of a number: `low` to `high`, each included unless it is open."""

    low: float
    high: float = math.inf
    unit: str = ""
    open_low: bool = False
    open_high: bool = False

    def contains(self, value: float) -> bool:
        """Whether `value` is finite and inside."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def nearest(self, value: float, default: Scalar) -> Scalar:
        """The end that `value` has passed where that end is valid, else `default`."""
        end = self.high if value > self.low else self.low
        return f"{end:g}" if self.contains(end) else default

    def __str__(self) -> str:
        unit = f" ({self.unit})" if self.unit else ""
        if self.low == -math.inf:
            return f"any finite number{unit}"
        low = f"{'numbers above ' if self.open_low else ''}{self.low:g}"
        if self.high == math.inf:
            return f"{low}{'' if self.open_low else ' or more'}{unit}"
        return f"{low} to {'below ' if self.open_high else ''}{self.high:g}{unit}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that proposes the known name nearest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


def defaults(part: type) -> dict[str, Scalar]:
    """Keyword -> default of a part's constructor."""
    return {p.name: p.default for p in inspect.signature(part).parameters.values()}


def checked(part: type, keyword: str, value: Scalar) -> Scalar:
    """`value` as the type that `part` declares for `keyword`.

    Raises:
        ValueError: The wrong type, or outside the valid values; names the value and the limit.
    """
    hint: Any = get_type_hints(part.__init__, include_extras=True)[keyword]  # type: ignore[misc]
    if get_origin(hint) is Literal:
        one_of(keyword, value, get_args(hint))  # type: ignore[arg-type]
        return value
    interval: Interval | None = None
    if get_origin(hint) is Annotated:
        hint, interval = get_args(hint)
    types = get_args(hint) or (hint,)
    if value is None and NoneType in types:
        return None
    or_none = " or None" if NoneType in types else ""
    takes = f"{keyword} = {value!r}: {part.__name__} takes"
    if bool in types:
        if not isinstance(value, bool):
            raise ValueError(f"{takes} true or false")
        return value
    whole = int in types
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{takes} {kind}, {interval}{or_none}")
    if interval is not None and not interval.contains(float(value)):
        good = interval.nearest(float(value), defaults(part)[keyword])
        raise ValueError(f"{takes} {interval}{or_none}; try {good}")
    if whole and value != int(value):
        raise ValueError(f"{takes} a whole number, {interval}{or_none}; try {round(value)}")
    return int(value) if whole else float(value)


def unknown(
    loss: str, keyword: str, known: Mapping[str, Scalar], elsewhere: Mapping[str, Iterable[str]]
) -> ValueError:
    """The error for a keyword that `loss` lacks.

    Args:
        loss: Name of the loss.
        keyword: What was asked for.
        known: The keywords that the loss has.
        elsewhere: Setting, such as `objective=unified` -> the keywords that it would bring.
    """
    bringing = [setting for setting, keywords in elsewhere.items() if keyword in keywords]
    if bringing:
        hint = f" {keyword} comes with {' or '.join(bringing)}."
    else:
        hint = nearest(keyword, known)
    return ValueError(
        f"{keyword}: {loss} has no such hyper-parameter; it has {', '.join(known)}.{hint}"
    )
