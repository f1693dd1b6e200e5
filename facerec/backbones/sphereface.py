"""SphereFace's residual networks, without any normalisation.

Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", CVPR 2017, table 2, at
112 x 112 pixels (the paper has 112 x 96), as the public re-implementation of UniformFace,
ka-tsu-mo/pytorch-uniformface, trains them. Parameter names, shapes and order are that code's.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from facerec.backbones.base import Backbone


class Stage(nn.Module):
    """A 3x3 convolution of stride 2 and PReLU, then `depth` pairs of 3x3 and PReLU with a shortcut.

    The shortcut goes around the second PReLU too: nothing acts on the sum.
    """

    def __init__(self, channels_in: int, channels: int, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.ModuleList(_pair(channels) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels_in, h, w) -> (b, channels, h / 2, w / 2)."""
        x = self.prelu(self.conv1(x))
        for pair in self.conv2:
            x = x + pair(x)
        return x


class SphereFace(Backbone):
    """Four stages of `Stage`, then a linear layer over the 7 x 7 map.

    The weights start as torch draws them, as in that code.

    Args:
        embedding_size: Length of an embedding.
        depths: Pairs in each of the four stages, of 64, 128, 256 and 512 channels.
        dropout: Share of the last feature map's values set to zero in training, 0 to below 1.
            The published net has none.
        view_dropout: The share while two views are drawn; None: the same.
    """

    def __init__(
        self,
        embedding_size: int,
        *,
        depths: tuple[int, int, int, int],
        dropout: float = 0.0,
        view_dropout: float | None = None,
    ) -> None:
        super().__init__(112, embedding_size, dropout=dropout, view_dropout=view_dropout)
        channels = (3, 64, 128, 256, 512)
        stages = (Stage(channels[i], channels[i + 1], depth) for i, depth in enumerate(depths))
        self.model = nn.ModuleDict(
            {"layers": nn.Sequential(*stages), "fc": nn.Linear(512 * 7 * 7, embedding_size)}
        )

    def feature_map(self, images: Tensor) -> Tensor:
        """(b, 3, 112, 112) -> (b, 512 * 7 * 7)."""
        features: Tensor = self.model["layers"](images).flatten(1)
        return features

    def embed(self, features: Tensor) -> Tensor:
        """(b, 512 * 7 * 7) -> (b, embedding_size)."""
        embeddings: Tensor = self.model["fc"](features)
        return embeddings


def _pair(channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with its PReLU: (b, channels, h, w) -> the same shape."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.PReLU(channels),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.PReLU(channels),
    )


sphereface20 = partial(SphereFace, depths=(1, 2, 4, 1))
sphereface64 = partial(SphereFace, depths=(3, 8, 16, 3))
