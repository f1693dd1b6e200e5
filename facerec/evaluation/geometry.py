"""Where the centers stand, and whether one threshold serves all classes; after each epoch.

`threshold.*` is measured on a fixed choice of training images against all centers. The images go
through the backbone once, in evaluation mode, not augmented and not mirrored. Minima and maxima
kept along the epoch's steps would cost nothing, but each would come from other weights, augmented
images and dropout: numbers of no model that ever was. `geometry.*` needs the centers alone.
All of it took 3 % of an epoch of the `laptop` preset on 3,665 images of 784 classes.

Cosines and distances are computed in tiles: no matrix of classes by classes is ever held. What
admits no number (one class, a center or an embedding that is zero or not finite) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facerec.backbones.base import Backbone
from facerec.data.shards import Split
from facerec.evaluation.embed import embed

SHARE = 8  # one image in so many is measured, within the limits below
FEWEST, MOST = 16, 4096  # images
PER_CLASS = 8  # images of one class, at most
_TILE = 4096  # rows and columns of a tile: 64 MB in single precision

_THRESHOLD = ("gap", "violations", "error", "best", "spread")
_GEOMETRY = (
    "nearest_min",
    "nearest_mean",
    "nearest_p5",
    "min_avg",
    "effective_rank",
    "mean_length",
)


def choose(labels: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """Rows of the training images to measure on: an eighth of them, 16 at least, 4,096 at most.

    Whole classes in an order drawn from `seed`, up to eight images of each (drawn too), until the
    number is reached; the last class may be cut.

    Args:
        labels: Class of each row (N,).
        seed: The training's.

    Returns:
        Row numbers, ascending.
    """
    draws = np.random.default_rng([seed, len(labels)])
    shuffled = draws.permutation(len(labels))
    place = draws.permutation(int(labels.max(initial=-1)) + 1)  # of each class in the order
    order = shuffled[np.argsort(place[labels[shuffled]], kind="stable")]
    ordered = place[labels[order]]
    within = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    budget = min(max(len(labels) // SHARE, FEWEST), MOST)
    return np.sort(order[within < PER_CLASS][:budget]).astype(np.int64)


def measure(
    backbone: Backbone,
    split: Split,
    rows: NDArray[np.int64],
    centers: Tensor,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """All numbers of this file by their dotted names: `unified_threshold` and `uniformity`.

    Args:
        backbone: On `device` already; its mode is left as it was.
        split: The training images.
        rows: Which of them, from `choose`.
        centers: Of all classes (C, D).
        device: Where to run.

    Raises:
        DataError: Images that cannot be read.
    """
    found = embed(backbone, split, rows=rows, device=device, flip=False)
    vectors = torch.from_numpy(found.vectors).to(device)
    labels = torch.from_numpy(found.labels).to(device).long()
    centers = centers.detach().to(device)
    return unified_threshold(vectors, labels, centers) | uniformity(centers)


def unified_threshold(embeddings: Tensor, labels: Tensor, centers: Tensor) -> dict[str, float]:
    """Whether one threshold parts own-class cosines from all others, as UniFace claims.

    With c_ij the cosine of image i with center j and y_i the class of image i, UniFace (ICCV 2023)
    wants one t with c_{i,y_i} > t > c_ij for all i and all j ≠ y_i:

    - `threshold.gap`: min_i c_{i,y_i} - max_i max_{j≠y_i} c_ij; above 0 where such a t exists.
    - `threshold.violations`: share of the images whose c_{i,y_i} is not above
      max_k max_{j≠y_k} c_kj, the highest of any image with any class that is not its own. The
      claim holds at 0.
    - `threshold.error`: share of wrong decisions at the best single threshold, where each image
      decides twice, on its own class (c_{i,y_i} > t) and on the nearest other one (c_ij < t).
    - `threshold.best`: this threshold, a cosine: the middle between two neighbouring cosines (the
      highest of several); to be compared with the learned b/s, `train.threshold`.
    - `threshold.spread`: standard deviation, over the classes with two images or more, of their own
      best thresholds, found in the same way among the cosines of all these images with the class's
      center: the share of its own images below plus the share of the others above is least. 0
      where one threshold is best for all.

    Maxima grow with the number of images and classes: compare runs on the same data only.

    Args:
        embeddings: (n, D), of any length.
        labels: (n,), integer.
        centers: (C, D), of any length.
    """
    none = _named("threshold", dict.fromkeys(_THRESHOLD, math.nan))
    x, w = _directions(embeddings), _directions(centers)
    if x is None or w is None or len(x) == 0 or len(w) < 2:
        return none
    own = torch.empty_like(x[:, 0])
    hardest = torch.full_like(own, -torch.inf)
    for first, cos in _tiles(x, w):
        here = (labels >= first) & (labels < first + cos.shape[1])
        rows = here.nonzero()[:, 0]
        columns = labels[rows] - first
        own[rows] = cos[rows, columns]
        cos[rows, columns] = -torch.inf
        hardest = torch.maximum(hardest, cos.amax(dim=1))
    highest = hardest.max()
    mine = torch.arange(2 * len(own), device=own.device) < len(own)
    error, best = _best_cuts(torch.cat([own, hardest])[None], mine[None])
    return _named(
        "threshold",
        {
            "gap": float(own.min() - highest),
            "violations": float((own <= highest).double().mean()),
            "error": float(error[0]),
            "best": float(best[0]),
            "spread": _spread(x, labels, w),
        },
    )


def uniformity(centers: Tensor) -> dict[str, float]:
    """How evenly the centers fill the space.

    - `geometry.nearest_min`, `geometry.nearest_mean`, `geometry.nearest_p5`: minimum, mean and 5 %
      quantile over the classes of the Euclidean distance from a center of unit length to the
      nearest other one: 0 to 2; √2 is a right angle.
    - `geometry.min_avg`: mean over the centers, as they are, of the *squared* distance to the
      nearest other one: the "min avg" in the tables of ka-tsu-mo/pytorch-uniformface. It grows
      with the square of the centers' length, and says nothing of angles where lengths differ.
    - `geometry.effective_rank`: exp(-Σ p_k ln p_k), p_k = σ_k / Σσ with the singular values σ of
      the unit centers: 1 (one direction) to min(C, D) (Roy and Vetterli: The effective rank,
      EUSIPCO 2007).
    - `geometry.mean_length`: length of the mean of the unit centers: 0 where they balance, 1
      where they are one ("mean resultant length").

    Args:
        centers: (C, D), of any length.
    """
    found = dict.fromkeys(_GEOMETRY, math.nan)
    several = len(centers) > 1
    if several and bool(torch.isfinite(centers.square().sum(dim=1)).all()):
        found["min_avg"] = float(_nearest_squared(centers).mean())
    unit = _directions(centers)
    if unit is not None:
        if several:
            nearest = _nearest_squared(unit).sqrt()
            found["nearest_min"] = float(nearest.min())
            found["nearest_mean"] = float(nearest.mean())
            found["nearest_p5"] = float(nearest.quantile(0.05))
        found["effective_rank"] = _effective_rank(unit)
        found["mean_length"] = float(unit.mean(dim=0).norm())
    return _named("geometry", found)


def _named(prefix: str, found: dict[str, float]) -> dict[str, float]:
    """Dotted names; an infinity, from centers too long for their precision, becomes NaN."""
    return {f"{prefix}.{k}": v if math.isfinite(v) else math.nan for k, v in found.items()}


def _directions(vectors: Tensor) -> Tensor | None:
    """Rows of length 1 (N, D); None where one is zero or not finite."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        return None
    unit: Tensor = vectors / lengths
    return unit


def _tiles(x: Tensor, w: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first column of a tile, and x wᵀ for its columns."""
    for first in range(0, len(w), _TILE):
        yield first, x @ w[first : first + _TILE].T


def _best_cuts(cos: Tensor, mine: Tensor) -> tuple[Tensor, Tensor]:
    """The best threshold of each row of cosines (k, n), in the middle between two neighbours.

    Args:
        cos: Cosines.
        mine: Which of them should lie above; some of each row, not all.

    Returns:
        Mean of the shares of wrong ones of both kinds (k,), and the threshold (k,); NaN where all
        cosines of a row are equal.
    """
    cos, order = cos.sort(dim=1, descending=True)
    mine = mine.gather(1, order)
    accepted = mine.cumsum(dim=1)[:, :-1]  # those of `mine` above the cut after each place
    seen = torch.arange(1, cos.shape[1], device=cos.device)
    total = mine.sum(dim=1, keepdim=True)
    rest = cos.shape[1] - total
    # Both shares times both totals: whole numbers, so that ties are ties.
    wrong = (total - accepted) * rest + (seen - accepted) * total
    equal = cos[:, :-1] == cos[:, 1:]  # there is no cut between them
    place = wrong.masked_fill(equal, torch.iinfo(wrong.dtype).max).argmin(dim=1, keepdim=True)
    none = equal.all(dim=1)
    error = wrong.gather(1, place)[:, 0].double() / (2 * total * rest)[:, 0]
    middle = (cos.gather(1, place) + cos.gather(1, place + 1))[:, 0] / 2
    return error.masked_fill(none, torch.nan), middle.masked_fill(none, torch.nan)


def _spread(x: Tensor, labels: Tensor, w: Tensor) -> float:
    """The standard deviation of the classes' own best thresholds; NaN where no class has one."""
    images = torch.bincount(labels, minlength=len(w))
    classes = ((images > 1) & (images < len(x))).nonzero()[:, 0]
    width = max(_TILE**2 // (4 * len(x)), 1)  # sorting and counting take more than a tile
    found = [w[:0, 0]]
    for start in range(0, len(classes), width):
        part = classes[start : start + width]
        found.append(_best_cuts(w[part] @ x.T, part[:, None] == labels)[1])
    best = torch.cat(found)
    best = best[torch.isfinite(best)]
    return float(best.std(correction=0)) if len(best) else math.nan


def _nearest_squared(points: Tensor) -> Tensor:
    """The squared distance of each row to the nearest other one (C,)."""
    points = points - points.mean(dim=0)  # shorter vectors lose less to cancellation below
    squares = points.square().sum(dim=1)
    result = torch.empty_like(squares)
    for start in range(0, len(points), _TILE):
        rows = points[start : start + _TILE]
        least = torch.full_like(rows[:, 0], torch.inf)
        nearest = torch.zeros(len(rows), dtype=torch.long, device=points.device)
        for first, dots in _tiles(rows, points):
            apart = dots.mul_(-2).add_(squares[first : first + dots.shape[1]])
            if first == start:
                apart.fill_diagonal_(torch.inf)
            value, place = apart.min(dim=1)
            nearest = torch.where(value < least, place + first, nearest)
            least = torch.minimum(least, value)
        # The products above cancel where two centers are close; their difference does not.
        result[start : start + len(rows)] = (rows - points[nearest]).square().sum(dim=1)
    return result


def _effective_rank(unit: Tensor) -> float:
    """From the eigenvalues of WᵀW, which are the squared singular values of W."""
    gram = torch.zeros(unit.shape[1], unit.shape[1], dtype=torch.float64, device=unit.device)
    for start in range(0, len(unit), _TILE):
        part = unit[start : start + _TILE].double()
        gram += part.T @ part
    squares = torch.linalg.eigvalsh(gram)
    rounding = squares.max() * len(gram) * torch.finfo(gram.dtype).eps
    singular = squares.masked_fill(squares < rounding, 0.0).sqrt()
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())
