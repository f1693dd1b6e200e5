"""The confirmed models, measured on the images that judge them.

These are the `confirm` split's, identities that neither training nor search saw; where the shards
have none, or too few of them, those of `val`, which the search saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from facerec import checkpoint
from facerec.data.shards import Shards
from facerec.evaluation import protocols
from facerec.evaluation.metrics import FARS, PAIRS_PER_ERROR, tar_at_far
from facerec.evaluation.uncertain_tars import resample_all_pairs
from facerec.evaluation.uncertainty import Resampled
from facerec.tuning.confirm import place
from facerec.tuning.sweep import Sweep

UNSEEN, SEEN = "confirm", "val"  # splits


@dataclass(frozen=True)
class Measured:
    """Confirmed models on the images that judge them.

    Attributes:
        split: `confirm`; `val` where that has too few people; empty where both have.
        metric: What judges: `confirm.tar` and the like.
        scores: Number of a training -> its metrics.
        people: Identities measured on.
        identities: One figure per model, the metric, under draws of the identities; None where the
            images are too few, or there is no split.
        models: Numbers of the trainings, in the order of these figures: by setting, then by seed.
    """

    split: str
    metric: str
    scores: Mapping[int, Mapping[str, float]]
    people: int = 0
    identities: Resampled | None = None
    models: tuple[int, ...] = ()


def judged_by(metric: str, shards: Shards) -> tuple[str, str]:
    """Give the split and the metric that judge a sweep.

    A split counts where it has impostor pairs enough for the largest FAR.

    Args:
        metric: What the search maximised.
        shards: The training shards.

    Returns:
        The split, empty where the search's own metric has to do; and the metric.
    """
    splits = [name for name in (UNSEEN, SEEN) if name in shards.index["splits"]]
    least = PAIRS_PER_ERROR * min(FARS.values())
    enough = (n for n in splits if protocols.impostor_pairs(shards.split(n)) >= least)
    split = next(enough, "")
    if not split:
        return "", metric
    own = metric.removeprefix(f"{SEEN}.") if metric.startswith(f"{SEEN}.") else "tar"
    return split, f"{split}.{own}"


def measure(sweep: Sweep, folder: Path, table: pd.DataFrame, *, gpus: bool) -> Measured:
    """Measure the confirmation's complete trainings on the split that judges them.

    Args:
        sweep: What was searched.
        folder: Its folder.
        table: Of the confirmation.
        gpus: Whether accelerators may be used.
    """
    shards = Shards(sweep.base.data.train)
    split, metric = judged_by(sweep.metric, shards)
    done = table[table["status"] == "completed"]
    if not split:
        own = done[["trial", metric]].dropna().to_numpy(float)
        return Measured(split, metric, {int(n): {metric: float(value)} for n, value in own})
    device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
    judge = protocols.EvaluationSet(split, shards, split)
    vectors: dict[int, NDArray[np.float32]] = {}
    scores: dict[int, dict[str, float]] = {}
    labels = np.empty(0, np.int32)
    done = done.sort_values(["setting", "seed"], key=_in_order)
    for number, run in zip(done["trial"], done["run"], strict=True):
        _, backbone = checkpoint.load_backbone(folder / run)
        found, labels = judge.embed(backbone.to(device), device)
        rated = tar_at_far(found, labels)
        if not rated.reason:
            vectors[number] = found
            scores[number] = {f"{split}.tar": rated.tar} | {
                f"{split}.tar@far={far}": tar for far, tar in rated.tars.items()
            }
    people = len(np.unique(labels))
    if not vectors:
        return Measured(split, metric, {}, people)
    rates, drawn = resample_all_pairs(list(vectors.values()), labels)
    figures = [f"{split}.tar", *(f"{split}.tar@far={far}" for far in rates)]
    if not rates:
        return Measured(split, metric, scores, people)
    if metric not in figures:  # too few people for that rate
        metric = figures[0]
    place_of = figures.index(metric)
    drawn = _only(drawn, [model * len(figures) + place_of for model in range(len(vectors))])
    exact = np.array([scores[number][metric] for number in vectors])
    return Measured(split, metric, scores, people, replace(drawn, values=exact), tuple(vectors))


def _in_order(column: pd.Series[Any]) -> pd.Series[Any]:
    """Settings in the order defaults, 1, 2, ...; seeds as they are."""
    if column.name != "setting":
        return column
    return column.map(place)


def _only(drawn: Resampled, figures: Sequence[int]) -> Resampled:
    """Some of the figures."""
    return replace(
        drawn,
        values=drawn.values[figures],
        draws=drawn.draws[:, figures],
        parts=drawn.parts[:, figures],
        noise=drawn.noise[np.ix_(figures, figures)],
        members=drawn.members[figures],
    )
