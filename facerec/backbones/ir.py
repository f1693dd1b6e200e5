"""IR, the residual networks of AdaFace: iresnet but for two things.

Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022, in the form of the
authors' code. A shortcut that strides without changing the number of channels skips pixels instead
of projecting them (the first block of the first stage), and the last normalisation has neither
weight nor bias. Parameter names, shapes and order are that code's, so that its public checkpoints
load as they are; it trained them on BGR images.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from facerec.backbones.base import Backbone


class Block(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 (strided), BN, plus the input (projected where channels differ)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer: nn.Module | None = None
        if channels_in != channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels_in, h, w) -> (b, channels, h / stride, w / stride)."""
        y: Tensor = self.res_layer(x)
        if self.shortcut_layer is None:
            return y + x[:, :, :: self.stride, :: self.stride]
        shortcut: Tensor = self.shortcut_layer(x)
        return y + shortcut


class IR(Backbone):
    """Four stages of `Block`, then BN, dropout, a linear layer over the 7 x 7 map, and BN.

    The authors' net divides the embedding by its norm and gives both; here they stay one.

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
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        # Numbers 1 and 2 are the authors' dropout and flattening, which have no tensors.
        self.output_layer = nn.ModuleDict(
            {
                "0": nn.BatchNorm2d(512),
                "3": nn.Linear(512 * 7 * 7, embedding_size),
                "4": nn.BatchNorm1d(embedding_size, affine=False),
            }
        )
        channels = (64, 64, 128, 256, 512)
        self.body = nn.Sequential(
            *(
                Block(channels[stage + (block > 0)], channels[stage + 1], 1 if block else 2)
                for stage, depth in enumerate(depths)
                for block in range(depth)
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def feature_map(self, images: Tensor) -> Tensor:
        """(b, 3, 112, 112) -> (b, 512 * 7 * 7)."""
        x = self.body(self.input_layer(images))
        features: Tensor = self.output_layer["0"](x).flatten(1)
        return features

    def embed(self, features: Tensor) -> Tensor:
        """(b, 512 * 7 * 7) -> (b, embedding_size)."""
        embeddings: Tensor = self.output_layer["4"](self.output_layer["3"](features))
        return embeddings


ir_18 = partial(IR, depths=(2, 2, 2, 2))
ir_34 = partial(IR, depths=(3, 4, 6, 3))
ir_50 = partial(IR, depths=(3, 4, 14, 3))
ir_101 = partial(IR, depths=(3, 13, 30, 3))
