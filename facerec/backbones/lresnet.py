"""LResNet-E-IR, the residual networks of UniFace, which stride by 2x2 convolutions.

Zhou et al., "UniFace: Unified Cross-Entropy Loss for Deep Face Recognition", ICCV 2023; the net is
ArcFace's (Deng et al., CVPR 2019) in the form of the authors' code. Parameter names, shapes and
order are that code's, without its loss.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from facerec.backbones.base import Backbone


class Block(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 (2x2 where it strides), BN, plus the input (2x2 and BN likewise)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        if stride == 2:  # first of all, as in the authors' code: the order of the tensors
            self.downsample: nn.Module | None = nn.Sequential(
                nn.Conv2d(channels_in, channels, 2, stride=2, bias=False), nn.BatchNorm2d(channels)
            )
        else:
            self.downsample = None
        self.bn0 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        size, padding = (2, 0) if stride == 2 else (3, 1)
        self.conv2 = nn.Conv2d(channels, channels, size, stride=stride, padding=padding, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels_in, h, w) -> (b, channels, h / stride, w / stride)."""
        y: Tensor = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        y = self.bn2(self.conv2(y))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        return y + shortcut


class LResNet(Backbone):
    """Four stages of `Block`, then BN, dropout, a 7x7 convolution over the 7 x 7 map, and BN.

    Each block starts as its shortcut: its last normalisation's weight starts at 0. That of the last
    normalisation of all stays 1 and is not trained. `after_step` keeps the slopes of PReLU at 0.01
    or above. All as in the authors' code, which in evaluation also adds the embeddings of image
    and mirror image: here that is left to the evaluation.

    Args:
        embedding_size: Length of an embedding.
        depths: Blocks in each of the four stages, of 64, 128, 256 and 512 channels.
        dropout: Share of the last feature map's values set to zero in training, 0 to below 1.
        view_dropout: The share while two views are drawn; None: the same.
    """

    def __init__(
        self,
        embedding_size: int,
        *,
        depths: tuple[int, int, int, int],
        dropout: float = 0.4,
        view_dropout: float | None = None,
    ) -> None:
        super().__init__(112, embedding_size, dropout=dropout, view_dropout=view_dropout)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, 64, depths[0])
        self.layer2 = _stage(64, 128, depths[1])
        self.layer3 = _stage(128, 256, depths[2])
        self.layer4 = _stage(256, 512, depths[3])
        self.bn4 = nn.BatchNorm2d(512)
        self.fc5 = nn.Conv2d(512, embedding_size, 7, bias=False)
        self.bn5 = nn.BatchNorm1d(embedding_size)
        self.bn5.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            elif isinstance(module, Block):
                nn.init.zeros_(module.bn2.weight)

    def feature_map(self, images: Tensor) -> Tensor:
        """(b, 3, 112, 112) -> (b, 512, 7, 7)."""
        x = self.prelu(self.bn1(self.conv1(images)))
        features: Tensor = self.bn4(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return features

    def embed(self, features: Tensor) -> Tensor:
        """(b, 512, 7, 7) -> (b, embedding_size)."""
        embeddings: Tensor = self.bn5(self.fc5(features).flatten(1))
        return embeddings

    @torch.no_grad()
    def after_step(self) -> None:
        """Raise slopes of PReLU below 0.01 to it."""
        for module in self.modules():
            if isinstance(module, nn.PReLU):
                module.weight.clamp_(min=0.01)


def _stage(channels_in: int, channels: int, depth: int) -> nn.Sequential:
    """`depth` blocks, the first of stride 2."""
    rest = (Block(channels, channels, 1) for _ in range(depth - 1))
    return nn.Sequential(Block(channels_in, channels, 2), *rest)


lresnet50e_ir = partial(LResNet, depths=(3, 4, 14, 3))
lresnet100e_ir = partial(LResNet, depths=(3, 13, 30, 3))
