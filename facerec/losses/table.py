"""The tables of losses as text, made from what the constructors declare.

`facerec losses` prints it, and docs/losses.md is the same as Markdown.
"""

from __future__ import annotations

import inspect
import math
import re
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from facerec.domains import Choice, Domain, IntUniform, LogUniform, Scalar
from facerec.losses import LOSSES, OBJECTIVES, REGULARIZERS, keywords, parts
from facerec.losses.arguments import Interval, defaults
from facerec.losses.base import Margin, Objective, Regularizer
from facerec.losses.softmax import Softmax

Part = type[Margin] | type[Objective] | type[Regularizer]

_TOP = """# Losses

Made from the code by `facerec losses --markdown > docs/losses.md`; what each formula says stands in
the docstrings of `facerec/losses/`. A loss is a margin, an objective and perhaps a regularizer.
`loss.name=arcface loss.objective=unified` takes another objective, `loss.regularizer=uniform`
another regularizer; their keywords come along. Ranges worth searching are what `LOSSES[name].space`
holds, and are not limits: valid is what the constructor takes.
"""

_OF_THE_QUEUE = (  # it belongs to the head, which no loss knows
    "BroadFace: Looking at Tens of Thousands of People at Once for Face Recognition, ECCV 2020"
)


class Row(NamedTuple):
    """One keyword: its dotted key, default, valid values with their unit, what to search."""

    key: str
    default: str
    valid: str
    worth: str


def rows(name: str) -> list[Row]:
    """The keywords of a loss, over all its parts.

    Args:
        name: An entry of `LOSSES`.
    """
    spec, values = LOSSES[name], keywords(name)
    found = [row for part in parts(name) if part for row in _of_part(part, values, spec.space)]
    if spec.composable:
        found.append(_row("objective", values["objective"], ", ".join(OBJECTIVES)))
        names = ", ".join(["none", *REGULARIZERS])
        found.append(_row("regularizer", values["regularizer"], names))
    if spec.queue_size:
        found.append(Row("head.queue_size", str(spec.queue_size), "0 or more, whole", ""))
    return found


def papers(name: str) -> list[str]:
    """The papers of a loss's parts, as their docstrings name them."""
    found = [paper(part) for part in parts(name) if part]
    if LOSSES[name].queue_size:
        found.append(_OF_THE_QUEUE)
    return list(dict.fromkeys(one for one in found if one))


def paper(part: Part) -> str:
    """Title, venue, year and equation from the line `Paper:` of a docstring; else empty."""
    text = inspect.getdoc(part) or ""
    named = re.search(r"^Paper: (.*?)(?:[.;]\s|\.?\Z|\.?\n\n)", text, re.MULTILINE | re.DOTALL)
    cited = " ".join(named[1].split()) if named else ""
    return cited + ")" * (cited.count("(") - cited.count(")"))


def summary(part: Part) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(part) or "").partition("\n")[0]


def markdown() -> str:
    """The whole page."""
    blocks = [_TOP]
    for name, spec in LOSSES.items():
        made = [part for part in parts(name) if part]
        words = [summary(part) for part in made if part is not Softmax]
        if spec.queue_size:
            words.append("Past embeddings are compared again.")
        names = " + ".join(part.__name__ for part in made)
        blocks.append(_section(name, f"{' '.join(words)} ({names})", papers(name), rows(name)))
    for kind, table in (("objective", OBJECTIVES), ("regularizer", REGULARIZERS)):
        for name, part in table.items():
            space = {f"loss.{keyword}": domain for keyword, domain in part.space.items()}
            found = _of_part(part, defaults(part), space)
            named = [paper(part)] if paper(part) else []
            blocks.append(_section(f"loss.{kind}={name}", summary(part), named, found))
    return "\n".join(blocks)


def _section(title: str, words: str, papers: list[str], found: list[Row]) -> str:
    lines = [f"## `{title}`", "", words, ""]
    if papers:
        lines += [*(f"- {one}" for one in papers), ""]
    lines += ["| key | default | valid | worth searching |", "| --- | --- | --- | --- |"]
    lines += [f"| `{row.key}` | {row.default} | {row.valid} | {row.worth} |" for row in found]
    return "\n".join([*lines, ""])


def _of_part(part: Part, values: Any, space: Any) -> list[Row]:
    hints = get_type_hints(part.__init__, include_extras=True)
    return [
        _row(keyword, values[keyword], _valid(hints[keyword]), space.get(f"loss.{keyword}"))
        for keyword in defaults(part)
    ]


def _row(keyword: str, default: Scalar, valid: str, domain: Domain | None = None) -> Row:
    return Row(f"loss.{keyword}", _shown(default), valid, "" if domain is None else _worth(domain))


def _valid(hint: Any) -> str:
    """The values that a constructor declares for a keyword."""
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    interval: Interval | None = None
    if get_origin(hint) is Annotated:
        hint, interval = get_args(hint)
    types = get_args(hint) or (hint,)
    if bool in types:
        return "true, false"
    text = str(interval or Interval(-math.inf))
    return f"{text}{', whole' if int in types else ''}{', or None' if NoneType in types else ''}"


def _worth(domain: Domain) -> str:
    match domain:
        case Choice(options):
            return ", ".join(map(_shown, options))
        case IntUniform(low, high, log):
            return f"{low} to {high}{', by factors' if log else ''}"
        case LogUniform(low, high):
            return f"{low:g} to {high:g}, by factors"
        case _:
            return f"{domain.low:g} to {domain.high:g}"


def _shown(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
