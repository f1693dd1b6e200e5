"""Parameters and multiply-adds: as published, and as a loop over the layers gives them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from facerec.backbones import build
from tests.backbones.cost import multiply_adds
from tests.backbones.nets import NAMES, on_meta

CHANNELS = (64, 64, 128, 256, 512)
DEPTHS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (6, 26, 60, 6),
    "ir_18": (2, 2, 2, 2),
    "ir_34": (3, 4, 6, 3),
    "ir_50": (3, 4, 14, 3),
    "ir_101": (3, 13, 30, 3),
    "lresnet50e_ir": (3, 4, 14, 3),
    "lresnet100e_ir": (3, 13, 30, 3),
    "sphereface20": (1, 2, 4, 1),
    "sphereface64": (3, 8, 16, 3),
}
LAYERS = {"vit_t": (256, 12), "vit_s": (512, 12), "vit_b": (512, 24)}
# 1e9 multiply-adds, insightface's arcface_torch, README.md; some counters add normalisation.
PUBLISHED = {
    "iresnet18": 2.6,
    "iresnet50": 6.3,
    "iresnet100": 12.1,
    "iresnet200": 23.5,
    "mobilefacenet": 0.45,
    "vit_t": 1.5,
    "vit_s": 5.7,
    "vit_b": 11.4,
}
Cost = tuple[int, int]  # parameters, multiply-adds


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    assert multiply_adds(on_meta(name)) / 1e9 == pytest.approx(PUBLISHED[name], rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DEPTHS, *LAYERS])
def test_costs_are_the_sums_over_the_layers(name: str) -> None:
    if name in LAYERS:
        expected = transformer(*LAYERS[name])
    else:
        family = {"ire": iresnet, "ir_": ir, "lre": lresnet, "sph": sphereface}[name[:3]]
        expected = family(DEPTHS[name])
    backbone = on_meta(name)
    found = sum(p.numel() for p in backbone.parameters()), multiply_adds(backbone)
    assert found == expected


def convolution(entering: int, leaving: int, size: int, side: int, bias: bool = False) -> Cost:
    weights = entering * leaving * size**2
    return weights + bias * leaving, weights * side**2  # `side` of the map that leaves


def total(*costs: Cost) -> Cost:
    parameters, products = zip(*costs, strict=True)
    return sum(parameters), sum(products)


def iresnet(depths: tuple[int, ...]) -> Cost:
    costs = [convolution(3, 64, 3, 112), (2 * 64 + 64, 0)]
    side = 112
    for (before, after), blocks in zip(pairwise(CHANNELS), depths, strict=True):
        side //= 2
        costs += [convolution(before, after, 1, side), (2 * after, 0)]
        for block in range(blocks):
            entering, first = (after, side) if block else (before, 2 * side)
            costs += [convolution(entering, after, 3, first), convolution(after, after, 3, side)]
            costs.append((2 * entering + 2 * after + after + 2 * after, 0))
    return total(*costs, (2 * 512, 0), convolution(512, 512, 7, 1, bias=True), (2 * 512, 0))


def ir(depths: tuple[int, ...]) -> Cost:
    parameters, products = iresnet(depths)
    projection, product = convolution(64, 64, 1, 56)  # it has none where channels stay the same
    return parameters - projection - 2 * 64 - 2 * 512, products - product


def lresnet(depths: tuple[int, ...]) -> Cost:
    costs = [convolution(3, 64, 3, 112), (2 * 64 + 64, 0)]
    side = 112
    for (before, after), blocks in zip(pairwise(CHANNELS), depths, strict=True):
        side //= 2
        costs += [convolution(before, after, 2, side), (2 * after, 0)]
        for block in range(blocks):
            entering, first, size = (after, side, 3) if block else (before, 2 * side, 2)
            costs += [convolution(entering, after, 3, first), convolution(after, after, size, side)]
            costs.append((2 * entering + 2 * after + after + 2 * after, 0))
    return total(*costs, (2 * 512, 0), convolution(512, 512, 7, 1), (2 * 512, 0))


def sphereface(depths: tuple[int, ...]) -> Cost:
    costs = []
    side = 112
    for (before, after), pairs in zip(pairwise((3, *CHANNELS[1:])), depths, strict=True):
        side //= 2
        costs += [convolution(before, after, 3, side, bias=True), (after, 0)]
        costs += [convolution(after, after, 3, side, bias=True), (after, 0)] * (2 * pairs)
    return total(*costs, convolution(512, 512, 7, 1, bias=True))


def transformer(width: int, depth: int) -> Cost:
    patches = 12 * 12
    linear = width * 3 * width + width * width + 2 * width * 4 * width  # qkv, proj, fc1, fc2
    block = linear + width + 4 * width + width + 4 * width, linear * patches
    attention = 0, 2 * patches * patches * width
    costs = [convolution(3, width, 9, 12, bias=True), (patches * width + width + 2 * width, 0)]
    costs += [block, attention] * depth
    embedding = patches * width * width + width * 512
    return total(*costs, (embedding + 2 * width + 2 * 512, embedding))


def test_mobilefacenet_is_small() -> None:
    assert sum(p.numel() for p in on_meta("mobilefacenet").parameters()) == 2_059_520


@pytest.mark.parametrize("embedding_size", [16, 128, 512])
def test_tiny_is_small(embedding_size: int) -> None:
    backbone = build("tiny", {}, embedding_size=embedding_size)
    assert sum(p.numel() for p in backbone.parameters()) <= 600_000
    assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, embedding_size)
    assert all(m.kernel_size == (3, 3) for m in backbone.modules() if isinstance(m, nn.Conv2d))


def test_every_net_has_its_cost_here() -> None:
    assert {*DEPTHS, *LAYERS, *PUBLISHED, "tiny"} == set(NAMES)
