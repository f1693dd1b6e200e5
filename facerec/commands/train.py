"""`facerec train`."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from facerec import checkpoint
from facerec.config import ConfigError, TrainConfig, flatten, load, override, parse
from facerec.presets import PRESETS
from facerec.train import train
from facerec.tree import in_section
from facerec.values import one_of


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Train one model on shards; the same command with the same `--run` resumes it."""
    parser.add_argument(
        "--run", type=Path, help="run folder (default: runs/<loss>-<n>); resumes there"
    )
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="preset=NAME, loss.margin=0.4, ..."
    )
    given = parser.parse_intermixed_args(words)
    folder: Path | None = given.run
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # started by torchrun
        if folder is None:
            raise ConfigError("--run: several workers need to be told the same run folder")
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    changes = parse(given.changes)
    preset = str(changes.pop("preset", ""))
    if preset:
        in_section("", lambda: one_of("preset", preset, tuple(PRESETS)))
    config = override(PRESETS[preset]() if preset else TrainConfig(), changes)
    if folder is None:
        folder = next(
            place
            for n in itertools.count(1)
            if not (place := Path("runs") / f"{config.loss.name}-{n}").exists()
        )
        print(f"run: {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints").mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run {folder}: cannot be written ({error.strerror})") from None
    resume_from = checkpoint.latest(folder)
    if resume_from is not None:
        _same_config(folder, config)
        print(f"resumes from step {int(resume_from.name)}")
    train(config, run=folder, resume_from=resume_from)
    return 0


def _same_config(folder: Path, config: TrainConfig) -> None:
    """Refuse to go on with a run under another config."""
    before, now = flatten(load(folder / "config.json")), flatten(config)
    for key in [*now, *(before.keys() - now.keys())]:
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{key} = {now.get(key)!r}: the run in {folder} has {before.get(key)!r}; give the "
                "same keys to resume it, or another --run"
            )
