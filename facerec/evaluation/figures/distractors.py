"""Identification among distractors, as MegaFace's first challenge has it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facerec.data import megaface
from facerec.data.shards import DataError
from facerec.evaluation.comparison import Comparison, compare_figures
from facerec.evaluation.curves import Curves
from facerec.evaluation.distractors import Distracted, identify_among
from facerec.evaluation.embed import Embeddings
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
from facerec.evaluation.identification import alike
from facerec.evaluation.uncertain_ranks import resample_distracted

BY_LABEL = "people of the probes; distractors stay"


@dataclass(frozen=True)
class Among:
    """Embeddings of a set with distractors.

    Attributes:
        probes: Of known people, keys `identity/file`.
        noisy_probes: (P,), which are of somebody else.
        distractors: Of nobody among the probes.
        noisy_distractors: (N,), which show somebody among the probes after all.
    """

    probes: Embeddings
    noisy_probes: NDArray[np.bool_]
    distractors: Embeddings
    noisy_distractors: NDArray[np.bool_]


def distractor_figures(name: str, images: Among, wanted: Wanted) -> Evaluation:
    """Rank-k of each probe's mates among all distractors, and TAR at FAR 1e-6.

    What is listed as noisy counts as in insightface's cleaning: a noisy distractor is left out, a
    noisy probe is replaced by the center of its person's other images.

    Args:
        name: The set's name.
        images: Embeddings of probes and distractors.
        wanted: Draws, seed, switches, curves; and where feature files go: `raw/` and `clean/`.

    Raises:
        DataError: All images of a person are noisy, or feature files cannot be written.
    """
    probes, clean = images.probes, _clean_probes(name, images)
    if wanted.features is not None:
        _write_features(wanted.features, images, clean)
    found = _search(images, clean)
    measures: tuple[Measure, ...] = (
        *(Measure(f"rank-{rank}", share) for rank, share in found.ranks.items()),
        *(
            Measure(f"tar@far={far}", tar, None if math.isnan(tar) else found.thresholds[far])
            for far, tar in found.tars.items()
        ),
    )
    people = len(np.unique(probes.labels))
    noisy = int(images.noisy_probes.sum()), int(images.noisy_distractors.sum())
    notes = [
        f"{name}: {len(probes.keys)} probes of {people} people among {found.distractors} "
        f"distractors; {noisy[0]} noisy probes replaced, {noisy[1]} noisy distractors left out"
    ]
    if wanted.draws and len(found.pair_ranks):
        names, draws = resample_distracted(
            found, probes.labels, draws=wanted.draws, seed=wanted.seed
        )
        measures = with_intervals(measures, names, draws)
        notes.append(drawn(name, wanted.draws, people, BY_LABEL))
    if found.reason:
        notes.append(missing(name, found.reason))
    protocol = (
        f"distractors v1, flip={on_off(wanted.switches.flip)}, "
        f"noisy={'cleaned' if any(noisy) else 'none listed'}, "
        "ties=against the mate, rule=not exceeding, false accepts>=100"
    )
    curves = None
    if wanted.curves and len(found.pair_ranks):
        curves = Curves(name, protocol, None, found.pair_ranks, None, {}, longest=max(found.ranks))
    return Evaluation(name, (Part(protocol, measures, curves),), tuple(notes))


def compare_among(
    name: str, a: Among, b: Among, wanted: Wanted
) -> tuple[tuple[Comparison, ...], str]:
    """Compares two models by the same searches; and in words who was drawn.

    Raises:
        DataError: All images of a person are noisy, or nothing can be measured.
    """
    found = [_search(images, _clean_probes(name, images)) for images in (a, b)]
    for one in found:
        if not len(one.pair_ranks):
            raise DataError(f"{name}: nothing to compare: {one.reason}")
    (names, first), (_, second) = (
        resample_distracted(one, a.probes.labels, draws=wanted.draws, seed=wanted.seed)
        for one in found
    )
    return compare_figures(names, first, second), BY_LABEL


def _search(images: Among, clean: NDArray[np.float32]) -> Distracted:
    others = images.distractors.vectors
    if images.noisy_distractors.any():
        others = others[~images.noisy_distractors]
    return identify_among(clean, images.probes.labels, others)


def _clean_probes(name: str, images: Among) -> NDArray[np.float32]:
    """Unit embeddings of the probes (P, D), noisy ones replaced."""
    unit, probes = _unit(images.probes.vectors), images.probes
    if not images.noisy_probes.any() or alike(unit):  # the center of nothing is noise
        return unit
    try:
        cleaned = megaface.clean_probes(probes.keys, unit, images.noisy_probes)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None
    return cleaned[:, :-1]


def _write_features(folder: Path, images: Among, clean: NDArray[np.float32]) -> None:
    """Unit embeddings as they are below `raw`, and with one number more below `clean`."""
    probes, distractors = images.probes, images.distractors
    others = _unit(distractors.vectors)
    longer = np.pad(clean, ((0, 0), (0, 1)))
    far = megaface.clean_distractors(others, images.noisy_distractors)
    try:
        for kind, queries, rest in (
            ("raw", _unit(probes.vectors), others),
            ("clean", longer, far),
        ):
            megaface.write_features(folder / kind / "facescrub", probes.keys, queries)
            megaface.write_features(folder / kind / "megaface", distractors.keys, rest)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from None


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        lengths[lengths == 0] = 1
        unit: NDArray[np.float32] = (vectors / lengths).astype(np.float32, copy=False)
    return unit
