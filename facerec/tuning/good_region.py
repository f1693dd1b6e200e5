"""The good region of a search: what each key may be without losing more than chance explains.

Pure: tables in, a table out. Ends of a range are values that were tried; what lies between them was
not tried everywhere, and the true region may reach further.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from facerec.domains import Choice, Domain, IntUniform, LogUniform, Scalar, Uniform

_COLUMNS = ["key", "low", "high", "options", "best", "share", "trials", "note"]


def good_region(
    settings: pd.DataFrame,
    values: ArrayLike,
    space: Mapping[str, Domain],
    standard_error: float,
) -> pd.DataFrame:
    """Give the range of each key within one standard error of the best.

    Args:
        settings: A row per trial that reached its full budget, a column per searched key.
        values: (trials,), what they reached; more is better; NaN for those without a score.
        space: Searched key -> domain.
        standard_error: Of a single trial's value; 0 or NaN leaves the best alone, and its equals.

    Returns:
        A row per key: `key`, `low` and `high` (NaN for a choice), `options` (of a choice that lie
        there, best first, with commas; else empty), `best` (the best trial's value), `share` (of
        the key's range, in factors where it is searched so, or of its options), `trials` (how many
        lie there), `note` (where that is one alone). No rows without a score.

    Raises:
        ValueError: Another number of values than of settings, a key without a column, a negative
            standard error.
    """
    scores = checked(settings, values, space)
    if standard_error < 0:
        raise ValueError(f"standard_error {standard_error}: takes 0 or more")
    if not np.isfinite(scores).any():
        return pd.DataFrame(columns=_COLUMNS)
    reach = standard_error if math.isfinite(standard_error) else 0.0
    best_first = np.argsort(-np.where(np.isfinite(scores), scores, -math.inf), kind="stable")
    top = float(np.nanmax(scores))
    good = [row for row in best_first if scores[row] >= top - reach]
    note = "" if len(good) > 1 else "one trial alone lies there: its range says nothing"
    rows = []
    for key, domain in space.items():
        found = [searched(domain, value) for value in settings[key].iloc[good]]
        row = {"key": key, "best": found[0], "trials": len(good), "note": note}
        if isinstance(domain, Choice):
            names = list(dict.fromkeys(map(str, found)))
            spread = {"low": math.nan, "high": math.nan, "options": ", ".join(names)}
            rows.append({**row, **spread, "share": len(names) / len(domain.options)})
        else:
            numbers = [float(value) for value in found]  # type: ignore[arg-type]
            low, high = min(numbers), max(numbers)
            share = (place(domain, high) - place(domain, low)) if high > low else 0.0
            rows.append({**row, "low": low, "high": high, "options": "", "share": share})
    table = pd.DataFrame(rows, columns=_COLUMNS)
    # As they are: among numbers alone, pandas would take None for NaN.
    table["best"] = pd.Series([row["best"] for row in rows], dtype=object)
    return table


def checked(
    settings: pd.DataFrame, values: ArrayLike, space: Mapping[str, Domain]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Give the values as (trials,) numbers.

    Raises:
        ValueError: Another number of values than of settings, or a key without a column.
    """
    scores = np.asarray(values, np.float64)
    missing = [key for key in space if key not in settings]
    if scores.shape != (len(settings),) or missing:
        raise ValueError(
            f"values {scores.shape} for {len(settings)} settings with columns "
            f"{list(map(str, settings))}: takes a value for each, and columns {list(space)}"
        )
    return scores


def searched(domain: Domain, value: object) -> Scalar:
    """Give a table's cell as the value that was searched.

    Tables hold options of mixed kinds as text, `none` as an empty cell, and whole numbers beside
    others as real ones.

    Raises:
        ValueError: For what is no option of a choice.
    """
    if not isinstance(domain, Choice):
        number = min(max(float(value), domain.low), domain.high)  # type: ignore[arg-type]
        return round(number) if isinstance(domain, IntUniform) else number
    # An empty cell differs from itself, in one library's way or another's.
    text = "None" if value is None or value is pd.NA or value != value else str(value)
    for option in domain.options:
        if str(option) == text:
            return option
    for option in domain.options:
        if isinstance(option, float | int) and isinstance(value, float | int) and option == value:
            return option
    raise ValueError(f"{value!r} is none of the options {list(domain.options)}")


def place(domain: Uniform | LogUniform | IntUniform, value: float) -> float:
    """Give where in its range a value lies, from 0 to 1, by factors where it is searched so."""
    low, high = float(domain.low), float(domain.high)
    if isinstance(domain, LogUniform) or (isinstance(domain, IntUniform) and domain.log):
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)
