"""What every backbone shares: its two sizes, and images shrunk by area inside the net."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A network from face images to embeddings.

    `forward` takes (b, 3, H, W) RGB in [-1, 1], H = W >= `input_size`, and gives
    (b, embedding_size), not normalised: the norm is left to whoever wants it.

    Attributes:
        input_size: Side in pixels at which the net runs; larger images are shrunk to it.
        embedding_size: Length D of an embedding.
    """

    def __init__(self, input_size: int, embedding_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.embedding_size = embedding_size


@lru_cache(maxsize=32)
def _area_matrix(large: int, small: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The (small, large) matrix whose row i is the mean of the pixels under output pixel i."""
    # Not an inference tensor, even if the first image is seen in evaluation: training reuses it.
    with torch.inference_mode(False):
        matrix = torch.zeros(small, large, dtype=torch.float64)
        for row in range(small):
            first, last = row * large // small, -(-(row + 1) * large // small)
            matrix[row, first:last] = 1.0 / (last - first)
        return matrix.to(device=device, dtype=dtype)


def shrink(images: Tensor, size: int) -> Tensor:
    """Shrinks square images by area, as `torch.nn.functional.interpolate(mode="area")` does.

    Two products with a fixed matrix, because `torch.onnx.export(dynamo=False)` refuses adaptive
    pooling where the sizes do not divide (112 to 64).

    Args:
        images: (b, c, H, W).
        size: Side of the result in pixels.

    Returns:
        (b, c, size, size); `images` itself where it has that size already.

    Raises:
        ValueError: Images that are not square, or smaller than `size`.
    """
    height, width = int(images.shape[-2]), int(images.shape[-1])
    if height == width == size:
        return images
    check_size(size, width, height)
    matrix = _area_matrix(width, size, images.dtype, images.device)
    return matrix @ images @ matrix.T


def check_size(input_size: int, width: int, height: int) -> None:
    """Refuses images that a backbone of `input_size` pixels does not take.

    Raises:
        ValueError: Images that are not square, or smaller than `input_size`.
    """
    if width != height:
        raise ValueError(
            f"images of {width} x {height} pixels are not square: "
            f"the backbone takes {input_size} x {input_size} or larger squares"
        )
    if width < input_size:
        raise ValueError(
            f"images of {width} x {height} pixels are too small: "
            f"the backbone runs at {input_size} x {input_size}, and images are only ever shrunk"
        )
