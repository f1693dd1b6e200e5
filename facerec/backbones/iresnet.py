"""Improved residual networks of depth 18 to 200, as the field trains them.

Duta et al., "Improved Residual Networks for Image and Video Recognition", ICPR 2020, in the form of
insightface's arcface_torch. Parameter names, shapes and order are arcface_torch's, so that its
public checkpoints load as they are.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from facerec.backbones.base import Backbone, shrink


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

    The last normalisation's weight stays 1 and is not trained, as in arcface_torch.

    Args:
        embedding_size: Length of an embedding.
        depths: Blocks in each of the four stages, of 64, 128, 256 and 512 channels.
        dropout: Share of the last feature map's values set to zero in training, 0 to below 1.
            arcface_torch's default is 0; its early recipes used 0.4.
    """

    def __init__(
        self, embedding_size: int, *, depths: tuple[int, int, int, int], dropout: float = 0.0
    ) -> None:
        super().__init__(input_size=112, embedding_size=embedding_size)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, 64, depths[0])
        self.layer2 = _stage(64, 128, depths[1])
        self.layer3 = _stage(128, 256, depths[2])
        self.layer4 = _stage(256, 512, depths[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * 7 * 7, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, H, W) RGB in [-1, 1], H = W >= 112 -> (b, embedding_size), not normalised."""
        x = self.prelu(self.bn1(self.conv1(shrink(images, self.input_size))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(self.bn2(x).flatten(1))
        # Half precision ends here, as in arcface_torch: the embedding is made in the weights' own.
        with torch.autocast(x.device.type, enabled=False):
            embeddings: Tensor = self.features(self.fc(x.to(self.fc.weight.dtype)))
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
