"""All pairs of the images of known identities: for `val`, on which settings are chosen."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facerec.evaluation import metrics
from facerec.evaluation.curves import Curves, count_all_pairs
from facerec.evaluation.figures.measure import (
    Evaluation,
    Measure,
    Part,
    Wanted,
    drawn,
    missing,
    on_off,
    with_intervals,
)
from facerec.evaluation.figures.ten_folds import BY_NAME
from facerec.evaluation.uncertain_tars import resample_all_pairs


def all_pairs(
    name: str,
    vectors: NDArray[np.float32],
    labels: NDArray[np.int32],
    images_per_identity: int,
    wanted: Wanted,
) -> Evaluation:
    """TAR at FAR over all pairs of images.

    Args:
        name: The set's name.
        vectors: Embeddings (N, D), not normalised.
        labels: (N,), the identities.
        images_per_identity: How many of each were taken at most, to be said.
        wanted: Draws, seed, switches, curves.
    """
    result = metrics.tar_at_far(vectors, labels)
    measures: tuple[Measure, ...] = (
        Measure("tar", result.tar),
        *(
            Measure(f"tar@far={far}", tar, result.thresholds[far])
            for far, tar in result.tars.items()
        ),
    )
    counted = (
        f"{name}: {len(labels)} images of {len(np.unique(labels))} identities, "
        f"{result.genuine_pairs} genuine and {result.impostor_pairs} impostor pairs"
    )
    if not math.isnan(result.tar):
        counted += f"; {name}.tar is the mean TAR at FAR {', '.join(result.tars)}"
    notes = [counted]
    if wanted.draws and not result.reason:
        names, found = resample_all_pairs([vectors], labels, draws=wanted.draws, seed=wanted.seed)
        figures = ("tar", *(f"tar@far={far}" for far in names))
        measures = with_intervals(measures, figures, found)
        notes.append(drawn(name, wanted.draws, len(np.unique(labels)), BY_NAME))
    if result.reason:
        notes.append(missing(name, result.reason))
    protocol = (
        f"all pairs v1, flip={on_off(wanted.switches.flip)}, "
        f"images per identity<={images_per_identity}, rule=not exceeding, "
        f"false accepts>={metrics.PAIRS_PER_ERROR}, identities weigh the same"
    )
    curves = None
    if wanted.curves:
        marks = {far: (1 / metrics.FARS[far], tar) for far, tar in result.tars.items()}
        curves = Curves(name, protocol, count_all_pairs(vectors, labels), None, None, marks)
    return Evaluation(name, (Part(protocol, measures, curves),), tuple(notes))
