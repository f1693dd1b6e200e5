"""How the weights move: parameter groups, the learning rate over time, the clipped gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facerec.config import OptimizerConfig
from facerec.head import ClassificationHead, Head
from facerec.row_optimizer import RowAdamW, RowSGD, coalesce

ONE_CYCLE_RISE = 0.3  # share of the training over which one_cycle's rate rises
ONE_CYCLE_START = 1 / 25  # of the peak, where the rise begins
NORMALISATIONS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def learning_rate(
    schedule: str,
    progress: float,
    *,
    peak: float,
    warmup: float = 0.0,
    milestones: Sequence[float] = (),
    decay: float = 0.1,
    power: float = 2.0,
) -> float:
    """Give the learning rate at one moment of a training.

    Args:
        schedule: `step` (times `decay` at each milestone), `poly` ((1 - t)^power over what
            follows the warm-up), `cosine` (half a wave down to 0 over what follows the warm-up)
            or `one_cycle` (a cosine rise from 1/25 of the peak over the first 30 %, then a
            cosine fall to 0; Smith and Topin 2018, with cosines for straight lines).
        progress: Share of the training that is done, 0 to 1.
        peak: The highest rate.
        warmup: Share of the training over which the rate rises in a straight line from 0.
        milestones: Shares of the training (`step`).
        decay: Factor at each milestone (`step`).
        power: Exponent (`poly`; 1 in arcface_torch, 2 in UniFace's large runs).
    """
    if schedule == "one_cycle":
        if progress < ONE_CYCLE_RISE:
            rise = 0.5 - 0.5 * math.cos(math.pi * progress / ONE_CYCLE_RISE)
            return peak * (ONE_CYCLE_START + (1 - ONE_CYCLE_START) * rise)
        fall = (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
        return peak * (0.5 + 0.5 * math.cos(math.pi * min(fall, 1.0)))
    if progress < warmup:
        return peak * progress / warmup
    if schedule == "step":
        return peak * decay ** sum(progress >= milestone for milestone in milestones)
    rest = min((progress - warmup) / (1 - warmup), 1.0) if warmup < 1 else 1.0
    if schedule == "poly":
        return peak * float((1 - rest) ** power)
    if schedule == "cosine":
        return peak * (0.5 + 0.5 * math.cos(math.pi * rest))
    raise ValueError(f"schedule = {schedule!r}: takes step, poly, cosine, one_cycle")


def make_optimizer(
    config: OptimizerConfig, backbone: nn.Module, head: Head
) -> torch.optim.Optimizer:
    """Make the optimizer; each group carries `lr_mult`, its factor on the learning rate.

    Where the head samples classes its gradients become sparse, and rows that a batch did not meet
    stay as they are, weights and state (`facerec.row_optimizer`).
    """
    if isinstance(head, ClassificationHead):
        head.sparse_gradients = True
    groups = _backbone_groups(config, backbone) + head.parameter_groups()
    for group in groups:
        if group["weight_decay"] is None:
            group["weight_decay"] = config.weight_decay
    if config.name == "adamw":
        return RowAdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    return RowSGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def _backbone_groups(config: OptimizerConfig, backbone: nn.Module) -> list[dict[str, Any]]:
    """All parameters of the backbone, those of `no_decay`'s kinds in a group of their own."""
    spared = {
        id(parameter)
        for module in backbone.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if config.no_decay_kinds & _kinds(module, name)
    }
    decayed = [p for p in backbone.parameters() if id(p) not in spared]
    groups = [{"params": decayed, "lr_mult": 1.0, "weight_decay": None}]
    if spared:
        rest = [p for p in backbone.parameters() if id(p) in spared]
        groups.append({"params": rest, "lr_mult": 1.0, "weight_decay": 0.0})
    return groups


def _kinds(module: nn.Module, name: str) -> set[str]:
    """What `no_decay` calls the parameter `name` of a layer."""
    kinds = {"bias"} if name == "bias" else set()
    if isinstance(module, NORMALISATIONS):
        kinds.add("norm")
    if isinstance(module, nn.PReLU):
        kinds.add("prelu")
    return kinds


def rate_at(config: OptimizerConfig, step: int, total: int, epochs: float) -> float:
    """Give the learning rate of a step, from 0, of `total` steps that are `epochs` long."""
    return learning_rate(
        config.schedule,
        step / total,
        peak=config.lr,
        warmup=config.warmup_epochs / epochs,
        milestones=config.milestone_fractions,
        decay=config.decay,
        power=config.power,
    )


def clip_gradients(
    config: OptimizerConfig, backbone: nn.Module, head: Head, loss_scale: Tensor | None = None
) -> Tensor:
    """Scale the gradients down to `clip_norm`, one global norm over all workers' centers.

    Args:
        config: `clip_norm` and `clip_scope`.
        backbone: With its gradients.
        head: With its gradients.
        loss_scale: The factor on the loss (0-d), which is taken out of all gradients first.

    Returns:
        The norm before (0-d, double), the same on all workers; with `clip_norm` 0, where nothing is
        scaled, that of the backbone's alone, for which no pass over the centers is needed.
    """
    gradients = [p.grad for p in backbone.parameters() if p.grad is not None]
    square = torch.zeros((), dtype=torch.float64, device=head.centers.device)
    if gradients:  # none where only a confidence is trained
        norms = torch._foreach_norm(gradients)  # one kernel where there would be one per layer
        square = torch.stack([norm.double() for norm in norms]).square().sum()
    rest: list[Tensor] = []
    for name, parameter in head.named_parameters():
        if parameter.grad is None:
            continue
        gradient = coalesce(parameter)
        if config.clip_norm and config.clip_scope == "all":
            part = gradient.norm().double().square()
            if name in head.class_axis and head.shard.world_size > 1:
                dist.all_reduce(part)
            square = square + part
            gradients.append(gradient)
        else:
            rest.append(gradient)
    norm, factor = square.sqrt(), torch.ones_like(square)
    if loss_scale is not None:
        factor = factor / loss_scale
        norm = norm * factor
        _multiply(rest, factor)
    if config.clip_norm:
        factor = factor * (config.clip_norm / (norm + 1e-6)).clamp(max=1.0)
    if config.clip_norm or loss_scale is not None:
        _multiply(gradients, factor)
    return norm


def _multiply(gradients: list[Tensor], factor: Tensor) -> None:
    """In place, all of them at once."""
    if gradients:
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))
