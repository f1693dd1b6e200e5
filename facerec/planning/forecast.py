"""What a training will take: memory per worker, images/s, hours; and of a sweep of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from facerec.config import TrainConfig
from facerec.planning import memory
from facerec.planning.cost import cost_of
from facerec.planning.devices import Rates
from facerec.planning.memory import Memory
from facerec.planning.roofline import Bound, Step, bound

# Of what is possible, the share that trainings came to: arcface_torch's published ones on 8 V100,
# and this project's own on two cores (docs/planning.md).
SHARE, SHARE_CPU = 0.25, 0.4
DECODED = 6000.0  # JPEGs of 112 x 112 that a thread decodes in a second, cautiously

_SIDE = 112
_SMALLER = (0.5, 0.3, 0.2, 0.1)  # sample rates worth proposing
_MOST_PARTS, _MOST_WORKERS = 16, 64  # likewise
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Data:
    """What is learnt from.

    Attributes:
        classes: Identities.
        images: Of one epoch.
        side: Of an image in pixels.
    """

    classes: int
    images: int
    side: int = _SIDE


@dataclass(frozen=True)
class Forecast:
    """What is predicted.

    Attributes:
        memory: Of one worker.
        bound: The least seconds of a step.
        images_per_second: Expected, of all workers.
        bound_by: What binds: `compute`, `memory`, `communication` or `decode`.
        hours: Of the training, without measuring and saving.
        advice: What to change where memory does not suffice or images come too slowly.
    """

    memory: Memory
    bound: Bound
    images_per_second: float
    bound_by: str
    hours: float
    advice: tuple[str, ...]


def compute_type(precision: str, *, accelerator: bool, bf16: bool) -> torch.dtype:
    """Give the type that a backbone computes in.

    Args:
        precision: As the config has it.
        accelerator: Whether there is one.
        bf16: Whether it has bfloat16.
    """
    if precision == "auto":
        return torch.bfloat16 if accelerator and bf16 else torch.float32
    return _DTYPES[precision]


def step_of(config: TrainConfig, classes: int, workers: int, dtype: torch.dtype) -> Step:
    """Give a training's step, from its config alone.

    Raises:
        ConfigError: For a value of the loss that does not fit so many classes.
    """
    net = cost_of(config.backbone.name, config.backbone.args, config.head.embedding_size)
    return Step.of(config, net, classes=classes, workers=workers, number_bytes=dtype.itemsize)


def set_bytes(config: TrainConfig, data: Data, *, accelerator: bool) -> float:
    """Bytes of the decoded set on each worker's accelerator."""
    on_device = accelerator and config.data.cache == "device"
    return 3.0 * data.side**2 * data.images if on_device else 0.0


def forecast(
    config: TrainConfig,
    data: Data,
    *,
    workers: int,
    dtype: torch.dtype,
    rates: Rates,
    room: float = math.inf,
    share: float = SHARE,
    accelerator: bool = True,
) -> Forecast:
    """Predict a training.

    Args:
        config: The training.
        data: What it learns from.
        workers: Processes, with a device each.
        dtype: In which the backbone computes.
        rates: Of a device.
        room: Bytes of memory of a device; infinite where unknown.
        share: Of what is possible that will be achieved, above 0 to 1.
        accelerator: Whether the devices are accelerators.

    Raises:
        ConfigError: For a value of the loss that does not fit so many classes.
    """
    step = step_of(config, data.classes, workers, dtype)
    kept = set_bytes(config, data, accelerator=accelerator)
    needed, least = memory.predict(step, set_bytes=kept), bound(step, rates)
    speed, by = share * least.images_per_second, least.by
    decoded = math.inf
    if config.data.cache == "none":
        decoded = DECODED * (_SIDE / data.side) ** 2 * config.data.decoders * workers
    advice: list[str] = []
    if decoded < speed:
        enough = math.ceil(config.data.decoders * speed / decoded)
        advice.append(
            f"images: {config.data.decoders} thread(s) per worker decode {decoded:,.0f} in a "
            f"second; data.decoders={enough} with as many cores for each worker, or "
            "data.cache=memory, keeps up"
        )
        speed, by = decoded, "decode"
    limit = memory.RESERVE * room
    if needed.total > limit:
        changes = _to_fit(step, kept, limit) or _together(step, kept, limit)
        advice += changes or ["memory: no change of these suffices; take a smaller data.batch_size"]
    hours = images_of(config, data) / speed / 3600
    return Forecast(needed, least, speed, by, hours, tuple(advice))


def images_of(config: TrainConfig, data: Data) -> float:
    """Images that a training passes."""
    return config.epochs * data.images


def _to_fit(step: Step, kept: float, limit: float) -> list[str]:
    """Single changes after which a worker's memory suffices, the least of each key."""
    found: dict[str, str] = {}
    for words, changed, rest in _changes(step, kept):
        total = memory.predict(changed, set_bytes=rest).total
        if total <= limit:
            found.setdefault(words.partition("=")[0], f"memory: {_comes_to(words, total)}")
    return list(found.values())


def _together(step: Step, kept: float, limit: float) -> list[str]:
    """Changes that suffice together, one key after the other, each as far as it has to go."""
    chosen: dict[str, str] = {}
    keys = dict.fromkeys(words.partition("=")[0] for words, _, _ in _changes(step, kept))
    for key in keys:
        for words, changed, rest in list(_changes(step, kept)):
            if words.partition("=")[0] == key:
                step_now, kept_now, chosen[key] = changed, rest, words
                total = memory.predict(step_now, set_bytes=kept_now).total
                if total <= limit:
                    return [f"memory: {_comes_to(' '.join(chosen.values()), total)}"]
        step, kept = step_now, kept_now
    return []


def _comes_to(words: str, total: float) -> str:
    return f"{words} takes {total / 1e9:.1f} GB per worker"


def _changes(step: Step, kept: float) -> Iterator[tuple[str, Step, float]]:
    """Changes of one key each, from small to great."""
    if kept:
        yield "data.cache=memory", step, 0.0
    parts = step.parts
    while parts < _MOST_PARTS and 2 * parts <= step.images // step.workers:
        parts *= 2
        yield f"optimizer.accumulate={parts}", replace(step, parts=parts), kept
    for rate in _SMALLER:
        if rate < step.sample_rate:
            yield f"head.sample_rate={rate:g}", replace(step, sample_rate=rate), kept
    workers = step.workers
    while workers < _MOST_WORKERS and not step.images % (2 * workers):
        workers *= 2
        yield f"--workers={workers}", replace(step, workers=workers), kept


def rungs(epochs: float) -> list[int]:
    """Give the epochs after which the lower half of a sweep's trials ends.

    A quarter of the epochs, twice that, and no more than half of them.

    Args:
        epochs: Of a full training.
    """
    first = max(1, math.ceil(epochs / 4))
    found, last = [], max(first, math.floor(epochs / 2))
    while first <= min(last, 0.75 * epochs):
        found.append(first)
        first *= 2
    return found


def sweep_epochs(trials: int, epochs: float, *, early_stop: bool = True) -> float:
    """Epochs that the search of a sweep is expected to take in all.

    With successive halving, n r (1 + log₂(R / r) / 2) for n trials of R epochs with a first rung at
    r, and rungs up to R.

    Args:
        trials: So many settings are tried.
        epochs: Of a full training.
        early_stop: Whether lagging trials end early.
    """
    left, before, passed = float(trials), 0.0, 0.0
    for rung in rungs(epochs) if early_stop else ():
        passed += left * (rung - before)
        left, before = left / 2, rung
    return passed + left * (epochs - before)
