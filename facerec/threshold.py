"""The cosine above which two images show one person: learnt on a set, kept with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from facerec.backbones.base import Backbone
from facerec.data.shards import DataError, Shards
from facerec.evaluation import metrics
from facerec.evaluation.protocols import EvaluationSet, open_sets

FARS = ("1e-3", "1e-2")  # where a threshold is learnt: the first that the set can measure


@dataclass(frozen=True)
class Threshold:
    """Where two images are taken for one person.

    Attributes:
        cosine: Of two embeddings, each the sum over image and mirror image; a pair is accepted
            strictly above.
        far: Name of the false accept rate at which it was measured, such as `1e-3`.
        tar: Share of the genuine pairs that it accepted there.
        measured_on: Name of the set.
    """

    cosine: float
    far: str
    tar: float
    measured_on: str

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine:.4f}, at FAR {self.far} on {self.measured_on} "
            f"(TAR {self.tar:.4f}, image and mirror image added)"
        )


def learn(
    item: EvaluationSet, backbone: Backbone, far: str | None, device: torch.device | str = "cpu"
) -> tuple[Threshold | None, str]:
    """Measure the cosine at which an all-pairs set has the wanted FAR.

    Args:
        item: The set.
        backbone: On `device` already.
        far: A name of `metrics.FARS`; None for the first of `FARS` that the set can measure.
        device: Where to run.

    Returns:
        The threshold, or None; and a sentence where it is None or not at the first of `FARS`.

    Raises:
        DataError: Images that cannot be read, or that the backbone does not take.
    """
    evaluation = item.measure(backbone, device)
    given: dict[str, Threshold] = {}
    for one in evaluation.measures:
        before, _, name = one.metric.partition("tar@far=")
        if not before and name not in given and one.threshold is not None:
            given[name] = Threshold(one.threshold, name, one.value, item.name)
    wanted = FARS if far is None else (far,)
    threshold = next((given[name] for name in wanted if name in given), None)
    if threshold is not None and threshold.far == wanted[0]:
        return threshold, ""
    pairs = metrics.PAIRS_PER_ERROR * metrics.FARS[wanted[0]]
    short = f"{item.name} gives no threshold at FAR {wanted[0]}, which takes {pairs} impostor pairs"
    said = f"{short}; the one at FAR {threshold.far} was taken" if threshold else short
    return threshold, f"{said} ({evaluation.notes[-1]})"


def open_set(training: Shards | None, folder: Path | None, backbone: Backbone) -> EvaluationSet:
    """The set that a threshold is learnt on: a folder's, or the `val` split of the training shards.

    Args:
        training: The run's own shards, with a `val` split where `folder` is left out.
        folder: A prepared set whose identities are known.
        backbone: The backbone to be measured.

    Raises:
        DataError: No prepared set, one that names no identities, or images that the backbone does
            not take.
    """
    if folder is None:
        return open_sets(training, [], backbone)[0]
    given = Shards(folder)
    if given.pairs() is not None:
        raise DataError(
            f"{folder}: holds {given.index['pairs']['rows']} pairs and names no identities; a "
            "threshold is learnt over all pairs of images of known people: give a training set "
            "with a val split"
        )
    return open_sets(None, [folder], backbone)[0]


def to_metadata(threshold: Threshold) -> dict[str, str]:
    """Give what an ONNX file keeps of a threshold."""
    return {
        "threshold": repr(threshold.cosine),
        "threshold_far": threshold.far,
        "threshold_tar": repr(threshold.tar),
        "threshold_set": threshold.measured_on,
        "threshold_embedding": "image and mirror image added",
    }


def from_metadata(metadata: Mapping[str, str]) -> Threshold | None:
    """Read what `to_metadata` gave; None where it is not there."""
    try:
        return Threshold(
            float(metadata["threshold"]),
            metadata["threshold_far"],
            float(metadata["threshold_tar"]),
            metadata["threshold_set"],
        )
    except (KeyError, ValueError):
        return None
