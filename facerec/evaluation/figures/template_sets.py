"""Templates as IJB-B and IJB-C have them: pairs of them (1:1), and search in galleries (1:N)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facerec.data.shards import DataError, TemplateSet
from facerec.evaluation.comparison import Comparison, compare_figures, compare_pair_list
from facerec.evaluation.curves import Curves, count_scores
from facerec.evaluation.figures.measure import (
    Evaluation,
    Measure,
    Part,
    Wanted,
    drawn,
    missing,
    with_intervals,
)
from facerec.evaluation.identification import FPIRS, Identification, identify
from facerec.evaluation.roc import FARS, tar_at_far
from facerec.evaluation.templates import Templates, pair_scores, pool
from facerec.evaluation.uncertain_ranks import resample_identification
from facerec.evaluation.uncertain_tars import resample_pair_list
from facerec.evaluation.uncertainty import identities_from_pairs

BY_NUMBER = "people, known by their numbers in the gallery and probes"
BY_PAIRS = "groups of templates: those that same-pairs join count as one person"


def template_figures(
    name: str, vectors: NDArray[np.float32], faces: TemplateSet, wanted: Wanted
) -> Evaluation:
    """TAR at FAR over the pairs of templates; ranks and TPIR where there are gallery and probes.

    Args:
        name: The set's name.
        vectors: Embeddings (rows, D) of the faces, with the mirror image's where the switch is on.
        faces: Whose they are, the pairs, the gallery and the probes.
        wanted: Draws, seed, switches, curves.

    Raises:
        DataError: The lists name a template without a face.
    """
    known = _pool(vectors, faces, wanted)
    parts, notes = (
        [],
        [
            f"{name}: {len(vectors)} faces in {len(known.ids)} templates, {len(faces.same)} pairs, "
            f"{int(faces.same.sum())} of them same"
        ],
    )
    for part, said in (_pairs(name, known, faces, wanted), _search(name, known, faces, wanted)):
        parts += [part] if part else []
        notes += said
    return Evaluation(name, tuple(parts), tuple(notes))


def compare_templates(
    a: NDArray[np.float32], b: NDArray[np.float32], faces: TemplateSet, wanted: Wanted
) -> tuple[tuple[Comparison, ...], str]:
    """Compares two models on the same templates, 1:1 and 1:N; and in words who was drawn.

    Args:
        a: Embeddings (rows, D) of the faces by model A.
        b: By model B.
        faces: Whose they are, the pairs, the gallery and the probes.
        wanted: Draws, seed, switches.

    Raises:
        DataError: The lists name a template without a face, or nothing can be compared.
    """
    known = [_pool(vectors, faces, wanted) for vectors in (a, b)]
    (one, people, who), (other, _, _) = (scored_pairs(templates, faces) for templates in known)
    found: tuple[Comparison, ...] = ()
    if not _contradicted(people, faces):
        found = compare_pair_list(
            one,
            other,
            faces.same,
            people,
            rule=wanted.switches.rule,
            false_accepts=wanted.switches.false_accepts,
            draws=wanted.draws,
            seed=wanted.seed,
        )
    searches = [_identify(templates, faces) for templates in known]
    if faces.probes is not None and all(s is not None and len(s.mate_ranks) for s in searches):
        subjects = faces.probes.subjects
        (names, first), (_, second) = (
            resample_identification(s, subjects, draws=wanted.draws, seed=wanted.seed)
            for s in searches
            if s is not None
        )
        found += compare_figures(names, first, second)
    if not found:
        raise DataError("nothing to compare: facerec evaluate says why")
    return found, who


def scored_pairs(
    known: Templates, faces: TemplateSet
) -> tuple[NDArray[np.float64], NDArray[np.int64], str]:
    """Scores of the pairs (P,), who is at both ends (P, 2), and in words how that is known.

    Raises:
        DataError: A pair names a template without a face.
    """
    first, second = _rows(known, faces.first, "pairs"), _rows(known, faces.second, "pairs")
    scores: NDArray[np.float64] = pair_scores(known.features, first, second)
    subject = np.full(len(known.ids), -1, np.int64)
    for listed in (faces.gallery, faces.probes):
        if listed is not None:
            subject[_rows(known, listed.templates, "gallery and probes")] = listed.subjects
    if subject[first].min(initial=0) >= 0 and subject[second].min(initial=0) >= 0:
        ends = np.stack([subject[first], subject[second]], axis=1)
        if np.array_equal(ends[:, 0] == ends[:, 1], faces.same):
            return scores, np.unique(ends, return_inverse=True)[1].reshape(ends.shape), BY_NUMBER
    return scores, identities_from_pairs(first, second, faces.same), BY_PAIRS


def _pairs(
    name: str, known: Templates, faces: TemplateSet, wanted: Wanted
) -> tuple[Part | None, list[str]]:
    scores, people, who = scored_pairs(known, faces)
    switches = wanted.switches
    found = tar_at_far(scores, faces.same, rule=switches.rule, false_accepts=switches.false_accepts)
    measures: tuple[Measure, ...] = tuple(
        Measure(f"tar@far={far}", tar, None if math.isnan(tar) else found.thresholds[far])
        for far, tar in found.tars.items()
    )
    notes = []
    if wanted.draws and len(faces.same):
        if _contradicted(people, faces):
            notes.append(
                f"{name}: no intervals for the pairs of templates: some pairs are called different "
                "whose templates other pairs call the same person"
            )
        else:
            names, draws = resample_pair_list(
                scores, faces.same, people, fars=FARS, draws=wanted.draws, seed=wanted.seed
            )
            figures = ("tar", *(f"tar@far={far}" for far in names))
            measures = with_intervals(measures, figures, draws)
            notes.append(drawn(name, wanted.draws, int(people.max()) + 1, who))
            bare = [far for far in found.tars if far not in (*found.reasons, *names)]
            if bare:
                notes.append(f"{name}: no interval at FAR {', '.join(bare)}: too few false accepts")
    if found.reasons:  # the highest rate's lacks least, and says so
        why = list(found.reasons.values())[-1]
        where = (
            "" if len(found.reasons) == len(found.tars) else f" at FAR {', '.join(found.reasons)}"
        )
        notes.append(f"{name}: no number{where}: {why}")
    protocol = switches.describe("1:1")
    curves = None
    if wanted.curves:
        marks = {
            far: (found.fars[far], tar) for far, tar in found.tars.items() if not math.isnan(tar)
        }
        counts = count_scores(scores, faces.same)
        curves = Curves(name, protocol, counts, None, None, marks)
    return Part(protocol, measures, curves), notes


def _search(
    name: str, known: Templates, faces: TemplateSet, wanted: Wanted
) -> tuple[Part | None, list[str]]:
    found = _identify(known, faces)
    if found is None or faces.gallery is None or faces.probes is None:
        return None, [f"{name}: no gallery and probes in this set, so no 1:N"]
    subjects = faces.probes.subjects
    measures: tuple[Measure, ...] = (
        *(Measure(f"rank-{rank}", share) for rank, share in found.ranks.items()),
        *(
            Measure(f"tpir@fpir={rate}", tpir, None if math.isnan(tpir) else found.thresholds[rate])
            for rate, tpir in found.tpirs.items()
        ),
    )
    notes = [f"{name}: {len(subjects)} probes, {len(faces.gallery.subjects)} in the gallery"]
    if wanted.draws and len(found.mate_ranks):
        names, draws = resample_identification(
            found, subjects, draws=wanted.draws, seed=wanted.seed
        )
        measures = with_intervals(measures, names, draws)
        people = len(np.unique(subjects))
        notes.append(drawn(name, wanted.draws, people, "people of the probes; the gallery stays"))
    if found.reason:
        notes.append(missing(f"{name} 1:N", found.reason))
    protocol = f"{wanted.switches.describe('1:N')}, galleries=joined"
    curves = None
    if wanted.curves and len(found.mate_ranks):
        own, wrong = np.sort(found.mate_scores), found.wrong_scores
        fpir = np.arange(1, len(wrong) + 1) / len(own)
        tpir = 1 - np.searchsorted(own, wrong, side="right") / len(own)
        marks = {
            rate: (FPIRS[rate], value)
            for rate, value in found.tpirs.items()
            if not math.isnan(value)
        }
        curves = Curves(name, protocol, None, found.mate_ranks, (fpir, tpir), marks)
    return Part(protocol, measures, curves), notes


def _pool(vectors: NDArray[np.float32], faces: TemplateSet, wanted: Wanted) -> Templates:
    detector = faces.detector_scores if wanted.switches.detector else None
    return pool(vectors, faces.templates, faces.media, detector, wanted.switches)


def _contradicted(people: NDArray[np.int64], faces: TemplateSet) -> bool:
    """Whether some pairs are called different whose templates others call the same person."""
    return bool(((people[:, 0] == people[:, 1]) & ~faces.same).any())


def _identify(known: Templates, faces: TemplateSet) -> Identification | None:
    if faces.gallery is None or faces.probes is None:
        return None
    gallery, probes = (
        (known.features[_rows(known, listed.templates, "gallery and probes")], listed.subjects)
        for listed in (faces.gallery, faces.probes)
    )
    return identify(*probes, *gallery)


def _rows(known: Templates, wanted: NDArray[np.int64], where: str) -> NDArray[np.int64]:
    try:
        return known.rows(wanted)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
