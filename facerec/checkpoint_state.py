"""What of a training is state: copied for a checkpoint, and put back in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from facerec import checkpoint_files as files
from facerec.backbones.base import Backbone
from facerec.head import Head
from facerec.values import ConfigError


def named_parameters(backbone: Backbone, head: Head) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters, by the names that checkpoints give them: `backbone.…`, `head.…`."""
    for prefix, module in (("backbone", backbone), ("head", head)):
        for name, parameter in module.named_parameters():
            yield f"{prefix}.{name}", parameter


def snapshot(
    backbone: Backbone, head: Head, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """Copy what one worker writes of a checkpoint.

    Args:
        backbone: Replicated: the first worker writes it.
        head: This worker's classes.
        optimizer: Of both; tensors of its state that belong to a parameter with a class axis have
            one too, unless they are 0-d.

    Returns:
        File -> name -> tensor on the CPU, (C of this worker, ...) in the piece files.
    """
    whole: dict[str, dict[str, Tensor]] = {files.HEAD: {}, files.OPTIMIZER: {}}
    cut: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, tensor in head.state_dict().items():
        (cut[0] if name in head.class_axis else whole[files.HEAD])[name] = tensor
    for name, parameter in named_parameters(backbone, head):
        in_head = name.removeprefix("head.") in head.class_axis and name.startswith("head.")
        for key, value in sorted(optimizer.state.get(parameter, {}).items()):
            if isinstance(value, Tensor):
                place = cut[1] if in_head and value.dim() else whole[files.OPTIMIZER]
                place[f"{name}|{key}"] = value
    parts: dict[str, Mapping[str, Tensor]] = dict(
        zip(files.piece_files(head.shard.start, head.shard.stop), cut, strict=True)
    )
    if head.shard.rank == 0:
        parts |= {files.BACKBONE: backbone.state_dict(), **whole}
    return {
        file: {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        for file, tensors in parts.items()
    }


def fill(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Give a module all of its tensors.

    Args:
        module: A backbone or a head.
        tensors: By their names in its state dict.
        folder: The checkpoint that they are from, for the message.

    Raises:
        ConfigError: One is missing, is unknown, or is of another shape.
    """
    own = module.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        where = "lacks" if name in own else "has an extra"
        raise ConfigError(f"{folder}: {where} tensor {name}; it belongs to another config")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise ConfigError(
                f"{folder}: {name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}; "
                "it belongs to another config"
            )
    module.load_state_dict(dict(tensors))


def fill_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    state: Mapping[str, Tensor],
) -> None:
    """Give an optimizer its state.

    Args:
        optimizer: Has made no step yet.
        parameters: By the names that checkpoints give them.
        state: `parameter|key` -> tensor, with a class axis only this worker's classes.

    Raises:
        ConfigError: It is of a parameter that there is not.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for place, tensor in state.items():
        name, key = place.split("|")
        if name not in parameters:
            raise ConfigError(f"optimizer state of {name}: it belongs to another config")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:  # in the parameter's own layout, as it was made
            own = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
            tensor = own.copy_(tensor)
        elif tensor.dim() or any(groups[id(parameter)].get(k) for k in ("fused", "capturable")):
            tensor = tensor.to(parameter.device)
        optimizer.state[parameter][key] = tensor
