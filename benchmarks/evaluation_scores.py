"""Scores of pairs of templates, and the best of a million, against how the field computes them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from evaluation_turns import TURNS, in_turns, peak

from facerec.evaluation.roc import PairTars, tar_at_far
from facerec.evaluation.search import search
from facerec.evaluation.templates import pair_scores

SIZE = 512
GATHERED = 100_000  # pairs
BEST = 10


class TemplateSizes(NamedTuple):
    first: int = 3531
    second: int = 19_593
    pairs: int = 15_658_489


def templates(sizes: TemplateSizes, kind: type[np.floating[Any]], between: bool) -> dict[str, Any]:
    """Scores and all TARs; the reference makes the scores alone, in the same precision.

    Args:
        sizes: Templates and pairs.
        kind: Precision of the features on both sides.
        between: Pairs between the first templates and the others, as IJB-C has them; otherwise
            between any two.
    """
    draws = np.random.default_rng(1)
    count = sizes.first + sizes.second
    people = draws.integers(0, sizes.first, count)
    people[: sizes.first] = np.arange(sizes.first)
    features = 0.5 * draws.standard_normal((sizes.first, SIZE))[people]
    features += draws.standard_normal((count, SIZE))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    features = features.astype(kind)
    ends = (0, sizes.first, sizes.first, count) if between else (0, count, 0, count)
    first = draws.integers(*ends[:2], sizes.pairs)
    second = draws.integers(*ends[2:], sizes.pairs)
    mated = draws.permutation(sizes.pairs)[: sizes.second]  # as many as templates
    second[mated] = np.arange(sizes.first, count)
    first[mated] = people[sizes.first :]
    same, gathered = people[first] == people[second], np.zeros(sizes.pairs)
    starts = range(0, sizes.pairs, GATHERED)

    def ours() -> tuple[Any, PairTars]:
        scores = pair_scores(features, first, second)
        return scores, tar_at_far(scores, same)

    def reference(turn: int) -> None:
        for start in starts[turn::TURNS]:
            part = slice(start, start + GATHERED)
            gathered[part] = np.sum(features[first[part]] * features[second[part]], -1)

    result, (scores, tars), _ = in_turns(lambda _: ours(), reference, TURNS)
    before, most = peak(ours)
    theirs = tar_at_far(gathered, same)
    measured = [name for name in tars.tars if name not in tars.reasons]
    apart = [abs(tars.tars[name] - theirs.tars[name]) for name in measured]
    return result | {
        "gigabytes_before_and_at_most": [before, most],
        "largest_difference": float(np.abs(scores - gathered).max()),
        "largest_difference_of_a_tar": max(apart),
    }


def identification(probes: int, distractors: int) -> dict[str, Any]:
    """The best 10, against faiss, where both sides hold the vectors in memory."""
    import faiss  # type: ignore[import-not-found,import-untyped,unused-ignore]

    draws = np.random.default_rng(1)
    base = draws.standard_normal((distractors, SIZE), dtype=np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    queries = draws.standard_normal((probes, SIZE), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(SIZE)
    index.add(base)
    result, ours, theirs = in_turns(
        lambda _: search(queries, base, BEST), lambda _: index.search(queries, BEST)
    )
    before, most = peak(lambda: search(queries, base, BEST))
    return result | {
        "gigabytes_before_and_at_most": [before, most],
        "same_rows": float(np.mean(np.sort(ours[1], axis=1) == np.sort(theirs[1], axis=1))),
    }
