"""Vision transformers over patches of 9 x 9 pixels.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, in the form of insightface's
arcface_torch (An et al., "Killing Two Birds with One Stone", CVPR 2022): no class token, the
embedding is made of all patches. Parameter names, shapes and order are arcface_torch's, so that its
public checkpoints load as they are.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facerec.backbones.base import Backbone, no_autocast

_PATCH = 9  # pixels; the four last rows and columns of 112 pixels are not seen
_PATCHES = (112 // _PATCH) ** 2
_HEADS = 8


class Attention(nn.Module):
    """Self-attention of 8 heads; its softmax runs in the weights' precision, never in half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, width) -> the same shape."""
        patches, width = int(x.shape[1]), int(x.shape[2])
        qkv = self.qkv(x).reshape(-1, patches, 3, _HEADS, width // _HEADS).permute(2, 0, 3, 1, 4)
        with no_autocast(x.device):
            query, key, value = qkv.to(self.qkv.weight.dtype).unbind(0)
            y = F.scaled_dot_product_attention(query, key, value)
        y = y.transpose(1, 2).reshape(-1, patches, width)
        z: Tensor = self.proj(y)
        return z


class MLP(nn.Module):
    """Two linear layers, the inner one four times as wide, with ReLU6 between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, width) -> the same shape."""
        y: Tensor = self.fc2(F.relu6(self.fc1(x)))
        return y


class Block(nn.Module):
    """Attention and MLP, each after a layer normalisation and with a shortcut."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = Attention(width)
        self.mlp = MLP(width)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, width) -> the same shape."""
        x = x + self._drop(self.attn(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        """In training, zero the branch of some images; the others' grow to keep the mean."""
        if not self.training or self.drop_path == 0.0:
            return branch
        return branch * F.dropout(branch.new_ones(branch.shape[0], 1, 1), self.drop_path)


class PatchEmbed(nn.Module):
    """One linear map for each patch of 9 x 9 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, _PATCH, stride=_PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, 112, 112) -> (b, 144, width)."""
        patches: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return patches


class ViT(Backbone):
    """Patches and their places, blocks, layer normalisation; linear over all patches, BN, twice.

    In training alone, a share of each image's patches, drawn anew for each image and step, is left
    out before the blocks; a learned token stands in for them after the blocks. And branches of
    blocks are skipped at random (stochastic depth). In evaluation nothing is left out.

    arcface_torch leaves out a tenth whatever `mask_ratio` above 0 it is given; here the keyword
    rules. Its trading of computation for memory in vit_b, which changes no value, is not here.

    Args:
        embedding_size: Length of an embedding.
        width: Length of a patch's vector, a multiple of 8.
        depth: Blocks.
        dropout: Share of the last feature map's values (all patches' vectors) set to zero in
            training, 0 to below 1. arcface_torch has none.
        view_dropout: The share while two views are drawn; None: the same.
        mask_ratio: Share of the patches left out in training, 0 to below 1.
        drop_path: Share of images for which the last block's branches are skipped in training, 0
            to below 1; it rises linearly from 0 in the first block. arcface_torch's models for
            WebFace42M use 0.05.
    """

    def __init__(
        self,
        embedding_size: int,
        *,
        width: int,
        depth: int,
        dropout: float = 0.0,
        view_dropout: float | None = None,
        mask_ratio: float = 0.1,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__(112, embedding_size, dropout=dropout, view_dropout=view_dropout)
        self.kept = max(1, int(_PATCHES * (1 - mask_ratio)))
        self.pos_embed = nn.Parameter(torch.zeros(1, _PATCHES, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        # A parameter that no gradient reaches would stop training on several workers.
        self.mask_token.requires_grad_(self.kept < _PATCHES)
        self.patch_embed = PatchEmbed(width)
        rates = (drop_path * i / max(depth - 1, 1) for i in range(depth))
        self.blocks = nn.ModuleList(Block(width, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(_PATCHES * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def feature_map(self, images: Tensor) -> Tensor:
        """(b, 3, 112, 112) -> (b, 144 * width)."""
        x = self.patch_embed(images) + self.pos_embed
        masking = self.training and self.kept < _PATCHES
        if masking:
            order = torch.rand(x.shape[:2], device=x.device).argsort(dim=1)
            x = x.gather(1, _rows(order[:, : self.kept], x))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if masking:
            token = self.mask_token.to(x.dtype)
            x = torch.cat([x, token.expand(x.shape[0], _PATCHES - self.kept, -1)], dim=1)
            x = x.gather(1, _rows(order.argsort(dim=1), x))
        features: Tensor = x.flatten(1)
        return features

    def embed(self, features: Tensor) -> Tensor:
        """(b, 144 * width) -> (b, embedding_size)."""
        embeddings: Tensor = self.feature(features)
        return embeddings


def _rows(order: Tensor, x: Tensor) -> Tensor:
    """(b, n) numbers of rows as `gather` takes them: (b, n, width of x)."""
    return order.unsqueeze(-1).expand(-1, -1, x.shape[2])


vit_t = partial(ViT, width=256, depth=12)
vit_s = partial(ViT, width=512, depth=12)
vit_b = partial(ViT, width=512, depth=24)
