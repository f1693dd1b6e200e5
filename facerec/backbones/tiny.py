"""A small net for searches in minutes on a CPU, and for tests."""

from __future__ import annotations

from torch import Tensor, nn

from facerec.backbones.base import Backbone


class Tiny(Backbone):
    """Four plain 3x3 convolutions of stride 2 at 64 x 64 pixels, then a linear layer.

    Plain convolutions, because on a CPU they run about ten times as fast as depthwise ones; one per
    stage, because in a few CPU-minutes more passes over the images are worth more than more layers.

    Args:
        embedding_size: Length of an embedding. One longer than 128 is a linear image of 128
            numbers, which keeps the net below 0.6 M parameters (0.36 M at 128, 0.43 M at 512).
        dropout: Share of the last feature map's values set to zero in training, 0 to below 1.
        view_dropout: The share while two views are drawn; None: the same.
    """

    def __init__(
        self, embedding_size: int, *, dropout: float = 0.0, view_dropout: float | None = None
    ) -> None:
        super().__init__(64, embedding_size, dropout=dropout, view_dropout=view_dropout)
        channels = (3, 16, 32, 64, 128)
        self.stages = nn.Sequential(
            *(_stage(channels[i], channels[i + 1]) for i in range(len(channels) - 1))
        )
        self.fc = nn.Sequential(nn.Linear(128 * 4 * 4, min(embedding_size, 128), bias=False))
        if embedding_size > 128:
            self.fc.append(nn.Linear(128, embedding_size, bias=False))
        self.features = nn.BatchNorm1d(embedding_size)

    def feature_map(self, images: Tensor) -> Tensor:
        """(b, 3, 64, 64) -> (b, 128 * 4 * 4)."""
        features: Tensor = self.stages(images).flatten(1)
        return features

    def embed(self, features: Tensor) -> Tensor:
        """(b, 128 * 4 * 4) -> (b, embedding_size)."""
        embeddings: Tensor = self.features(self.fc(features))
        return embeddings


def _stage(channels_in: int, channels: int) -> nn.Sequential:
    """Halves the map: (b, channels_in, h, w) -> (b, channels, h / 2, w / 2)."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.PReLU(channels),
    )
