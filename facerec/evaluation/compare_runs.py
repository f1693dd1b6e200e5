"""Two models on one set: what `facerec compare` measures and says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from facerec.backbones.base import Backbone
from facerec.evaluation import scores
from facerec.evaluation.comparison import NEITHER, Comparison, compare_all_pairs
from facerec.evaluation.figures.distractors import compare_among
from facerec.evaluation.figures.measure import Wanted, drawn
from facerec.evaluation.figures.template_sets import compare_templates
from facerec.evaluation.figures.ten_folds import BY_NAME, BY_PAIRS
from facerec.evaluation.protocols import EvaluationSet


def compare_models(
    item: EvaluationSet,
    a: Backbone,
    b: Backbone,
    device: torch.device | str = "cpu",
    *,
    wanted: Wanted,
    out: Path | None = None,
) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures two models on the same pairs, or the same searches, of a set.

    Args:
        item: The set.
        a: Model A, on `device` already.
        b: Model B, on `device` already.
        device: Where to run.
        wanted: Draws, seed, switches.
        out: Where the scores of single pairs go, into `a` and `b`, of sets with ten folds.

    Returns:
        One comparison per metric, and notes to show.

    Raises:
        DataError: Images that cannot be read, or that a backbone does not take.
    """
    for backbone in (a, b):
        item.check(backbone)
    flip = wanted.switches.flip
    if item.distractors is not None:
        images_a, images_b = (item.among(x, device, flip=flip) for x in (a, b))
        found, who = compare_among(item.name, images_a, images_b, wanted)
        return found, (drawn(item.name, wanted.draws, found[0].identities, who),)
    (vectors_a, labels), (vectors_b, _) = (item.embed(x, device, flip=flip) for x in (a, b))
    if (templates := item.templates()) is not None:
        found, who = compare_templates(vectors_a, vectors_b, templates, wanted)
    elif (pairs := item.pairs()) is not None:
        one, other = item.scores(vectors_a, pairs), item.scores(vectors_b, pairs)
        for folder, kept in () if out is None else ((out / "a", one), (out / "b", other)):
            folder.mkdir(parents=True, exist_ok=True)
            scores.write([kept], folder)
        found = scores.compare_scores(one, other, draws=wanted.draws, seed=wanted.seed)
        who = BY_NAME if one.named else BY_PAIRS
    else:
        found = compare_all_pairs(
            vectors_a, vectors_b, labels, draws=wanted.draws, seed=wanted.seed
        )
        who = BY_NAME
    return found, (drawn(item.name, wanted.draws, found[0].identities, who),)


def table(found: Sequence[Comparison]) -> Table:
    """The comparisons as a table for the console."""
    names = ("metric", "A", "B", "A - B", "low", "high", "A is")
    shown = Table(*names, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for one in found:
        shown.add_row(
            one.metric,
            f"{one.a:.4f}",
            f"{one.b:.4f}",
            f"{one.effect:+.4f}",
            *("-" if math.isnan(end) else f"{end:+.4f}" for end in (one.low, one.high)),
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
