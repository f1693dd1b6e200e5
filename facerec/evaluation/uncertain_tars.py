"""How sure true accept rates are: draws of identities for ROC curves of millions of pairs.

NumPy and SciPy alone. A draw needs no pair, only how many impostor pairs each two identities have
above some levels: cosines around the thresholds, eight to an octave of the FAR, from a quarter of
the lowest to four times the highest. TAR and FAR at the levels are exact for each draw; between two
levels its TAR is interpolated, and pairs that tie with a level are refused.

Where counts of two identities would be too many, each identity's are taken, and the product of two
draws a b becomes a + b - 1, its first order. Nothing is lost: the rest is noise of the pair alone,
which `Resampled` takes off anyway, once here and twice there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facerec.evaluation.level_counts import (
    PRODUCTS,
    Block,
    Curve,
    Sizes,
    count_pairs,
    histograms,
    tar_at,
)
from facerec.evaluation.metrics import FARS, PAIRS_PER_ERROR
from facerec.evaluation.uncertainty import (
    BLOCK,
    DRAWS,
    Resampled,
    draw_weights,
    pair_weights,
    slope,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_TILE = 2048  # rows and columns of scores at once, unless an identity has more images
_FALSE_ACCEPTS = 10  # in a list of pairs, for draws of a rate to say anything


def resample_all_pairs(
    embeddings: Sequence[ArrayLike],
    labels: ArrayLike,
    *,
    fars: Mapping[str, int] = FARS,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[tuple[str, ...], Resampled]:
    """TAR at FAR over all pairs, as `metrics.tar_at_far` has it, under draws of the identities.

    Scores are in single precision: values may differ from the exact ones in the last digits, and
    `metrics.tar_at_far` has the exact ones. Costs two products of all pairs, and the draws.

    Args:
        embeddings: One (N, D) per model, of the same images.
        labels: (N,) integers.
        fars: As `FARS`; those that the set cannot measure are left out.
        draws: How many.
        seed: Of the draws.

    Returns:
        Names of the rates; and figures in the order models, (mean over the rates, each rate). No
        name and no figure where nothing can be measured.

    Raises:
        ValueError: Shapes that do not fit each other, or fewer than one draw.
    """
    identity = np.asarray(labels)
    tables = [np.asarray(table, np.float32) for table in embeddings]
    if not tables or any(table.ndim != 2 or len(table) != len(identity) for table in tables):
        raise ValueError(
            f"embeddings {[table.shape for table in tables]} and labels {identity.shape}: "
            "one (N, D) or more, and (N,) is wanted"
        )
    _, identity, images = np.unique(identity, return_inverse=True, return_counts=True)
    order = np.argsort(identity, kind="stable")
    identity = identity[order]
    with np.errstate(all="ignore"):
        units = [t[order] / np.linalg.norm(t[order], axis=1, keepdims=True) for t in tables]
    finite = all(np.isfinite(unit).all() for unit in units)
    same, counts = images * (images - 1) // 2, images.astype(np.float64)
    square = np.square(counts)
    sizes = Sizes(
        same=same,
        says=(same > 0).astype(np.float64),
        impostors=images * (len(identity) - images),
        squares=float(square.sum() ** 2 - np.square(square).sum()) / 2,
        between=lambda one, other: counts[one] * counts[other],
        total=lambda w: (np.square(counts @ w) - square @ np.square(w)) / 2,
    )

    def blocks() -> Iterator[Block]:
        starts = np.cumsum([0, *images])
        cuts = [0]
        while cuts[-1] < len(identity):  # whole identities
            fits = starts[(starts > cuts[-1]) & (starts <= cuts[-1] + _TILE)]
            cuts.append(int(fits[-1] if len(fits) else starts[starts > cuts[-1]][0]))
        tiles = [slice(first, last) for first, last in itertools.pairwise(cuts)]
        for rows, columns in itertools.combinations_with_replacement(tiles, 2):
            yield _tile([unit[rows] @ unit[columns].T for unit in units], identity, rows, columns)

    if not finite or not sizes.same.any():
        return (), _nothing(len(tables))
    measured = _measured(fars, int(sizes.impostors.sum()) // 2, PAIRS_PER_ERROR)
    return _resample(blocks, len(tables), sizes, measured, draws, seed)


def resample_pair_list(
    scores: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    *,
    fars: Mapping[str, int] = FARS,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[tuple[str, ...], Resampled]:
    """TAR at FAR over a list of pairs, such as IJB's templates, under draws of the identities.

    Each same pair counts once, so an identity's say grows with its pairs.

    Args:
        scores: (P,) or (models, P), cosines; a pair is accepted above.
        same: (P,) bool.
        identities: (P, 2), numbers of the identities (of the templates) at both ends.
        fars: As `FARS`; those that leave fewer than 10 false accepts are left out.
        draws: How many.
        seed: Of the draws.

    Returns:
        As `resample_all_pairs`.

    Raises:
        ValueError: Shapes that do not fit each other, or fewer than one draw.
    """
    columns = np.atleast_2d(np.asarray(scores))
    truth, ends = np.asarray(same, np.bool_), np.asarray(identities, np.int64)
    if truth.shape != columns.shape[1:] or ends.shape != (len(truth), 2) or not len(truth):
        raise ValueError(
            f"scores {columns.shape}, same {truth.shape}, identities {ends.shape}: "
            "(P,) or (models, P), (P,) and (P, 2) is wanted, P of 1 or more"
        )
    if ((ends[:, 0] == ends[:, 1]) != truth).any():
        raise ValueError("identities: the ends of same pairs are equal, of others they are not")
    count = int(ends.max()) + 1
    low, high = ends.min(axis=1), ends.max(axis=1)
    same_pairs = np.bincount(low[truth], minlength=count)
    known, repeats = np.unique(low[~truth] * count + high[~truth], return_counts=True)
    pairs = repeats.astype(np.float64)
    joined = np.stack([known // count, known % count], axis=1)
    sizes = Sizes(
        same=same_pairs,
        says=same_pairs.astype(np.float64),
        impostors=np.bincount(ends[~truth].ravel(), minlength=count),
        squares=float(np.square(pairs).sum()),
        between=lambda one, other: pairs[np.searchsorted(known, one * count + other)],
        total=None if len(known) > PRODUCTS else lambda w: pairs @ pair_weights(w, joined),
    )

    def blocks() -> Iterator[Block]:
        yield Block(columns, lambda pair: (low[pair], high[pair]), truth)

    if not np.isfinite(columns).all() or not truth.any():
        return (), _nothing(len(columns))
    measured = _measured(fars, int(sizes.impostors.sum()) // 2, _FALSE_ACCEPTS)
    return _resample(blocks, len(columns), sizes, measured, draws, seed)


def _tile(scores: list[NDArray[np.float32]], identity: Ints, rows: slice, columns: slice) -> Block:
    """Pairs of two tiles of images, or of one with itself: then each pair once."""
    one, other = identity[rows], identity[columns]
    if rows != columns:
        width = len(other)
        return Block(
            np.stack([table.ravel() for table in scores]),
            lambda pair: (one[pair // width], other[pair % width]),
            None,
        )
    first, second = np.triu_indices(len(one), 1)
    return Block(
        np.stack([table[first, second] for table in scores]),
        lambda pair: (one[first[pair]], other[second[pair]]),
        one[first] == other[second],
    )


def _measured(fars: Mapping[str, int], impostors: int, least: int) -> dict[str, float]:
    return {name: 1 / per for name, per in fars.items() if impostors >= least * per}


def _nothing(models: int) -> Resampled:
    none = np.empty((0, 0))
    return Resampled(np.empty(0), none, none, none, np.empty(0, np.int64))


def _resample(
    blocks: Callable[[], Iterable[Block]],
    models: int,
    sizes: Sizes,
    rates: Mapping[str, float],
    draws: int,
    seed: int,
) -> tuple[tuple[str, ...], Resampled]:
    if not rates:
        return (), _nothing(models)
    targets = list(rates.values())
    curves = [Curve(counts, targets, len(sizes.same)) for counts in histograms(blocks, models)]
    gram = count_pairs(blocks, curves, sizes)
    if sizes.total is None or any(curve.products is None for curve in curves):
        for curve in curves:  # all models in the same way: their surplus is one number
            curve.drop_products()
    weights = draw_weights(len(sizes.same), draws, seed)
    width = len(targets)
    found, held, false = (np.empty((draws, models * width)) for _ in range(3))
    for start in range(0, draws, BLOCK):
        block = slice(start, start + BLOCK)
        for number, curve in enumerate(curves):
            own = slice(number * width, (number + 1) * width)
            tars, rate = curve.ratios(weights[:, block], sizes)
            found[block, own] = np.stack([tar_at(tars, rate, far) for far in targets], axis=1)
            held[block, own], false[block, own] = tars[curve.at].T, rate[curve.at].T
    slopes = np.array([slope(found[:, k] - held[:, k], false[:, k]) for k in range(models * width)])
    even = np.ones((len(sizes.same), 1))
    values = np.empty(models * width)
    parts = np.empty((len(sizes.same), models * width))
    for number, curve in enumerate(curves):
        own = slice(number * width, (number + 1) * width)
        tars, rate = curve.ratios(even, sizes)
        values[own] = [tar_at(tars, rate, far)[0] for far in targets]
        share = curve.true[:, curve.at] / np.maximum(sizes.same, 1)[:, None]
        genuine = sizes.says[:, None] * (share - tars[curve.at, 0]) / sizes.says.sum()
        impostor = curve.false[:, curve.at] - curve.fars * sizes.impostors[:, None]
        parts[:, own] = genuine - slopes[own] * impostor / curve.impostors
    scale = slopes / curves[0].impostors
    mix = np.kron(np.eye(models), np.column_stack([np.full(width, 1 / width), np.eye(width)]))
    return tuple(rates), Resampled(
        values=values @ mix,
        draws=found @ mix,
        parts=parts @ mix,
        noise=mix.T @ (gram * np.outer(scale, scale)) @ mix,
        members=np.full(mix.shape[1], int(((sizes.same > 0) | (sizes.impostors > 0)).sum())),
        surplus=1 if curves[0].products is None else 2,
    )
