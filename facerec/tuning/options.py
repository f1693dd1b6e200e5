"""The words that a sweep script takes: `key=value` changes of the base config, and options."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from facerec.config import ConfigError, parse
from facerec.domains import Scalar

SAMPLERS = ("tpe", "random")
_LEAST_SHARE = 0.01  # of an accelerator


@dataclass(frozen=True)
class Options:
    """How a sweep is run, as far as the command line says so.

    Attributes:
        overrides: Changes of the base config, key by key.
        trials: Settings to try; None keeps the sweep's own number, or the resumed one's.
        resume: Whether to go on with the newest unfinished run of this sweep.
        confirm: Settings that are confirmed; None keeps the sweep's own number, or the resumed
            one's.
        seeds: Trainings of each; None as above.
        warm_start: Folders of earlier sweeps, whose trials the sampler is told.
        workers: Training processes per trial; None keeps the sweep's own number.
        gpus_per_worker: Accelerators of each process: a whole number, or a share of one.
        pack: Whether the share is chosen by predicted memory instead (`facerec.tuning.packing`).
        storage: Folder that the sweep's folder is made in.
        address: Ray cluster to join; empty starts one on this machine.
        sampler: `tpe` or `random`; None is tpe, or what a resumed sweep began with.
        smoke: Two trials of one epoch on small synthetic shards, on the CPU; one setting and the
            paper's are confirmed with one seed.
        losses: Which losses are compared; empty is all. Only comparisons take it.
    """

    overrides: dict[str, Scalar] = field(default_factory=dict)
    trials: int | None = None
    resume: bool = False
    confirm: int | None = None
    seeds: int | None = None
    warm_start: tuple[Path, ...] = ()
    workers: int | None = None
    gpus_per_worker: float = 1.0
    pack: bool = False
    storage: Path = Path("results")
    address: str = ""
    sampler: str | None = None
    smoke: bool = False
    losses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("confirm", 0), ("seeds", 1), ("workers", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name} {value}: takes {least} or more")
        share = self.gpus_per_worker
        if not _LEAST_SHARE <= share < math.inf or (share > 1 and share != int(share)):
            raise ConfigError(
                f"--gpus-per-worker {share:g}: takes a whole number, or a share of one from "
                f"{_LEAST_SHARE} to 1"
            )
        if self.sampler is not None and self.sampler not in SAMPLERS:
            near = difflib.get_close_matches(self.sampler, SAMPLERS, n=1, cutoff=0.4)
            hint = f". Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--sampler {self.sampler}: takes tpe or random{hint}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def read(name: str, words: Sequence[str] | None = None, *, losses: bool = False) -> Options:
    """Read the command line; options and `key=value` stand in any order.

    Args:
        name: Name of the script.
        words: What follows it; None reads the process's own.
        losses: Whether it takes `--losses`.

    Raises:
        ConfigError: For an unknown option (with the nearest one), a wrong type, a value out of
            range.
        SystemExit: After `--help`.
    """
    parser = _Parser(prog=f"python sweeps/{name}.py", allow_abbrev=False, add_help=True)
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="changes of the base config: epochs=8"
    )
    parser.add_argument("--trials", metavar="N", help="settings to try")
    if not losses:
        parser.add_argument("--confirm", metavar="K", help="best settings to train again")
        parser.add_argument("--seeds", metavar="N", help="trainings of each, for the verdict")
        parser.add_argument(
            "--warm-start",
            action="append",
            type=Path,
            default=[],
            metavar="DIR",
            help="an earlier sweep that the search begins with; may be given several times",
        )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted sweep")
    parser.add_argument("--workers", metavar="N", help="training processes per trial")
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument("--gpus-per-worker", metavar="G", help="accelerators of each process")
    shares.add_argument(
        "--trials-per-gpu", metavar="N|auto", help="trials that share an accelerator"
    )
    parser.add_argument("--storage", type=Path, default=Path("results"), metavar="DIR")
    parser.add_argument("--address", default="", metavar="A", help="Ray cluster to join")
    parser.add_argument("--sampler", metavar="|".join(SAMPLERS), help="how settings are chosen")
    parser.add_argument("--smoke", action="store_true", help="two trials of one epoch, a try-out")
    if losses:
        parser.add_argument("--losses", metavar="A,B", help="compare these alone (default: all)")
    found, unknown = parser.parse_known_intermixed_args(words)
    options = [option for action in parser._actions for option in action.option_strings]
    for word in unknown:
        near = difflib.get_close_matches(word.split("=")[0], options, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(options)}."
        raise ConfigError(f"{word}: no such option. {hint}")
    return Options(
        overrides=parse(found.changes),
        trials=_whole("--trials", found.trials),
        resume=found.resume,
        confirm=None if losses else _whole("--confirm", found.confirm, 0),
        seeds=None if losses else _whole("--seeds", found.seeds),
        warm_start=() if losses else tuple(found.warm_start),
        workers=_whole("--workers", found.workers),
        gpus_per_worker=_share(found.gpus_per_worker, found.trials_per_gpu),
        pack=found.trials_per_gpu == "auto",
        storage=found.storage,
        address=found.address,
        sampler=found.sampler,
        smoke=found.smoke,
        losses=tuple(found.losses.split(",")) if losses and found.losses else (),
    )


def _share(each: str | None, trials: str | None) -> float:
    """Accelerators of a process, from either option that says so."""
    if trials is not None and trials != "auto" and not trials.lstrip("-").isdecimal():
        raise ConfigError(f"--trials-per-gpu {trials}: takes a whole number, 1 or more, or auto")
    number = None if trials == "auto" else _whole("--trials-per-gpu", trials)
    if number is not None:
        if number < 1:
            raise ConfigError(f"--trials-per-gpu {number}: takes 1 or more")
        return 1 / number
    if each is None:
        return 1.0
    try:
        return float(each)
    except ValueError:
        raise ConfigError(f"--gpus-per-worker {each}: takes a number, such as 1 or 0.5") from None


def _whole(option: str, text: str | None, least: int = 1) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{option} {text}: takes a whole number, {least} or more") from None
