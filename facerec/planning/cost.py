"""What a backbone costs: multiply-adds, and numbers kept for the backward pass, of one image.

Counted on the net itself, by one pass as in training: patches that a vision transformer leaves out
there cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from facerec import backbones
from facerec.backbones.base import Backbone
from facerec.backbones.vit import Attention
from facerec.domains import Scalar

_IMAGES = 2  # a normalisation over one embedding would be none


@dataclass(frozen=True)
class NetCost:
    """A backbone's cost.

    Attributes:
        multiply_adds: Of convolutions, linear layers and attention, forward, for one image.
        saved: Numbers that the forward pass of one image keeps for the backward pass.
        parameters: Numbers of all its weights.
        input_size: Side in pixels at which it runs.
    """

    multiply_adds: int
    saved: int
    parameters: int
    input_size: int


def count(backbone: Backbone) -> NetCost:
    """Count what one image costs in training; nothing in the net or in torch's generators changes.

    Args:
        backbone: On any device, with parameters that are trained.
    """
    total = 0
    own = {tensor.data_ptr() for tensor in (*backbone.parameters(), *backbone.buffers())}
    kept: dict[int, Tensor] = {}  # by address; held here, so that none is used twice

    def add(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += result.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += result.numel() * module.in_features
        elif isinstance(module, Attention):
            images, patches, width = given[0].shape
            total += 2 * images * patches * patches * width

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own and (place not in kept or kept[place].numel() < tensor.numel()):
            kept[place] = tensor
        return tensor

    hooks = [module.register_forward_hook(add) for module in backbone.modules()]
    training, device = backbone.training, next(backbone.parameters()).device
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    size = backbone.input_size
    try:
        backbone.train()
        images = torch.zeros(_IMAGES, 3, size, size, device=device)
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            backbone(images)
    finally:
        for name, buffer in backbone.named_buffers():
            buffer.copy_(before[name])
        backbone.train(training)
        for hook in hooks:
            hook.remove()
    # Vectors are means of channels, the same for any number of images.
    saved = sum(tensor.numel() for tensor in kept.values() if tensor.dim() > 1)
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    return NetCost(total // _IMAGES, saved // _IMAGES, parameters, size)


def cost_of(name: str, args: Mapping[str, Scalar], embedding_size: int) -> NetCost:
    """Count a backbone by name; each is built once in a process.

    Args:
        name: A key of `BACKBONES`.
        args: Its keywords.
        embedding_size: Length of an embedding.

    Raises:
        ValueError: As `facerec.backbones.build`.
    """
    return _counted(name, tuple(sorted(args.items())), embedding_size)


@lru_cache(maxsize=64)
def _counted(name: str, args: tuple[tuple[str, Scalar], ...], embedding_size: int) -> NetCost:
    with torch.random.fork_rng(devices=[]):
        return count(backbones.build(name, dict(args), embedding_size=embedding_size))
