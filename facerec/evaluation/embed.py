"""Images to embeddings: decode, normalise, run the backbone on image and mirror image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from facerec.backbones.base import Backbone
from facerec.data.augment import normalise
from facerec.data.images import decode, size
from facerec.data.shards import DataError, Rows, Split


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of n images, in the order of the split.

    Attributes:
        vectors: float32 (n, D), image and mirror image summed, not normalised.
        labels: int32 (n,), -1 where the identity is unknown.
        keys: The source's keys or paths, n of them.
        norms: float32 (n,), length of the embedding of the image itself, without its mirror.
    """

    vectors: NDArray[np.float32]
    labels: NDArray[np.int32]
    keys: list[str]
    norms: NDArray[np.float32]


def embed(
    backbone: Backbone,
    split: Split,
    *,
    rows: NDArray[np.int64] | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    flip: bool = True,
) -> Embeddings:
    """Embeds a split, one row group in memory at a time.

    Runs in evaluation mode and in the weights' own precision, and leaves each module's mode as it
    was. Weights that are not finite give embeddings that are not finite.

    Args:
        backbone: On `device` already.
        split: The images; all of one size.
        rows: Which images, by row number; the result is in the split's order. All when None.
        batch_size: Images per pass, at most.
        device: Where the backbone is.
        flip: Whether to add the embedding of the mirror image.

    Raises:
        DataError: A damaged image; names shard, row and key.
        ValueError: Images that the backbone does not take.
    """
    wanted = np.ones(split.rows, np.bool_)
    if rows is not None:
        wanted = np.zeros(split.rows, np.bool_)
        wanted[rows] = True
    vectors = np.empty((int(wanted.sum()), backbone.embedding_size), np.float32)
    norms = np.empty(len(vectors), np.float32)
    labels = np.empty(len(vectors), np.int32)
    keys: list[str] = []
    ends = np.cumsum(split.group_rows)
    with _evaluating(backbone), torch.inference_mode():
        for group, end in enumerate(ends):
            chosen = np.flatnonzero(wanted[end - split.group_rows[group] : end])
            if not len(chosen):
                continue
            part = split.read(group)
            pixels = _decode(part, chosen)
            first = len(keys)
            labels[first : first + len(chosen)] = part.labels[chosen]
            keys += [part.keys[row] for row in chosen]
            for start in range(0, len(chosen), batch_size):
                batch = torch.from_numpy(pixels[start : start + batch_size]).to(device)
                images = normalise(batch)
                found = backbone(images)
                place = slice(first + start, first + start + len(batch))
                norms[place] = found.norm(dim=1).cpu().numpy()
                vectors[place] = (found + backbone(images.flip(3)) if flip else found).cpu().numpy()
    return Embeddings(vectors, labels, keys, norms)


@contextmanager
def _evaluating(backbone: Backbone) -> Iterator[None]:
    """Evaluation mode; afterwards each module has its own mode again."""
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _decode(rows: Rows, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Pixels (n, H, W, 3) of the chosen rows of a group."""
    pixels = np.empty((0, 0, 0, 3), np.uint8)
    for number, row in enumerate(chosen):
        try:
            if number == 0:
                width, height = size(rows.images[row])
                pixels = np.empty((len(chosen), height, width, 3), np.uint8)
            decode(rows.images[row], out=pixels[number])
        except DataError as error:
            raise rows.locate(int(row), error) from error
    return pixels
