"""Images whose quality is measured: their scalars, and which of them are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facerec.backbones.base import Backbone
from facerec.data.folder import ImageFiles
from facerec.data.images import decode
from facerec.data.shards import DataError, Shards, Split, TemplateSet
from facerec.evaluation.embed import embed
from facerec.evaluation.figures.ten_folds import BY_NAME, BY_PAIRS
from facerec.evaluation.protocols import IMAGES_PER_IDENTITY, EvaluationSet
from facerec.evaluation.quality_pairs import (
    Compared,
    all_pairs,
    first_images,
    nothing_compared,
    pair_list,
)
from facerec.evaluation.quality_scalars import laplacian_variance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROWS = 8192  # images whose embeddings are held at once, beside those that are compared


@dataclass(frozen=True)
class QualityImages:
    """Images of one size.

    Attributes:
        name: Of the set.
        split: The images.
        labels: int32 (rows,), -1 where the identity is unknown.
        identities: The source's names of them, where it has such a column.
        detector: (rows,), the face detector's score, where there is such a column.
        prepared: The prepared set; None for image files.
    """

    name: str
    split: Split
    labels: NDArray[np.int32]
    identities: list[str] | None = None
    detector: Floats | None = None
    prepared: EvaluationSet | None = None

    def compared_rows(self) -> Ints:
        """Rows of the images that are compared, ascending; none where nobody is known."""
        if self.prepared is not None and self.prepared.pairs() is not None:
            return np.arange(self.split.rows)
        if not (self.labels >= 0).any():
            return np.empty(0, np.int64)
        keys = self.split.columns(["key"])["key"].astype(str)
        return first_images(self.labels, keys, IMAGES_PER_IDENTITY)

    def compare(self, vectors: NDArray[np.float32], rows: Ints) -> tuple[Compared, str, str]:
        """Genuine pairs at a fixed threshold.

        Args:
            vectors: Embeddings of the images in `rows`, (n, D).
            rows: As `compared_rows` gives them.

        Returns:
            The pairs; which pairs these are, for the protocol; who is drawn for intervals.
        """
        pairs = None if self.prepared is None else self.prepared.pairs()
        if self.prepared is not None and pairs is not None:
            scores = self.prepared.scores(vectors, pairs)
            ends = np.stack([scores.first, scores.second], axis=1)
            found = pair_list(scores.score, scores.same, ends, scores.identities)
            return found, "list", BY_NAME if scores.named else BY_PAIRS
        what = f"all, images per identity<={IMAGES_PER_IDENTITY}"
        if not len(rows):
            return nothing_compared("no identity is known: nothing can be compared"), what, BY_NAME
        return all_pairs(vectors, self.labels[rows], rows), what, BY_NAME


@dataclass(frozen=True)
class Measured:
    """Scalars of all images, and embeddings of some.

    Attributes:
        keys: The source's keys or paths, (rows,).
        scalars: `norm`, `confidence`, `sharpness`, `detector_score`, as far as they are known,
            float64 (rows,) each; higher is better.
        vectors: float32 (n, D), of the wanted rows, without the mirror image.
    """

    keys: list[str]
    scalars: dict[str, Floats]
    vectors: NDArray[np.float32]


def image_files(root: Path, files: ImageFiles) -> QualityImages:
    """Image files of unknown identities, called by their folder's name."""
    return QualityImages(root.resolve().name, files, files.labels())


def prepared_images(shards: Shards, split: str | None = None) -> QualityImages:
    """One split of a prepared set.

    Args:
        shards: The set.
        split: Its name; `val` where there is one and none is given, else `train`.

    Raises:
        DataError: No such split, no image in it, or it cannot be read.
    """
    part = split or ("val" if "val" in shards.index["splits"] else "train")
    found, name = shards.split(part), shards.path.resolve().name
    if not found.rows:
        raise DataError(f"{shards.place}: its {part} split holds no images")
    prepared = EvaluationSet(name if part == "train" else f"{name}.{part}", shards, part)
    more = found.columns(
        [name for name in ("identity", "detector_score") if name in found.column_names]
    )
    labels, templates = found.labels(), prepared.templates()
    return QualityImages(
        prepared.name,
        found,
        labels if templates is None else _subjects(templates),
        more["identity"].tolist() if "identity" in more else None,
        more["detector_score"].astype(np.float64) if "detector_score" in more else None,
        prepared,
    )


def measure(
    backbone: Backbone,
    confidence: Callable[[torch.Tensor], torch.Tensor] | None,
    images: QualityImages,
    wanted: Ints,
    device: torch.device | str = "cpu",
) -> Measured:
    """Scalars of all images; images are read and decoded by row groups, twice.

    Args:
        backbone: On `device` already.
        confidence: κ of raw embeddings, (B, D) -> (B,), on `device`, where there is one.
        images: The images.
        wanted: Rows whose embeddings are kept, ascending.
        device: Where to run.

    Raises:
        DataError: A damaged image; names shard, row and key.
    """
    count = images.split.rows
    keys: list[str] = []
    norms, sure, sharp = (np.empty(count) for _ in range(3))
    vectors = np.empty((len(wanted), backbone.embedding_size), np.float32)
    for first in range(0, count, _ROWS):
        last = min(first + _ROWS, count)
        rows = np.arange(first, last)
        found = embed(backbone, images.split, rows=rows, device=device, flip=False)
        keys += found.keys
        norms[first:last] = found.norms
        if confidence is not None:
            with torch.inference_mode():
                raw = torch.from_numpy(found.vectors).to(device)
                sure[first:last] = confidence(raw).cpu().numpy()
        low, high = np.searchsorted(wanted, (first, last))
        vectors[low:high] = found.vectors[wanted[low:high] - first]
    place = 0
    for group in range(len(images.split.group_rows)):
        part = images.split.read(group)
        for row, image in enumerate(part.images):
            try:
                sharp[place] = laplacian_variance(decode(image))
            except DataError as error:
                raise part.locate(row, error) from error
            place += 1
    scalars = {"norm": norms}
    if confidence is not None:
        scalars["confidence"] = sure
    scalars["sharpness"] = sharp
    if images.detector is not None:
        scalars["detector_score"] = images.detector
    return Measured(keys, scalars, vectors)


def pixels_of(split: Split, rows: Ints) -> list[NDArray[np.uint8]]:
    """RGB pixels (H, W, 3) of some images, in the order of `rows` (n,).

    Raises:
        DataError: A damaged image.
    """
    ends = np.cumsum(split.group_rows)
    groups = np.searchsorted(ends, rows, side="right")
    found: dict[int, NDArray[np.uint8]] = {}
    for group in np.unique(groups).tolist():
        part, first = split.read(group), int(ends[group]) - split.group_rows[group]
        for row in rows[groups == group].tolist():
            try:
                found[row] = decode(part.images[row - first])
            except DataError as error:
                raise part.locate(row - first, error) from error
    return [found[row] for row in rows.tolist()]


def _subjects(templates: TemplateSet) -> NDArray[np.int32]:
    """Whose the faces are, (rows,): by gallery and probes, -1 for templates that are in neither."""
    whose: dict[int, int] = {}
    for people in (templates.gallery, templates.probes):
        if people is not None:
            whose |= dict(zip(people.templates.tolist(), people.subjects.tolist(), strict=True))
    known, place = np.unique(templates.templates, return_inverse=True)
    return np.array([whose.get(one, -1) for one in known.tolist()], np.int32)[place.ravel()]
