"""Two models on one set: what `facerec compare` measures and says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table

from facerec.backbones.base import Backbone
from facerec.evaluation import scores
from facerec.evaluation.comparison import NEITHER, Comparison, compare_all_pairs
from facerec.evaluation.protocols import EvaluationSet
from facerec.evaluation.uncertainty import DRAWS


def compare_models(
    item: EvaluationSet,
    a: Backbone,
    b: Backbone,
    device: torch.device | str = "cpu",
    *,
    draws: int = DRAWS,
    seed: int = 0,
    out: Path | None = None,
) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures two models on the same pairs of a set.

    Args:
        item: The set; by its pairs, or over all pairs of its images.
        a: Model A, on `device` already.
        b: Model B, on `device` already.
        device: Where to run.
        draws: Of the identities.
        seed: Of the draws.
        out: Where the scores of single pairs go, into `a` and `b`; all-pairs sets have too many.

    Returns:
        One comparison per metric, and notes to show.

    Raises:
        DataError: Images that cannot be read, or that a backbone does not take.
    """
    for backbone in (a, b):
        item.check(backbone)
    pairs = item.pairs()
    vectors_a, labels = item.embed(a, device)
    vectors_b, _ = item.embed(b, device)
    if pairs is None:
        found = compare_all_pairs(vectors_a, vectors_b, labels, draws=draws, seed=seed)
        return found, (f"{item.name}: {draws} draws of {found[0].identities} identities",)
    one, other = item.scores(vectors_a, pairs), item.scores(vectors_b, pairs)
    for folder, kept in () if out is None else ((out / "a", one), (out / "b", other)):
        folder.mkdir(parents=True, exist_ok=True)
        scores.write([kept], folder)
    found = scores.compare_scores(one, other, draws=draws, seed=seed)
    who = (
        "identities, known by name"
        if one.named
        else (
            "groups of images: no names are known, so images that same-pairs join, or that are "
            "identical, count as one identity"
        )
    )
    return found, (f"{item.name}: {draws} draws of {found[0].identities} {who}",)


def table(found: Sequence[Comparison]) -> Table:
    """The comparisons as a table for the console."""
    shown = Table("metric", "A", "B", "A - B", "95 % interval", "A is")
    for one in found:
        shown.add_row(
            one.metric,
            f"{one.a:.4f}",
            f"{one.b:.4f}",
            f"{one.effect:+.4f}",
            "none: too few pairs" if math.isnan(one.low) else f"{one.low:+.4f} to {one.high:+.4f}",
            one.verdict,
        )
    return shown


def sentence(name: str, a: str, b: str, one: Comparison) -> str:
    """One comparison in words.

    Args:
        name: The set's.
        a: What model A is called.
        b: What model B is called.
        one: The comparison.
    """
    judged = (
        f"{a} and {b} are {NEITHER}" if one.verdict == NEITHER else f"{a} is {one.verdict} than {b}"
    )
    return (
        f"{judged} by {name}.{one.metric}: {one.effect:+.4f}, "
        f"95 % interval {one.low:+.4f} to {one.high:+.4f}"
    )
