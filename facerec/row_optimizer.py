"""Optimizers that move, of a tensor with a class axis, only the rows that a batch met.

Where classes are sampled (PartialFC) a gradient is sparse (`facerec.rows.sampled`): it has rows of
the sampled classes alone. These rows move, with their momentum, as PyTorch's SGD or AdamW would
move each of them on its own, at the steps that met it. All other rows stay as they are to the bit,
weights and state: they have no weight decay either, and their momentum waits. Nothing as large as
all centers is ever made but the state itself. Gradients that are dense go to PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_NUMBERS = 1 << 24  # moved at a time, 64 MiB in single precision: bounds the memory for copies


def coalesce(parameter: nn.Parameter) -> Tensor:
    """The numbers of a parameter's gradient, to be read or changed in place.

    Args:
        parameter: With a gradient. A sparse one that was added up over several parts of a batch may
            have a row more than once: afterwards it has not.

    Returns:
        The gradient itself, or the rows of a sparse one (K, ...).
    """
    assert parameter.grad is not None
    if not parameter.grad.is_sparse:
        return parameter.grad
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad.values()


def _blocks(parameter: nn.Parameter, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some rows at a time: which ones (K,), and their gradient (K, ...)."""
    gradient = gradient.coalesce()
    size = max(_NUMBERS // max(parameter[:1].numel(), 1), 1)
    ids, values = gradient.indices()[0], gradient.values()
    for low in range(0, max(len(ids), 1), size):  # once at least: a state there is on each worker
        yield ids[low : low + size], values[low : low + size]


class _ByRow(torch.optim.Optimizer):
    """What both have in common; stands before PyTorch's class in the order of inheritance."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters, those with a sparse gradient by its rows.

        Raises:
            ValueError: A closure, which would want the gradients again.
        """
        if closure is not None:
            raise ValueError("closure: takes none; compute the gradients before the step")
        by_row: list[tuple[dict[str, Any], nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    by_row.append((group, parameter, parameter.grad))
                    parameter.grad = None
        try:
            super().step()
        finally:
            for _, parameter, gradient in by_row:
                parameter.grad = gradient
        for group, parameter, gradient in by_row:
            for ids, values in _blocks(parameter, gradient):
                rows = self._moved(group, parameter, ids, values)
                parameter.index_copy_(0, ids, rows)

    def _kept(self, parameter: nn.Parameter, name: str) -> Tensor:
        """A state of the parameter's own shape, zero where nothing was kept so far."""
        state = self.state[parameter]
        if state.get(name) is None:
            state[name] = torch.zeros_like(parameter, requires_grad=False)
        kept: Tensor = state[name]
        return kept

    def _moved(
        self, group: dict[str, Any], parameter: nn.Parameter, ids: Tensor, gradient: Tensor
    ) -> Tensor:
        """The new rows of `ids` (K, ...); their state is changed."""
        raise NotImplementedError


class RowSGD(_ByRow, torch.optim.SGD):
    """`torch.optim.SGD`, for sparse gradients too: only their rows have decay and momentum.

    Plain momentum: no dampening, no Nesterov.
    """

    def _moved(
        self, group: dict[str, Any], parameter: nn.Parameter, ids: Tensor, gradient: Tensor
    ) -> Tensor:
        rows = parameter[ids]
        moved = gradient.add(rows, alpha=group["weight_decay"])
        if group["momentum"]:
            momentum = self._kept(parameter, "momentum_buffer")
            moved.add_(momentum[ids], alpha=group["momentum"])
            momentum.index_copy_(0, ids, moved)
        return rows.add_(moved, alpha=-group["lr"])


class RowAdamW(_ByRow, torch.optim.AdamW):
    """`torch.optim.AdamW`, for sparse gradients too: only their rows have decay and moments.

    Each row counts its own steps (`step`, (C,)), from which its moments are corrected: a class that
    is met for the first time late in the training starts as gently as one that is met at once.
    """

    def _moved(
        self, group: dict[str, Any], parameter: nn.Parameter, ids: Tensor, gradient: Tensor
    ) -> Tensor:
        first, second = (self._kept(parameter, name) for name in ("exp_avg", "exp_avg_sq"))
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if state.get("step") is None:
            state["step"] = torch.zeros(len(parameter), device=parameter.device)
        step = state["step"][ids] + 1.0
        state["step"].index_copy_(0, ids, step)
        mean = first[ids].lerp_(gradient, 1.0 - beta1)
        square = second[ids].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        first.index_copy_(0, ids, mean)
        second.index_copy_(0, ids, square)
        # In double precision: 1 - beta² of a young row has few digits in single.
        shape = [-1] + [1] * (parameter.dim() - 1)
        corrections = [
            -torch.expm1(step.double() * math.log(beta)).view(shape) for beta in (beta1, beta2)
        ]
        length = square.sqrt_().div_(corrections[1].sqrt().to(square)).add_(group["eps"])
        rows = parameter[ids].mul_(1.0 - group["lr"] * group["weight_decay"])
        return rows.addcdiv_(mean.div_(corrections[0].to(mean)), length, value=-group["lr"])
