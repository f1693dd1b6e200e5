"""Templates: many images of one person as one vector, compared in pairs, as IJB-B and IJB-C do.

The order of operations is that of insightface's IJB evaluation. Every choice that changes its
numbers is a field of `Switches`, to be stored beside them. From the scores of pairs `roc` makes the
numbers, and from the features `identification` those of 1:N. Embeddings that are not finite give
features and scores that are not, and there the reason.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from facerec.evaluation.roc import Rule
from facerec.evaluation.search import floating

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TILE = 2**23  # scores held at once: 64 MB in double precision
_BAND = 512  # rows of a table, at most: those of a square one need not be whole
_SPARSE = 1 / 5  # share of a table above which computing all of it is the faster way


@dataclass(frozen=True)
class Switches:
    """Choices behind a number over templates; the defaults are insightface's (F1, N1, D1).

    Attributes:
        flip: Whether the embedding of an image is the sum with that of its mirror image.
        norm: Whether the length of an image's embedding counts in its template.
        detector: Whether it is multiplied by the face detector's score.
        pooling: `media`: mean over the images of a medium (a video's frames), then sum over the
            media; `images`: sum over all images.
        rule: Where a TAR is read off; see `roc.tar_at_far`.
        false_accepts: A FAR is measured only where it leaves at least so many false accepts.
    """

    flip: bool = True
    norm: bool = True
    detector: bool = True
    pooling: Literal["media", "images"] = "media"
    rule: Rule = "nearest"
    false_accepts: int = 1

    def describe(self, task: Literal["1:1", "1:N"]) -> str:
        """One line to store beside a number, such as `ijb 1:N v1, flip=on, norm=on, ...`."""
        words = [f"ijb {task} v1"]
        for name in ("flip", "norm", "detector"):
            words.append(f"{name}={'on' if getattr(self, name) else 'off'}")
        words.append(f"pooling={self.pooling}")
        if task == "1:1":
            words += [f"rule={self.rule}", f"false accepts>={self.false_accepts}"]
        return ", ".join(words)


@dataclass(frozen=True)
class Templates:
    """Templates in ascending order of their ids.

    Attributes:
        ids: (T,).
        features: (T, D), of length 1; zero where a template's images sum to zero, NaN where they
            are not finite.
    """

    ids: Ints
    features: Floats

    def rows(self, wanted: ArrayLike) -> Ints:
        """Row numbers of templates by id, in the same order.

        Raises:
            ValueError: An id that no image belongs to.
        """
        ids = np.asarray(wanted, dtype=np.int64)
        if not len(self.ids):
            raise ValueError(f"{ids.size} templates are wanted, but there is none")
        places: Ints = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        missing = ids[self.ids[places] != ids]
        if missing.size:
            raise ValueError(
                f"template {missing[0]} has no images; the {len(self.ids)} known ids lie between "
                f"{self.ids[0]} and {self.ids[-1]}"
            )
        return places


def pool(
    embeddings: ArrayLike,
    templates: ArrayLike,
    media: ArrayLike,
    detector_scores: ArrayLike | None = None,
    switches: Switches | None = None,
) -> Templates:
    """Template features from the embeddings of images.

    In this order: length 1 (`norm` off only), times the detector's score, mean over the images of
    each medium of the template, sum over its media, length 1. Up to the last step the embeddings'
    own precision is kept, as insightface does, whose sums are equal to the last digit.

    Args:
        embeddings: (n, D), with image and mirror image already summed where `switches.flip` says
            so: it is a record here, and an order to whoever embeds.
        templates: (n,) integers, the template of each image.
        media: (n,) integers, the medium of each image.
        detector_scores: (n,); needed where `switches.detector` is on.
        switches: insightface's when None.

    Raises:
        ValueError: Shapes that do not fit each other, or no scores where they are needed.
    """
    chosen = switches or Switches()
    vectors = np.asarray(embeddings)
    if vectors.dtype != np.float32:
        vectors = vectors.astype(np.float64, copy=False)
    template_ids, media_ids = np.asarray(templates), np.asarray(media)
    if vectors.ndim != 2 or not template_ids.shape == media_ids.shape == vectors.shape[:1]:
        raise ValueError(
            f"embeddings {vectors.shape}, templates {template_ids.shape} and media "
            f"{media_ids.shape}: (n, D), (n,) and (n,) is wanted"
        )
    weights = np.asarray(1.0 if detector_scores is None else detector_scores, vectors.dtype)
    if chosen.detector and weights.shape != vectors.shape[:1]:
        raise ValueError(
            f"detector scores {weights.shape} for {len(vectors)} images: ({len(vectors)},) is "
            f"wanted, or Switches(detector=False)"
        )
    if chosen.pooling == "images":
        media_ids = np.arange(len(vectors))
    order = np.lexsort((media_ids, template_ids))
    ids, starts = np.unique(template_ids[order], return_index=True)
    features = np.zeros((len(ids), vectors.shape[1]))
    with np.errstate(all="ignore"):
        for row, part in enumerate(np.split(order, starts[1:]) if len(ids) else []):
            images = vectors[part]
            if not chosen.norm:
                images = images / _lengths(np.square(images).sum(axis=1, keepdims=True))
            if chosen.detector:
                images = images * weights[part, None]
            cuts = np.flatnonzero(np.diff(media_ids[part])) + 1
            if len(cuts) + 1 < len(images):
                images = np.stack([one.mean(axis=0) for one in np.split(images, cuts)])
            features[row] = images.sum(axis=0)
        features /= _lengths(np.einsum("ij,ij->i", features, features)[:, None])
    return Templates(ids.astype(np.int64), features)


def pair_scores(features: ArrayLike, first: ArrayLike, second: ArrayLike) -> NDArray[Any]:
    """Dot products of pairs of rows.

    Where pairs are dense, as in IJB-C (one in four of those between the templates that occur first
    and those that occur second), whole tables of scores are multiplied and the pairs looked up;
    where they are sparse, PyTorch multiplies the pairs alone, 512 rows of one side at a time, which
    stay in the processor's cache. Both equal the sum of products to within rounding.

    Memory: a copy of the features, some 32 bytes per pair, and tiles of 64 MB.

    Args:
        features: (T, D), as `pool` makes them.
        first: (N,) row numbers.
        second: (N,) row numbers.

    Returns:
        (N,), in single precision where the features are, otherwise in double.

    Raises:
        ValueError: Shapes that do not fit each other, or row numbers out of range.
    """
    vectors, one, two = floating(features), np.asarray(first), np.asarray(second)
    if vectors.ndim != 2 or one.ndim != 1 or one.shape != two.shape:
        raise ValueError(
            f"features {vectors.shape}, first {one.shape} and second {two.shape}: (T, D), (N,) "
            f"and (N,) is wanted"
        )
    scores = np.empty(len(one), vectors.dtype)
    if not len(one):
        return scores
    lowest, highest = min(one.min(), two.min()), max(one.max(), two.max())
    if lowest < 0 or highest >= len(vectors):
        raise ValueError(f"rows {lowest} to {highest}: takes 0 to {len(vectors) - 1}")
    used = [np.zeros(len(vectors), np.bool_) for _ in range(2)]
    used[0][one], used[1][two] = True, True
    either = used[0] | used[1]
    if 2 * used[0].sum() * used[1].sum() > either.sum() ** 2:
        one, two = np.minimum(one, two), np.maximum(one, two)  # half of a square table
        used = [either, either]
    left, right = vectors[used[0]], vectors[used[1]]
    rows, columns = (np.cumsum(mask) - 1 for mask in used)  # where each template is in those
    # Never more than 65,535 bands: numbers of two bytes are sorted by radix.
    height = max(min(_TILE // len(right), _BAND), -(-len(left) // 65_535))
    bands = (rows // height).astype(np.uint16)[one]
    order = np.argsort(bands, kind="stable")
    buffer, start = np.empty(height * len(right), vectors.dtype), 0
    for band, end in enumerate(np.cumsum(np.bincount(bands))):
        pairs, start = order[start:end], int(end)
        if not len(pairs):
            continue
        lines, places = rows[one[pairs]] - band * height, columns[two[pairs]]
        low = int(places.min())
        some, others = left[band * height :][:height], right[low : int(places.max()) + 1]
        if len(pairs) > _SPARSE * len(some) * len(others):
            table = buffer[: len(some) * len(others)].reshape(len(some), len(others))
            np.matmul(some, others.T, out=table)
            scores[pairs] = table.ravel()[lines * len(others) + places - low]
            continue
        short = (places - low).astype(np.min_scalar_type(len(others)))  # two bytes sort by radix
        turn = np.argsort(short, kind="stable")
        scores[pairs[turn]] = _sampled(others, some, places[turn] - low, lines[turn])
    return scores


def _sampled(left: NDArray[Any], right: NDArray[Any], rows: Ints, columns: Ints) -> NDArray[Any]:
    """Dot products of some pairs of rows of two matrices: of a table, those cells alone.

    Args:
        left: (L, D).
        right: (R, D), of the same precision.
        rows: (n,) row numbers of `left`, ascending.
        columns: (n,) row numbers of `right`.
    """
    ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(left)))])
    one, two = torch.from_numpy(left), torch.from_numpy(right)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")  # that its interface may change
        cells = torch.sparse_csr_tensor(
            torch.from_numpy(ends),
            torch.from_numpy(columns),
            one.new_zeros(len(columns)),
            size=(len(left), len(right)),
            check_invariants=False,  # a pair may occur twice, and columns come in any order
        )
    found: NDArray[Any] = torch.sparse.sampled_addmm(cells, one, two.T, beta=0.0).values().numpy()
    return found


def _lengths(squares: NDArray[Any]) -> NDArray[Any]:
    """Square roots to divide by: 1 for 0, NaN for what is not finite."""
    lengths: NDArray[Any] = np.sqrt(squares)
    lengths[lengths == 0] = 1
    lengths[~np.isfinite(lengths)] = math.nan
    return lengths
