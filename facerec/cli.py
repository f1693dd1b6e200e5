"""The command line: `facerec train`, `evaluate` and `losses`. Sweeps have a door of their own."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Column, Table

from facerec import checkpoint
from facerec.config import ConfigError, TrainConfig, flatten, load, override, parse
from facerec.data.shards import DataError, Shards
from facerec.evaluation.protocols import EvaluationSet
from facerec.evaluation.table import write as write_table
from facerec.losses import LOSSES
from facerec.losses import table as loss_table
from facerec.presets import PRESETS
from facerec.train import Diverged, train
from facerec.tree import in_section
from facerec.values import one_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 is good, 2 is for what the user can mend, 130 an interruption."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        about = "\n".join(f"  {name:10}{what}" for name, (what, _) in COMMANDS.items())
        print(f"usage: facerec COMMAND ...; facerec COMMAND --help says more\n\n{about}")
        return 0 if words else 2
    name, *rest = words
    try:
        in_section("", lambda: one_of("command", name, tuple(COMMANDS)))
        what, command = COMMANDS[name]
        return command(argparse.ArgumentParser(prog=f"facerec {name}", description=what), rest)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"error: the training diverged: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command with the same --run resumes", file=sys.stderr)
        return 130


def _train(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    parser.add_argument(
        "--run", type=Path, help="run folder (default: runs/<loss>-<n>); resumes there"
    )
    parser.add_argument(
        "changes", nargs="*", metavar="key=value", help="preset=NAME, loss.margin=0.4, ..."
    )
    given = parser.parse_intermixed_args(words)
    run: Path | None = given.run
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # started by torchrun
        if run is None:
            raise ConfigError("--run: several workers need to be told the same run folder")
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    changes = parse(given.changes)
    preset = str(changes.pop("preset", ""))
    if preset:
        in_section("", lambda: one_of("preset", preset, tuple(PRESETS)))
    config = override(PRESETS[preset]() if preset else TrainConfig(), changes)
    if run is None:
        run = next(
            folder
            for n in itertools.count(1)
            if not (folder := Path("runs") / f"{config.loss.name}-{n}").exists()
        )
        print(f"run: {run}")
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / "checkpoints").mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run {run}: cannot be written ({error.strerror})") from None
    resume_from = checkpoint.latest(run)
    if resume_from is not None:
        _same_config(run, config)
        print(f"resumes from step {int(resume_from.name)}")
    train(config, run=run, resume_from=resume_from)
    return 0


def _same_config(run: Path, config: TrainConfig) -> None:
    """Refuse to go on with a run under another config."""
    before, now = flatten(load(run / "config.json")), flatten(config)
    for key in [*now, *(before.keys() - now.keys())]:
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{key} = {now.get(key)!r}: the run in {run} has {before.get(key)!r}; give the "
                "same keys to resume it, or another --run"
            )


def _evaluate(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    parser.add_argument("run", type=Path, help="run folder, trial's folder, or <sweep>/best")
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="prepared shards")
    parser.add_argument("--out", type=Path, help="folder for evaluation.parquet and evaluation.csv")
    parser.add_argument("--folds", action="store_true", help="print each fold's numbers too")
    given = parser.parse_intermixed_args(words)
    out: Path | None = given.out
    config, backbone = checkpoint.load_backbone(given.run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone.to(device)
    sets = [item for folder in given.sets for item in _sets_of(folder, config)]
    for item in sets:
        item.check(backbone)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written ({error.strerror})") from None
    evaluations = [item.measure(backbone, device) for item in sets]
    table = Table("set", "metric", "value", "threshold", "fold", "protocol")
    for evaluation in evaluations:
        for one in evaluation.measures:
            if given.folds or one.fold is None:
                table.add_row(
                    evaluation.name,
                    one.metric,
                    f"{one.value:.4f}",
                    "" if one.threshold is None else f"{one.threshold:.4f}",
                    "" if one.fold is None else str(one.fold),
                    evaluation.protocol,
                )
    console = Console()
    console.print(table)
    for evaluation in evaluations:
        for note in evaluation.notes:
            console.print(note, highlight=False, soft_wrap=True)
    if out is not None:
        write_table(evaluations, out)
        console.print(f"written    {out / 'evaluation.parquet'} (and .csv)", soft_wrap=True)
    return 0


def _sets_of(folder: Path, config: TrainConfig) -> list[EvaluationSet]:
    """A verification set is one set; a training set's identity-disjoint parts are one each.

    The parts of the shards that the run was trained on are called as in its history: `val`.
    """
    shards, name = Shards(folder), folder.resolve().name
    parts = [part for part in ("val", "confirm") if part in shards.index["splits"]]
    if not parts:
        return [EvaluationSet(name, shards)]
    own = bool(config.data.train) and Path(config.data.train).resolve() == folder.resolve()
    return [EvaluationSet(part if own else f"{name}.{part}", shards, part) for part in parts]


def _losses(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    parser.add_argument("--markdown", action="store_true", help="print docs/losses.md")
    if parser.parse_args(words).markdown:
        print(loss_table.markdown(), end="")
        return 0
    console = Console(width=None if Console().is_terminal else 160)
    table = Table("loss", Column("key", no_wrap=True), "default", "valid", "worth searching")
    for name in LOSSES:
        for number, row in enumerate(loss_table.rows(name)):
            table.add_row("" if number else name, *row)
        table.add_section()
    console.print(table)
    for name in LOSSES:
        for text in loss_table.papers(name):
            console.print(f"{name:16} {text}", highlight=False, soft_wrap=True)
    return 0


Command = Callable[[argparse.ArgumentParser, Sequence[str]], int]
COMMANDS: dict[str, tuple[str, Command]] = {
    "train": ("Train one model on shards.", _train),
    "evaluate": ("Measure a trained run on prepared sets.", _evaluate),
    "losses": (
        "List the losses: keywords, valid ranges, what is worth searching, papers.",
        _losses,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
