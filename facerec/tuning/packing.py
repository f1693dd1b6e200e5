"""Trials that share an accelerator: as many as its free memory holds, by prediction.

`--trials-per-gpu auto`: the memory of the largest setting of the space is predicted, and no more
trials are put onto an accelerator than fit into nine tenths of what is free on it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray
import torch

from facerec.config import ConfigError, TrainConfig
from facerec.data.shards import Shards
from facerec.domains import Scalar
from facerec.planning import forecast, memory
from facerec.planning.forecast import Data
from facerec.tuning.sweep import Sweep, extremes

_PATIENCE = 120.0  # seconds until an accelerator must have told what is free
# What a trial's memory follows, each upwards or downwards throughout.
_HEAVY = ("backbone.", "head.", "loss.name", "loss.objective", "loss.regularizer", "precision")
_HEAVY_KEYS = ("data.batch_size", "data.cache", "optimizer.accumulate", "optimizer.name")


@dataclass(frozen=True)
class Free:
    """What an accelerator has to give.

    Attributes:
        bytes: Free memory.
        bf16: Whether it computes in bfloat16.
    """

    bytes: float
    bf16: bool = True


@dataclass(frozen=True)
class Packing:
    """How many trials share an accelerator, and why.

    Attributes:
        trials: So many.
        needed: Predicted bytes of the largest one.
        free: Bytes that were free.
        setting: What makes it the largest.
    """

    trials: int
    needed: float
    free: float
    setting: dict[str, Scalar]

    def __str__(self) -> str:
        """The choice in one line."""
        shown = " ".join(f"{key}={value}" for key, value in self.setting.items())
        return (
            f"{self.trials} trial{'s' if self.trials > 1 else ''} per GPU: the largest"
            f"{f' ({shown})' if shown else ''} is predicted to take {self.needed / 1e9:.1f} GB, "
            f"{memory.RESERVE:.0%} of the {self.free / 1e9:.1f} GB that are free may be planned for"
        )


def pack(sweep: Sweep, data: Data, free: Free) -> Packing:
    """Choose how many trials share an accelerator.

    Args:
        sweep: What is searched.
        data: What its trials learn from.
        free: What the fullest accelerator has to give.

    Raises:
        ConfigError: Not even one trial fits.
    """
    needed, setting = max(
        (
            (_needed(sweep.config(point), data, free, sweep.workers), point)
            for point in _points(sweep)
        ),
        key=lambda found: found[0],
    )
    room = memory.RESERVE * free.bytes
    if needed > room:
        raise ConfigError(
            f"--trials-per-gpu auto: the largest trial "
            f"({' '.join(f'{key}={value}' for key, value in setting.items()) or 'any'}) is "
            f"predicted to take {needed / 1e9:.1f} GB, and {room / 1e9:.1f} GB may be planned for; "
            "give optimizer.accumulate=2 or a smaller data.batch_size, or --trials-per-gpu 1 to "
            "try it alone"
        )
    # The workers of one trial cannot share an accelerator.
    trials = 1 if sweep.workers > 1 else math.floor(room / needed)
    return Packing(trials, needed, free.bytes, setting)


def _needed(config: TrainConfig, data: Data, free: Free, workers: int) -> float:
    dtype = forecast.compute_type(config.precision, accelerator=True, bf16=free.bf16)
    step = forecast.step_of(config, data.classes, workers, dtype)
    kept = forecast.set_bytes(config, data, accelerator=True)
    return memory.predict(step, set_bytes=kept).total


def _points(sweep: Sweep) -> Iterator[dict[str, Scalar]]:
    """Settings among which the largest is: corners of the space in what memory follows."""
    heavy = [key for key in sweep.space if key.startswith(_HEAVY) or key in _HEAVY_KEYS]
    corners = [list(extremes(sweep.space[key])) for key in heavy]
    for values in itertools.product(*corners):
        yield dict(zip(heavy, values, strict=True))


def share_of(sweep: Sweep, gpus: Sequence[float]) -> tuple[float, str]:
    """Choose each trial's share of an accelerator on the running Ray.

    Args:
        sweep: What is searched, with data.
        gpus: Accelerators of each node.

    Returns:
        The share, and the choice in words.

    Raises:
        ConfigError: Not even one trial fits, or the accelerators cannot be asked.
        DataError: The shards cannot be read.
    """
    if sum(gpus) < 1:
        return 1.0, "no GPU here, nothing to share: trials have cores of their own"
    packing = pack(sweep, data_of(sweep), least_free())
    return 1 / packing.trials, str(packing)


def data_of(sweep: Sweep) -> Data:
    """Give the size of what a sweep's trials learn from.

    Raises:
        DataError: The shards cannot be read.
    """
    shards = Shards(sweep.base.data.train)
    split = shards.split("train")
    return Data(split.classes, split.rows, max(shards.image_size))


def least_free() -> Free:
    """Ask every node of the running Ray what is free on its accelerators; gives the fullest's.

    Raises:
        ConfigError: An accelerator that does not answer, since others hold it.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    ask = ray.remote(max_calls=1)(_free_here)  # a process of its own: its end gives all back
    asked = [
        ask.options(
            num_cpus=0,
            num_gpus=int(node["Resources"]["GPU"]),
            scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                node["NodeID"], soft=False
            ),
        ).remote()
        for node in nodes
    ]
    try:
        found: Sequence[Free] = ray.get(asked, timeout=_PATIENCE)
    except ray.exceptions.GetTimeoutError:
        raise ConfigError(
            f"--trials-per-gpu auto: after {_PATIENCE:.0f} s not all accelerators of this Ray are "
            "free to be asked for their memory; others use them: give a number"
        ) from None
    return Free(min(free.bytes for free in found), all(free.bf16 for free in found))


def _free_here() -> Free:
    free = min(torch.cuda.mem_get_info(n)[0] for n in range(torch.cuda.device_count()))
    return Free(float(free), torch.cuda.is_bf16_supported())
