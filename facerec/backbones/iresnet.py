"""Improved residual networks of depth 18 to 200, as the field trains them.

Duta et al., "Improved Residual Networks for Image and Video Recognition", ICPR 2020, in the form of
insightface's arcface_torch. Parameter names, shapes and order are arcface_torch's, so that its
public checkpoints load as they are.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from facerec.backbones.base import Backbone


class Block(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 (strided), BN, plus the input (projected where shapes differ)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels_in, h, w) -> (b, channels, h / stride, w / stride)."""
        y: Tensor = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        return y + shortcut


class IResNet(Backbone):
    """Four stages of `Block`, then BN, dropout, a linear layer over the 7 x 7 map, and BN.

    The last normalisation's weight stays 1 and is not trained, as in arcface_torch, which holds
    embeddings near a norm of √embedding_size.

    Args:
        embedding_size: Length of an embedding.
        depths: Blocks in each of the four stages, of 64, 128, 256 and 512 channels.
        dropout: Share of the last feature map's values set to zero in training, 0 to below 1.
            arcface_torch's default is 0; its early recipes, and ContraFace's single view, 0.4.
        view_dropout: The share while two views are drawn; None: the same. ContraFace uses 0.6.
        free_norm: Whether the last normalisation's weight is trained, so that norms may grow, as in
            MagFace's code.
    """

    def __init__(
        self,
        embedding_size: int,
        *,
        depths: tuple[int, int, int, int],
        dropout: float = 0.0,
        view_dropout: float | None = None,
        free_norm: bool = False,
    ) -> None:
        super().__init__(112, embedding_size, dropout=dropout, view_dropout=view_dropout)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, 64, depths[0])
        self.layer2 = _stage(64, 128, depths[1])
        self.layer3 = _stage(128, 256, depths[2])
        self.layer4 = _stage(256, 512, depths[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad_(free_norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def feature_map(self, images: Tensor) -> Tensor:
        """(b, 3, 112, 112) -> (b, 512 * 7 * 7)."""
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features: Tensor = self.bn2(x).flatten(1)
        return features

    def embed(self, features: Tensor) -> Tensor:
        """(b, 512 * 7 * 7) -> (b, embedding_size)."""
        embeddings: Tensor = self.features(self.fc(features))
        return embeddings


def _stage(channels_in: int, channels: int, depth: int) -> nn.Sequential:
    """`depth` blocks, the first of stride 2."""
    rest = (Block(channels, channels, 1) for _ in range(depth - 1))
    return nn.Sequential(Block(channels_in, channels, 2), *rest)


iresnet18 = partial(IResNet, depths=(2, 2, 2, 2))
iresnet34 = partial(IResNet, depths=(3, 4, 6, 3))
iresnet50 = partial(IResNet, depths=(3, 4, 14, 3))
iresnet100 = partial(IResNet, depths=(3, 13, 30, 3))
iresnet200 = partial(IResNet, depths=(6, 26, 60, 6))
