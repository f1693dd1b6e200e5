"""One step of a training: everything between a batch on the device and the moved weights.

Nothing in it waits for the device: what a step measures stays there as 0-d tensors, until an epoch
ends or `facerec.divergence` reads a copy. `fp16` with AdamW or with sampled classes is the
exception: whether such a step moves anything is asked once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from inspect import signature
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from facerec.backbones.base import Backbone, shrink
from facerec.config import ConfigError, TrainConfig
from facerec.data.augment import normalise
from facerec.data.feed import Sent
from facerec.head import Head
from facerec.optimizer import clip_gradients
from facerec.precision import LossScaler, compute_dtype

# Whether buffers are sent anew in each step; its name from PyTorch 2.13 on, and the one before.
_SYNCED = "forward_sync_buffers"
if _SYNCED not in signature(DistributedDataParallel).parameters:
    _SYNCED = "broadcast_buffers"


class Measured(NamedTuple):
    """What a step measures, as 0-d tensors in double precision.

    Attributes:
        shown: What the history has: `loss`, `loss.<term>`, `train.<statistic>`.
        watched: What tells a training past saving: `HeadOutput.watched`, `gradient_norm` (before
            clipping) and, with `fp16`, `loss_scale`.
    """

    shown: dict[str, Tensor]
    watched: dict[str, Tensor]


class TrainingStep:
    """Moves the weights of backbone and head by one batch.

    Args:
        config: What is trained.
        backbone: On the device. Where several workers train it, all hold the same weights.
        head: Likewise, this worker's classes.
        optimizer: Of both.
        device: Where they lie.

    Attributes:
        scaler: The loss's factor in half precision; None with other `precision`.

    Raises:
        ConfigError: `compile=on` where nothing can compile.
    """

    def __init__(
        self,
        config: TrainConfig,
        backbone: Backbone,
        head: Head,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        self._config, self._backbone, self._head = config, backbone, head
        self._optimizer = optimizer
        dtype = compute_dtype(config.precision, device)
        self._autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        self.scaler = LossScaler(device) if dtype == torch.float16 else None
        # What trains; weights, evaluation and checkpoints stay with `backbone`, by their own names.
        self._network: nn.Module = backbone
        if head.shard.connected and head.trains_backbone:
            ids = [device.index] if device.type == "cuda" else None
            self._network = DistributedDataParallel(
                backbone,
                device_ids=ids,
                **{_SYNCED: False},  # type: ignore[arg-type]  # the first worker's are kept
            )
        if compiles(config.compile, device):
            self._network = torch.compile(self._network, dynamic=False)  # type: ignore[assignment]

    def __call__(self, batch: Sent, seed: int, rate: float) -> Measured:
        """Make one step.

        Args:
            batch: This worker's part of the global batch.
            seed: Of all random numbers that the network draws in this step.
            rate: The learning rate, before the factors of its groups.
        """
        backbone, head, scaler = self._backbone, self._head, self.scaler
        # Random numbers of a step (dropout) come from its number: none are left to save.
        torch.manual_seed(seed)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["lr_mult"]
        self._optimizer.zero_grad(set_to_none=True)
        batch.wait()
        shown: list[str] = []
        names: list[str] = []
        total: Tensor | None = None
        for part, weight in _parts(batch, self._config.optimizer.accumulate):
            with self._autocast:
                embeddings = self._network(self._images(part), views=head.views)
            output = head(embeddings, part.labels)
            loss = output.loss * weight
            (loss if scaler is None else loss * scaler.scale).backward()
            values = {"loss": output.loss}
            values |= {f"loss.{name}": term for name, term in output.terms.items()}
            values |= {f"train.{name}": value for name, value in output.stats.items()}
            shown = list(values)
            values |= output.watched
            names = list(values)
            seen = torch.stack([value.detach() for value in values.values()]).double() * weight
            total = seen if total is None else total + seen
        assert total is not None, "a batch has at least one part"
        found = dict(zip(names, total.unbind(), strict=True))
        watched = {name: found[name] for name in names if name not in shown}
        scale = None if scaler is None else scaler.scale
        norm = clip_gradients(self._config.optimizer, backbone, head, scale)
        watched["gradient_norm"] = norm
        if scaler is None:
            self._optimizer.step()
        else:
            watched["loss_scale"] = scaler.scale.double()
            overflowed = ~norm.isfinite()
            self._step_unless(overflowed)
            scaler.settle(overflowed)
        backbone.after_step()
        return Measured({name: found[name] for name in shown}, watched)

    def _images(self, part: Sent) -> Tensor:
        """What the network sees: normalised, at its size (pixels), augmented."""
        x = shrink(normalise(part.images), self._backbone.input_size)
        return x if part.draws is None else self._config.data.augment(x, part.draws)

    def _step_unless(self, overflowed: Tensor) -> None:
        """Let the optimizer step, unless a gradient was not finite (0-d, bool)."""
        optimizer = self._optimizer
        groups = [(group, p) for group in optimizer.param_groups for p in group["params"]]
        sparse = any(p.grad is not None and p.grad.is_sparse for _, p in groups)
        if sparse or not getattr(optimizer, "_step_supports_amp_scaling", False):
            if not bool(overflowed):  # waits for the device
                optimizer.step()
            return
        # PyTorch's fused kernels ask the flag on the device. They would leave the momentum of a
        # first step that is passed over without a value.
        for group, parameter in groups:
            if group.get("momentum") and parameter.grad is not None:
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        optimizer.found_inf = overflowed.float()  # type: ignore[attr-defined]
        optimizer.step()


class Sums:
    """Sums over the images of an epoch, on the device.

    Args:
        start: Name -> the sum so far.
        device: Where they are kept.
    """

    def __init__(self, start: Mapping[str, float], device: torch.device) -> None:
        self._names = list(start)
        self._sums = torch.tensor(list(start.values()), dtype=torch.float64, device=device)

    def add(self, means: Mapping[str, Tensor], images: int) -> None:
        """Add a step.

        Args:
            means: Name -> mean over its images, 0-d, double.
            images: How many these were.
        """
        if new := [name for name in means if name not in self._names]:
            self._names += new
            self._sums = F.pad(self._sums, (0, len(new)))
        none = self._sums.new_zeros(())
        row = torch.stack([means.get(name, none) for name in self._names])
        self._sums.add_(row, alpha=images)

    def read(self) -> dict[str, float]:
        """Give them by name; waits for the device."""
        return dict(zip(self._names, self._sums.tolist(), strict=True))


def compiles(wanted: str, device: torch.device) -> bool:
    """Whether `torch.compile` works on the backbone.

    Args:
        wanted: `on`, `off`, or `auto`: on an NVIDIA accelerator from Volta on, where normalisation,
            slopes and sums are bound by memory and kernels are launched one by one; never on a CPU,
            where nearly all time goes to convolutions that are the same either way.
        device: Where the backbone trains.

    Raises:
        ConfigError: `on` for a CPU without a C++ compiler.
    """
    if wanted == "on" and device.type == "cpu":
        compilers = (os.environ.get("CXX") or "g++", "clang++")
        if not any(shutil.which(name) for name in compilers):
            raise ConfigError(
                f"compile = on: needs a C++ compiler, and there is no {' or '.join(compilers)}; "
                "install one, or give compile=off"
            )
    if wanted != "auto":
        return wanted == "on"
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (7, 0)


def _parts(batch: Sent, count: int) -> list[tuple[Sent, float]]:
    """Cut a batch into `count` parts, each with its share of the images."""
    rows = len(batch.labels)
    edges = [rows * i // count for i in range(count + 1)]
    parts = []
    for low, high in pairwise(edges):
        if high > low:
            draws = None if batch.draws is None else batch.draws[low:high]
            part = Sent(batch.images[low:high], batch.labels[low:high], draws)
            parts.append((part, (high - low) / rows))
    return parts
