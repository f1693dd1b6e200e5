"""MobileFaceNet, of 2 M parameters and 0.45 G multiply-adds.

Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile
Devices", CCBR 2018, twice as wide up to the last stages, as insightface's arcface_torch trains it.
Parameter names, shapes and order are arcface_torch's, so that its public checkpoints load as they
are.
"""

from __future__ import annotations

from torch import Tensor, nn

from facerec.backbones.base import Backbone


class Layers(nn.Module):
    """A sequence under the name `layers`, which arcface_torch's tensors carry at every level."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run one layer after the other."""
        y: Tensor = self.layers(x)
        return y


class Residual(Layers):
    """`Layers` plus the input."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) -> the same shape."""
        return x + super().forward(x)


class MobileFaceNet(Backbone):
    """Bottlenecks of a depthwise convolution, then a depthwise one over the 7 x 7 map.

    In half precision arcface_torch leaves it one 1x1 convolution before the last feature map.

    Args:
        embedding_size: Length of an embedding.
        dropout: Share of the last feature map's values set to zero in training, 0 to below 1.
            arcface_torch's net has none.
        view_dropout: The share while two views are drawn; None: the same.
    """

    def __init__(
        self, embedding_size: int, *, dropout: float = 0.0, view_dropout: float | None = None
    ) -> None:
        super().__init__(112, embedding_size, dropout=dropout, view_dropout=view_dropout)
        self.layers = nn.ModuleList(
            [
                _convolution(3, 128, 3, stride=2),
                _convolution(128, 128, 3, groups=64),  # not 128: so arcface_torch widened it
                Layers(*_bottleneck(128, 128, 128, stride=2)),
                Layers(*(Residual(*_bottleneck(128, 128, 128)) for _ in range(4))),
                Layers(*_bottleneck(128, 256, 256, stride=2)),
                Layers(*(Residual(*_bottleneck(256, 256, 256)) for _ in range(6))),
                Layers(*_bottleneck(256, 512, 256, stride=2)),
                Layers(*(Residual(*_bottleneck(256, 256, 256)) for _ in range(2))),
            ]
        )
        self.conv_sep = _convolution(256, 512, 1)
        self.features = Layers(
            _linear_convolution(512, 512, 7, groups=512),
            nn.Flatten(),
            nn.Linear(512, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, images: Tensor) -> Tensor:
        """(b, 3, 112, 112) -> (b, 512, 7, 7)."""
        x = images
        for layer in self.layers:
            x = layer(x)
        features: Tensor = self.conv_sep(x)
        return features

    def embed(self, features: Tensor) -> Tensor:
        """(b, 512, 7, 7) -> (b, embedding_size)."""
        embeddings: Tensor = self.features(features)
        return embeddings


def _convolution(
    channels_in: int, channels: int, size: int, *, stride: int = 1, groups: int = 1
) -> Layers:
    """Convolution, BN, PReLU: (b, channels_in, h, w) -> (b, channels, h / stride, w / stride)."""
    return Layers(
        nn.Conv2d(
            channels_in, channels, size, stride, padding=size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(channels),
        nn.PReLU(channels),
    )


def _linear_convolution(channels_in: int, channels: int, size: int, *, groups: int = 1) -> Layers:
    """Convolution without padding, BN: 7 x 7 pixels become 1 x 1 where `size` is 7."""
    return Layers(
        nn.Conv2d(channels_in, channels, size, groups=groups, bias=False), nn.BatchNorm2d(channels)
    )


def _bottleneck(
    channels_in: int, inner: int, channels: int, *, stride: int = 1
) -> tuple[Layers, Layers, Layers]:
    """1x1 to `inner` channels, depthwise 3x3 (strided), 1x1 to `channels` without PReLU."""
    return (
        _convolution(channels_in, inner, 1),
        _convolution(inner, inner, 3, stride=stride, groups=inner),
        _linear_convolution(inner, channels, 1),
    )
