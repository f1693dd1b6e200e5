"""`facerec train`."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from facerec import checkpoint, launch
from facerec.config import ConfigError, TrainConfig, flatten, load, override, parse
from facerec.presets import PRESETS
from facerec.train import train
from facerec.tree import in_section
from facerec.values import one_of


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Train one model on shards; the same command, or `--run` alone, resumes it."""
    parser.add_argument(
        "--run",
        type=Path,
        help="run folder (default: runs/<loss>-<n>); resumes there, alone too; run=DIR under "
        "torchrun, which takes --run for an option of its own",
    )
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="preset=NAME, loss.margin=0.4, ..."
    )
    given = parser.parse_intermixed_args(words)
    named = [word.removeprefix("run=") for word in given.changes if word.startswith("run=")]
    folder: Path | None = Path(named[-1]) if named else given.run
    config = _config([word for word in given.changes if not word.startswith("run=")], folder)
    if folder is None:
        folder = Path(launch.told_by_first("run", lambda: _new_folder(config.loss.name)))
        if launch.is_first():
            print(f"run: {folder}", flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints").mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run {folder}: cannot be written ({error.strerror})") from None
    begun = checkpoint.latest(folder) is not None
    if begun:
        _same_config(folder, config)
    train(config, run=folder, resume_from=folder if begun else None)
    return 0


def _new_folder(loss: str) -> str:
    numbered = (Path("runs") / f"{loss}-{n}" for n in itertools.count(1))
    return str(next(place for place in numbered if not place.exists()))


def _config(words: Sequence[str], folder: Path | None) -> TrainConfig:
    """The config that the words give; without any, the one that the run folder has."""
    if not words and folder is not None and (folder / "config.json").exists():
        return load(folder / "config.json")
    changes = parse(words)
    preset = str(changes.pop("preset", ""))
    if preset:
        in_section("", lambda: one_of("preset", preset, tuple(PRESETS)))
    return override(PRESETS[preset]() if preset else TrainConfig(), changes)


def _same_config(folder: Path, config: TrainConfig) -> None:
    """Refuse to go on with a run under another config."""
    before, now = flatten(load(folder / "config.json")), flatten(config)
    for key in [*now, *(before.keys() - now.keys())]:
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{key} = {now.get(key)!r}: the run in {folder} has {before.get(key)!r}; give the "
                "same keys to resume it, or another --run"
            )
