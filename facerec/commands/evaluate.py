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
from facerec.data.shards import DataError, Shards
from facerec.evaluation.colours import check_colours
from facerec.evaluation.figures.measure import Evaluation, Part, Wanted
from facerec.evaluation.protocols import EvaluationSet
from facerec.evaluation.table import write as write_table
from facerec.evaluation.templates import Switches
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


def folder(path: Path, option: str = "--out") -> Path:
    """Make a folder to write into.

    Args:
        path: The folder.
        option: What named it, for the sentence.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be written ({error.strerror})") from None
    return path


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Measure a trained run, an ONNX file or a public checkpoint on prepared sets."""
    _arguments(parser)
    given = parser.parse_intermixed_args(words)
    if given.plots and given.out is None:
        raise ConfigError("--plots: needs --out DIR, the folder that they go into")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = open_model(given.run, device, given.family)
    sets = [item for place in given.sets for item in sets_of(place, model.trained_on)]
    for item in sets:
        item.check(model.backbone)
    if given.features is not None and not any(item.distractors is not None for item in sets):
        raise DataError(
            f"--features {given.features}: none of the sets has distractors; python -m data_prep "
            "megaface prepares one that has"
        )
    for option in ("out", "features"):
        if getattr(given, option) is not None:
            folder(getattr(given, option), f"--{option}")
    wanted = Wanted(given.draws, given.seed, switches(given), given.plots, given.features)
    console = Console()
    evaluations = []
    for item in sets:
        evaluations.append(item.measure(model.backbone, device, wanted=wanted))
        _show(console, evaluations[-1], given.folds)
    for note in (*model.notes, *_colours(model, sets, device)):
        console.print(note, highlight=False, soft_wrap=True)
    if given.out is not None:
        write_table(evaluations, given.out)
        console.print(f"written    {given.out / 'evaluation.parquet'} (and .csv)", soft_wrap=True)
    if given.plots:
        from facerec.evaluation import plots  # matplotlib takes a second, and is needed here alone

        curves = [part.curves for one in evaluations for part in one.parts if part.curves]
        for path in plots.draw(curves, given.out):
            console.print(f"drawn      {path}", soft_wrap=True)
    return 0


def add_switches(parser: argparse.ArgumentParser) -> None:
    """Options for the choices that change numbers; the defaults are insightface's."""
    group = parser.add_argument_group("switches, printed and stored beside each number")
    for name, says in (
        ("flip", "add the embedding of the mirror image"),
        ("norm", "templates: let the length of an image's embedding count"),
        ("detector", "templates: multiply by the detector's score"),
    ):
        group.add_argument(
            f"--{name}", choices=("on", "off"), default="on", help=f"{says} (default: on)"
        )
    group.add_argument(
        "--pooling",
        choices=("media", "images"),
        default="media",
        help="templates: mean per medium, then sum; or sum of all images (default: media)",
    )
    group.add_argument(
        "--rule",
        choices=("nearest", "not-exceeding"),
        default="nearest",
        help="templates: the ROC point whose FAR is nearest, as insightface reads it, or the last "
        "that does not exceed it (default: nearest)",
    )
    group.add_argument(
        "--false-accepts",
        type=int,
        default=1,
        metavar="N",
        help="templates: fewest false accepts of a FAR that is reported (default: 1)",
    )


def switches(given: argparse.Namespace) -> Switches:
    """The switches that were given.

    Raises:
        ConfigError: `--false-accepts` below 1.
    """
    if given.false_accepts < 1:
        raise ConfigError(f"--false-accepts {given.false_accepts}: takes 1 or more")
    return Switches(
        flip=given.flip == "on",
        norm=given.norm == "on",
        detector=given.detector == "on",
        pooling=given.pooling,
        rule="nearest" if given.rule == "nearest" else "not exceeding",
        false_accepts=given.false_accepts,
    )


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        type=Path,
        metavar="MODEL",
        help="run folder, trial's folder, <sweep>/best, an ONNX file, or a public checkpoint",
    )
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="prepared shards")
    parser.add_argument("--out", type=Path, help="folder for evaluation.parquet and evaluation.csv")
    parser.add_argument(
        "--plots", action="store_true", help="ROC, DET, CMC and score histograms as PNG into --out"
    )
    parser.add_argument(
        "--draws",
        type=draws,
        default=DRAWS,
        help="of identities, for 95 %% intervals (default: %(default)s; 0: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--family", help="whose checkpoint it is, where its tensors do not tell")
    parser.add_argument("--folds", action="store_true", help="print each fold's numbers too")
    parser.add_argument(
        "--features",
        type=Path,
        metavar="DIR",
        help="sets with distractors: write feature files for MegaFace's development kit",
    )
    add_switches(parser)


def _show(console: Console, evaluation: Evaluation, folds: bool) -> None:
    """One table per protocol, whose line stands above it."""
    for part in evaluation.parts:
        console.print(f"{evaluation.name}: {part.protocol}", highlight=False, soft_wrap=True)
        console.print(_table(part, folds))
    for note in evaluation.notes:
        console.print(note, highlight=False, soft_wrap=True)
    console.print()


def _table(part: Part, folds: bool) -> Table:
    """The numbers of one protocol; columns that say nothing are left out."""
    shown = [one for one in part.measures if folds or one.fold is None]
    columns = {
        "metric": [one.metric for one in shown],
        "value": ["-" if math.isnan(one.value) else f"{one.value:.4f}" for one in shown],
        "low": [_number(one.low) for one in shown],
        "high": [_number(one.high) for one in shown],
        "threshold": [_number(one.threshold) for one in shown],
        "fold": ["" if one.fold is None else str(one.fold) for one in shown],
        "group": [one.group or "" for one in shown],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table(*kept)
    for row in zip(*kept.values(), strict=True):
        table.add_row(*row)
    return table


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def _colours(model: Model, sets: Sequence[EvaluationSet], device: torch.device) -> list[str]:
    """A warning where another's checkpoint does better on the other order of colours."""
    paired = [item for item in sets if item.pairs() is not None]
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
