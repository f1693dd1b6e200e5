"""What every backbone shares: sizes, images shrunk by area in the net, dropout and its views."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Backbone(nn.Module):
    """A network from face images to embeddings.

    A subclass gives `feature_map` (from images of `input_size` pixels to the last feature map) and
    `embed` (from there to the embedding); `forward` shrinks the images and drops values between.

    Half precision ends at the feature map, as in insightface's arcface_torch: whatever autocast is
    on, the embedding is made in the weights' own precision.

    Args:
        input_size: Side in pixels at which the net runs; larger images are shrunk to it.
        embedding_size: Length D of an embedding.
        dropout: Share of the last feature map's values set to zero in training, 0 to below 1.
        view_dropout: The share while more than one view is drawn; None: the same as `dropout`.

    Attributes:
        input_size: As above.
        embedding_size: As above.
        dropout: As above.
        view_dropout: As above.
    """

    def __init__(
        self,
        input_size: int,
        embedding_size: int,
        *,
        dropout: float = 0.0,
        view_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.embedding_size = embedding_size
        self.dropout = dropout
        self.view_dropout = view_dropout

    def forward(self, images: Tensor, views: int = 1) -> Tensor:
        """Give the embeddings, not normalised: the norm is left to whoever wants it.

        Args:
            images: (b, 3, H, W) RGB in [-1, 1], H = W >= `input_size`.
            views: 1; or 2 for two draws of dropout over one pass of the convolutions (ContraFace,
                also called CoReFace, arXiv 2304.11668, 2023). What follows the last feature map
                runs once per view, so that a batch normalisation at the end sees one view after
                the other, as in the authors' code. Without dropout, or in evaluation, the views
                are equal.

        Returns:
            (b, D) for one view, (views, b, D) for more.

        Raises:
            ValueError: Images that are not square, or smaller than `input_size`.
        """
        features = self.feature_map(shrink(images, self.input_size))
        rate = self.dropout
        if views > 1 and self.view_dropout is not None:
            rate = self.view_dropout
        with no_autocast(features.device):
            features = features.to(next(self.parameters()).dtype)
            drawn = [self.embed(F.dropout(features, rate, self.training)) for _ in range(views)]
        return drawn[0] if views == 1 else torch.stack(drawn)

    def feature_map(self, images: Tensor) -> Tensor:
        """Give what `embed` takes, from images of `input_size` pixels; runs once for all views."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it sees")

    def embed(self, features: Tensor) -> Tensor:
        """Give (b, D) embeddings from what `feature_map` gave, after dropout."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it embeds")

    def after_step(self) -> None:
        """Put the weights back where the net wants them; called after each optimizer step."""


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Computes in the tensors' own precision; on `meta`, which has no autocast, does nothing."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@lru_cache(maxsize=32)
def _area_matrix(
    large: int, small: int, channels: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The matrix whose row i is the mean of the pixels under output pixel i, channel by channel.

    (small * channels, large * channels), where the channels of a pixel follow each other.
    """
    # Not an inference tensor, even if the first image is seen in evaluation: training reuses it.
    with torch.inference_mode(False):
        matrix = np.zeros((small, large))
        for row in range(small):
            first, last = row * large // small, -(-(row + 1) * large // small)
            matrix[row, first:last] = 1.0 / (last - first)
        of_channels = torch.from_numpy(np.kron(matrix, np.eye(channels)))
        return of_channels.to(device=device, dtype=dtype)


def shrink(images: Tensor, size: int) -> Tensor:
    """Shrinks square images by area, as `torch.nn.functional.interpolate(mode="area")` does.

    Two products with a fixed matrix, because `torch.onnx.export(dynamo=False)` refuses adaptive
    pooling where the sizes do not divide (112 to 64). Both matrices repeat one block along their
    diagonal, from 7 pixels to 4 there, and are zero elsewhere: only the blocks are multiplied.

    Args:
        images: (b, c, H, W), fastest in the channels-last layout, which the result has.
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
    blocks, channels = math.gcd(width, size), int(images.shape[1])
    large, small = width // blocks, size // blocks
    pixels = images.permute(0, 2, 3, 1).reshape(-1, large, width * channels)
    matrix = _area_matrix(large, small, 1, images.dtype, images.device)
    pixels = (matrix @ pixels).reshape(-1, large * channels)
    matrix = _area_matrix(large, small, channels, images.dtype, images.device)
    return (pixels @ matrix.T).reshape(-1, size, size, channels).permute(0, 3, 1, 2)


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
