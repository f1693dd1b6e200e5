"""`facerec evaluate`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from facerec.config import ConfigError
from facerec.data.shards import Shards
from facerec.evaluation.colours import check_colours
from facerec.evaluation.protocols import EvaluationSet
from facerec.evaluation.table import write as write_table
from facerec.model import Model, open_model

DRAWS = 1000


def draws(text: str) -> int:
    """Read how many draws of identities make an interval.

    Raises:
        argparse.ArgumentTypeError: No whole number of 0 or more.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: takes a whole number of draws, 0 for none")
    return int(text)


def folder(path: Path) -> Path:
    """Make a folder to write into.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot be written ({error.strerror})") from None
    return path


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Measure a trained run, an ONNX file or a public checkpoint on prepared sets."""
    parser.add_argument(
        "run",
        type=Path,
        metavar="MODEL",
        help="run folder, trial's folder, <sweep>/best, an ONNX file, or a public checkpoint",
    )
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="prepared shards")
    parser.add_argument("--out", type=Path, help="folder for evaluation.parquet and evaluation.csv")
    parser.add_argument(
        "--draws",
        type=draws,
        default=DRAWS,
        help="of identities, for 95 %% intervals (default: %(default)s; 0: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--family", help="whose checkpoint it is, where its tensors do not tell")
    parser.add_argument("--folds", action="store_true", help="print each fold's numbers too")
    given = parser.parse_intermixed_args(words)
    out: Path | None = given.out
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = open_model(given.run, device, given.family)
    sets = [item for place in given.sets for item in sets_of(place, model.trained_on)]
    for item in sets:
        item.check(model.backbone)
    if out is not None:
        folder(out)
    evaluations = [
        item.measure(model.backbone, device, draws=given.draws, seed=given.seed) for item in sets
    ]
    table = Table(
        *("set", "metric", "value", "low", "high", "threshold", "fold", "group", "protocol")
    )
    for evaluation in evaluations:
        for one in evaluation.measures:
            if given.folds or one.fold is None:
                table.add_row(
                    evaluation.name,
                    one.metric,
                    f"{one.value:.4f}",
                    *(
                        "" if n is None or math.isnan(n) else f"{n:.4f}"
                        for n in (one.low, one.high)
                    ),
                    "" if one.threshold is None else f"{one.threshold:.4f}",
                    "" if one.fold is None else str(one.fold),
                    one.group or "",
                    evaluation.protocol,
                )
    console = Console()
    console.print(table)
    for note in (*model.notes, *_colours(model, sets, device)):
        console.print(note, highlight=False, soft_wrap=True)
    for evaluation in evaluations:
        for note in evaluation.notes:
            console.print(note, highlight=False, soft_wrap=True)
    if out is not None:
        write_table(evaluations, out)
        console.print(f"written    {out / 'evaluation.parquet'} (and .csv)", soft_wrap=True)
    return 0


def _colours(model: Model, sets: Sequence[EvaluationSet], device: torch.device) -> list[str]:
    """A warning where another's checkpoint does better on the other order of colours."""
    paired = [item for item in sets if item.split == "train" and item.shards.pairs() is not None]
    if not model.colours or not paired:
        return []
    # The net turns RGB images to its own order itself: what could be wrong is that order.
    found = check_colours(model.backbone, paired[0].shards, "RGB", device=device)
    return [found.warning] if found.warning else []


def sets_of(place: Path, trained_on: str) -> list[EvaluationSet]:
    """A verification set is one set; a training set's identity-disjoint parts are one each.

    The parts of the shards that the model was trained on are called as in its history: `val`.
    """
    shards, name = Shards(place), place.resolve().name
    parts = [part for part in ("val", "confirm") if part in shards.index["splits"]]
    if not parts:
        return [EvaluationSet(name, shards)]
    # An exported file knows only the folder's name.
    own = trained_on == place.resolve().name or Path(trained_on).resolve() == place.resolve()
    own = own and bool(trained_on)
    return [EvaluationSet(part if own else f"{name}.{part}", shards, part) for part in parts]
