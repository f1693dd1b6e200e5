"""A sweep's verdict in words and as a printed table; read from `verdict.json` alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

DEFAULTS = "defaults"
_PER_INCH = 11  # characters of the plot's title


def title(found: Mapping[str, Any], inches: float) -> str:
    """Give the verdict as lines for a plot's title; empty where there is none.

    Args:
        found: `verdict.json`.
        inches: Width of the plot.
    """
    return "\n".join(textwrap.wrap(found.get("sentence", ""), round(_PER_INCH * inches)))


def settings_table(found: Mapping[str, Any], keys: Sequence[str]) -> Table:
    """Give the confirmed settings as a table for a console, the winner first.

    Args:
        found: `verdict.json`.
        keys: The searched keys.
    """
    where = "which the search saw"
    if found["split"] == "confirm":
        where = f"{found['people']} people that the search never saw"
    table = Table(
        title=f"trained again with other seeds, ranked by {found['metric']} ({where})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    wanted = [key for key in keys if key in found["settings"][0]["values"]]
    heads = ("rank", "setting", *wanted, found["metric"], "effect", "95 %", "verdict")
    for head in (*heads, "seeds", "seconds"):
        words = head in ("setting", "verdict")
        table.add_column(head.replace(".", ".\n"), justify="left" if words else "right")
    for row in sorted(found["settings"], key=lambda row: row["rank"] or len(found["settings"]) + 1):
        lost = "".join(f", {row[end]} {end}" for end in ("diverged", "failed") if row[end])
        interval = [number(row.get(end), "+.4f") for end in ("low", "high")]
        table.add_row(
            number(row["rank"], "d"),
            row["setting"],
            *(value(row["values"][key]) for key in wanted),
            number(row["mean"], ".4f"),
            number(row.get("effect"), "+.4f"),
            " to ".join(interval) if all(interval) else "",
            row.get("verdict", ""),
            f"{len(row['seeds'])}{lost}",
            number(row["seconds"], ".0f"),
            style="bold" if row["rank"] == 1 else None,
        )
    return table


def lines(found: Mapping[str, Any]) -> list[str]:
    """Give what a sweep comes to, line by line: verdict, leaks, importance, good range, ends."""
    told = [f"verdict    {found['sentence']}"] if found.get("sentence") else []
    leaky = [row for row in found.get("leaks", []) if row["found"] or not row["checked"]]
    told += _each("leaks", [f"{row['set']}: {row['sentence']}" for row in leaky])
    told += _each("importance", [_importance(row) for row in found.get("importance", [])])
    told += _each("good range", [_region(row) for row in found.get("good_region", [])])
    for stage, ended in found.get("ended", {}).items():
        if ended["trials"]:
            told.append(f"{stage:<10} {_ended(ended)}")
    return told


def _each(name: str, texts: Sequence[str]) -> list[str]:
    return [f"{name if not n else '':<10} {text}" for n, text in enumerate(texts)]


def _importance(row: Mapping[str, Any]) -> str:
    if row["importance"] is None:
        return f"{row['key']}: not known ({row['reason']})"
    spread = "" if row["low"] is None else f", 95 % {row['low']:.2f} to {row['high']:.2f}"
    return f"{row['key']} {row['importance']:.2f}{spread}"


def _region(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        where, of = row["options"], "options"
    else:
        where, of = f"{value(row['low'])} to {value(row['high'])}", "range"
    note = f"; {row['note']}" if row["note"] else ""
    behind = f"{row['share']:.0%} of its {of}, {_count(row['trials'], 'trial')}{note}"
    return f"{row['key']} {where} ({behind})"


def _ended(ended: Mapping[str, Any]) -> str:
    parts = []
    for status, count in ended["status"].items():
        reasons = ended["reasons"].items() if status == "diverged" else ()
        why = ", ".join(f"{count} {reason}" for reason, count in reasons)
        parts.append(f"{count} {status}{f' ({why})' if why else ''}")
    met = _count(ended["accidents"], "accident") if ended["accidents"] else "no accidents"
    return f"{', '.join(parts)}; {met}; {ended['seconds']:,.0f} s of training"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def number(found: float | None, shape: str) -> str:
    """Give a number as text; nothing where there is none."""
    return "" if found is None else format(found, shape)


def value(found: object) -> str:
    """Give a searched value as text."""
    return f"{found:.4g}" if isinstance(found, float) else str(found)
