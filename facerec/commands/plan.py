"""`facerec plan`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from facerec.config import ConfigError, TrainConfig, override, parse
from facerec.data.shards import Shards
from facerec.planning import devices, forecast, memory
from facerec.planning.devices import ACCELERATORS, HERE, Rates
from facerec.planning.forecast import Data, Forecast
from facerec.presets import PRESETS
from facerec.tree import in_section
from facerec.values import one_of

CONFIRM, SEEDS = 3, 3  # of a sweep, unless told otherwise


@dataclass(frozen=True)
class _Machine:
    """What a training is planned for.

    Attributes:
        about: Its devices in words.
        rates: Of one device.
        room: Bytes of one device's memory.
        dtype: In which the backbone computes.
        accelerator: Whether it has accelerators.
    """

    about: str
    rates: Rates
    room: float
    dtype: torch.dtype
    accelerator: bool


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Predict memory, images/s and hours of a training or a sweep; trains nothing."""
    _arguments(parser)
    given = parser.parse_intermixed_args(words)
    for option, least in (("workers", 1), ("trials", 1), ("confirm", 0), ("seeds", 1)):
        value = getattr(given, option)
        if value is not None and value < least:
            raise ConfigError(f"--{option} {value}: takes {least} or more")
    if given.share is not None and not 0 < given.share <= 1:
        raise ConfigError(f"--share {given.share:g}: takes more than 0, up to 1")
    devices.check(given.gpu)
    changes = parse(given.changes)
    preset = str(changes.pop("preset", ""))
    if preset:
        in_section("", lambda: one_of("preset", preset, tuple(PRESETS)))
    config = override(PRESETS[preset]() if preset else TrainConfig(), changes)
    data = _data(config, given.classes, given.images)
    if config.data.batch_size % given.workers:
        near = -(-config.data.batch_size // given.workers) * given.workers
        raise ConfigError(
            f"data.batch_size = {config.data.batch_size}: {given.workers} workers need a multiple "
            f"of {given.workers}, such as {near}"
        )
    machine = _machine(given.gpu, config, given.workers)
    found = forecast.forecast(
        config,
        data,
        workers=given.workers,
        dtype=machine.dtype,
        rates=machine.rates,
        room=machine.room,
        share=given.share or (forecast.SHARE if machine.accelerator else forecast.SHARE_CPU),
        accelerator=machine.accelerator,
    )
    print(_shown(config, data, machine, found, given, preset))
    return 0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="preset=NAME, data.batch_size=512, ..."
    )
    parser.add_argument(
        "--gpu",
        default=HERE,
        metavar="|".join((*ACCELERATORS, HERE)),
        help="what it is to run on; here: measure this machine (default)",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--classes", type=int, metavar="N", help="identities of the data")
    parser.add_argument("--images", type=int, metavar="N", help="images of the data")
    parser.add_argument(
        "--share",
        type=float,
        metavar="S",
        help="of what is possible that will be achieved; each epoch of a training prints its own "
        f"(default: {forecast.SHARE}, on CPUs {forecast.SHARE_CPU})",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="a sweep of so many settings")
    parser.add_argument(
        "--confirm", type=int, default=CONFIRM, metavar="K", help="of a sweep (default: 3)"
    )
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, metavar="N", help="of a sweep (default: 3)"
    )
    parser.add_argument(
        "--no-early-stop", action="store_true", help="a sweep whose trials all run to their end"
    )


def _data(config: TrainConfig, classes: int | None, images: int | None) -> Data:
    """What is learnt from: numbers that were given, or the shards'."""
    if config.data.train:
        shards = Shards(config.data.train)
        split = shards.split("train")
        data = Data(classes or split.classes, images or split.rows, max(shards.image_size))
    elif classes is None or images is None:
        raise ConfigError(
            "data: give --classes N --images N, or data.train=FOLDER of prepared shards"
        )
    else:
        data = Data(classes, images)
    for name, value, least in (("classes", data.classes, 2), ("images", data.images, 1)):
        if value < least:
            raise ConfigError(f"--{name} {value}: takes {least} or more")
    return data


def _machine(name: str, config: TrainConfig, workers: int) -> _Machine:
    if name == HERE:
        return _here(config, workers)
    found = ACCELERATORS[name]
    real = name != "cpu"
    dtype = forecast.compute_type(config.precision, accelerator=real, bf16=found.bf16 > 0)
    if not found.rate(dtype):
        raise ConfigError(
            f"precision = {config.precision!r}: {name} has no units for it; give precision=fp32"
            + (" or fp16" if found.half else "")
        )
    return _Machine(f"{name} ({found.source})", found.rates(dtype), found.memory, dtype, real)


def _here(config: TrainConfig, workers: int) -> _Machine:
    """This machine, measured: its first accelerator, or its cores."""
    if torch.cuda.is_available():
        device, threads = torch.device("cuda", 0), 1
        bf16 = torch.cuda.is_bf16_supported()
        room, about = float(torch.cuda.mem_get_info(0)[1]), torch.cuda.get_device_name(0)
    else:
        device, bf16 = torch.device("cpu"), False
        cores = os.cpu_count() or 1
        threads = max(cores // workers, 1)
        room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / workers
        about = f"{threads} of this machine's {cores} cores"
    real = device.type == "cuda"
    dtype = forecast.compute_type(config.precision, accelerator=real, bf16=bf16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        rates = devices.measure(device, dtype)
    finally:
        torch.set_num_threads(before)
    if workers > 1:  # nobody to send to is here: as of a card of this kind of machine
        sheet = ACCELERATORS["l40s" if real else "cpu"]
        rates = Rates(rates.matrix, rates.single, rates.bandwidth, sheet.rates(dtype).link)
    return _Machine(f"{about}, measured", rates, room, dtype, real)


def _shown(
    config: TrainConfig,
    data: Data,
    machine: _Machine,
    found: Forecast,
    given: argparse.Namespace,
    preset: str,
) -> str:
    """The plan as text."""
    name = f"{preset}: " if preset else ""
    dtype = str(machine.dtype).removeprefix("torch.")
    rates, needed, total = machine.rates, found.memory, found.memory.total
    fits = "fits" if total <= memory.RESERVE * machine.room else "DOES NOT FIT"
    parts = ", ".join(f"{part} {value / 1e9:.2f}" for part, value in vars(needed).items())
    possible = found.bound.images_per_second
    lines = [
        f"training   {name}{config.backbone.name}, {config.loss.name}, {dtype}; "
        f"{data.classes:,} classes, {data.images:,} images, {config.epochs:g} epochs, "
        f"batch {config.data.batch_size}",
        f"machine    {given.workers} x {machine.about}",
        f"           counted on: {rates.matrix / 1e12:.3g} Tflop/s, in fp32 "
        f"{rates.single / 1e12:.3g}, {rates.bandwidth / 1e9:.4g} GB/s",
        f"memory     {total / 1e9:.1f} GB per worker of {machine.room / 1e9:.0f}: {fits} "
        f"({memory.RESERVE:.0%} is planned for)",
        f"           in GB: {parts}",
        f"speed      {found.images_per_second:,.0f} images/s expected, {possible:,.0f} possible "
        f"({found.images_per_second / possible:.0%}); bound by {found.bound_by}",
        f"           of a step's least {1000 * found.bound.seconds:.3g} ms: "
        f"compute {1000 * found.bound.compute:.3g}, memory {1000 * found.bound.memory:.3g}, "
        f"communication {1000 * found.bound.communication:.3g}",
        f"time       {_time(found.hours)} for {forecast.images_of(config, data):,.0f} images; "
        f"{_time(found.hours * given.workers)} of one device; evaluation comes on top",
    ]
    if given.trials:
        lines += _sweep(config, found, given)
    lines += [f"change     {line}" for line in found.advice]
    return "\n".join(lines)


def _sweep(config: TrainConfig, found: Forecast, given: argparse.Namespace) -> list[str]:
    """The lines about a sweep."""
    epochs = forecast.sweep_epochs(given.trials, config.epochs, early_stop=not given.no_early_stop)
    again = (given.confirm + 1) * given.seeds if given.confirm else 0
    search, confirm = (found.hours * n / config.epochs for n in (epochs, again * config.epochs))
    return [
        f"sweep      {_time(search + confirm)}, one training after the other: search "
        f"{_time(search)} ({given.trials} trials, {epochs:,.0f} epochs of "
        f"{given.trials * config.epochs:,.0f}), confirmation {_time(confirm)} "
        f"({again} trainings)",
        f"           {_time((search + confirm) * given.workers)} of one device; divide by the "
        "number of trials at a time",
    ]


def _time(hours: float) -> str:
    """A duration as one says it."""
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{60 * hours:.0f} minutes" if hours >= 1 / 60 else f"{3600 * hours:.0f} seconds"
