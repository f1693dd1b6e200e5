"""Images to embeddings: decode, normalise, run the backbone on image and mirror image."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from facerec.backbones.base import Backbone
from facerec.data.augment import normalise
from facerec.data.images import decode, size
from facerec.data.shards import DataError, Split


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


@dataclass(frozen=True)
class _Batch:
    pixels: NDArray[np.uint8]  # (b, H, W, 3)
    labels: list[int]
    keys: list[str]


def embed(
    backbone: Backbone,
    split: Split,
    *,
    rows: NDArray[np.int64] | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    flip: bool = True,
) -> Embeddings:
    """Embeds a split; a thread decodes the next batch while the backbone runs on this one.

    In memory are the encoded images of one row group and the pixels of two batches.
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
    ahead = _ahead(_batches(split, wanted, batch_size))
    with closing(ahead), _evaluating(backbone), torch.inference_mode():
        for batch in ahead:
            images = normalise(torch.from_numpy(batch.pixels).to(device))
            place = slice(len(keys), len(keys) + len(batch.keys))
            labels[place] = batch.labels
            keys += batch.keys
            found = backbone(images)
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


def _batches(split: Split, wanted: NDArray[np.bool_], batch_size: int) -> Iterator[_Batch]:
    """Decoded images that are wanted (rows,), in order; a batch may reach over row groups."""
    left = int(wanted.sum())
    batch: _Batch | None = None
    for group, end in enumerate(np.cumsum(split.group_rows)):
        chosen = np.flatnonzero(wanted[end - split.group_rows[group] : end])
        if not len(chosen):
            continue
        part = split.read(group)
        for row in chosen.tolist():
            try:
                if batch is None:
                    width, height = size(part.images[row])
                    count = min(batch_size, left)
                    batch = _Batch(np.empty((count, height, width, 3), np.uint8), [], [])
                decode(part.images[row], out=batch.pixels[len(batch.keys)])
            except DataError as error:
                raise part.locate(row, error) from error
            batch.labels.append(int(part.labels[row]))
            batch.keys.append(part.keys[row])
            if len(batch.keys) == len(batch.pixels):
                yield batch
                left -= len(batch.keys)
                batch = None


def _ahead(batches: Iterator[_Batch]) -> Generator[_Batch, None, None]:
    """The same batches, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="facerec-embed") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch
