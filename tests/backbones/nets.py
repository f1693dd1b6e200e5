"""Nets for tests: those of the table, and small ones of each family; each is made once."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor, nn

from facerec.backbones import BACKBONES, build
from facerec.backbones.base import Backbone
from facerec.backbones.ir import IR
from facerec.backbones.iresnet import IResNet
from facerec.backbones.lresnet import LResNet
from facerec.backbones.sphereface import SphereFace
from facerec.backbones.vit import ViT

NAMES = list(BACKBONES)
SMALL: dict[str, Callable[..., Backbone]] = {
    "small iresnet": partial(IResNet, depths=(1, 1, 1, 1)),
    "small ir": partial(IR, depths=(1, 1, 1, 1)),
    "small lresnet": partial(LResNet, depths=(1, 1, 1, 1)),
    "small sphereface": partial(SphereFace, depths=(0, 1, 1, 0)),
    "small vit": partial(ViT, width=32, depth=3),
}
QUICK = ["tiny", "mobilefacenet", *SMALL]
SLOW = [name for name in NAMES if name not in QUICK]  # seconds each on one core


def params(quick: list[str], slow: list[str]) -> list[ParameterSet]:
    return [
        *(pytest.param(name) for name in quick),
        *(pytest.param(name, marks=pytest.mark.slow) for name in slow),
    ]


COMPUTED = params(QUICK, SLOW)
ONE_QUICK = params(QUICK[:1], QUICK[1:] + SLOW)  # for what the base class does for all


def fresh(name: str, seed: int = 0, **args: float) -> Backbone:
    """A net as training starts with it, of embeddings of length 16."""
    torch.manual_seed(seed)
    if name in BACKBONES:
        return build(name, args, embedding_size=16)
    net = SMALL[name](16, **args)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def tamed(name: str) -> Backbone:
    """A net in evaluation mode, with weights that keep deep ones in range."""
    return copy.deepcopy(_tamed(name))


@cache
def _tamed(name: str) -> Backbone:
    net = fresh(name).eval()
    for key, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        # The end of a residual branch of iresnet, lresnet, IR and SphereFace.
        if re.search(r"layer\d\.\d+\.bn[23]$", key) and not key.endswith(_inner(name)):
            nn.init.constant_(module.weight, 0.2)
        if key.endswith("res_layer.5"):
            nn.init.constant_(module.weight, 0.2)
        if re.search(r"conv2\.\d+\.2$", key):
            module.weight.data *= 0.2
    return net


def _inner(name: str) -> str:
    """The name of the normalisation inside a block that looks like the one at its end."""
    return "bn2" if "iresnet" in name else "bn3"


@cache
def on_meta(name: str) -> Backbone:
    """A net of the table without numbers, of embeddings of length 512: shapes and costs only."""
    with torch.device("meta"):
        return build(name, {}, embedding_size=512).eval()


def random_images(count: int, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    drawn = torch.rand(count, 3, side, side, generator=generator, dtype=torch.float64)
    return drawn.to(dtype) * 2 - 1
