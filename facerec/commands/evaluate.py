"""`facerec evaluate`."""

from __future__ import annotations

import argparse
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
    parser.add_argument("--family", help="whose checkpoint it is, where its tensors do not tell")
    parser.add_argument("--folds", action="store_true", help="print each fold's numbers too")
    given = parser.parse_intermixed_args(words)
    out: Path | None = given.out
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = open_model(given.run, device, given.family)
    sets = [item for folder in given.sets for item in _sets_of(folder, model.trained_on)]
    for item in sets:
        item.check(model.backbone)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written ({error.strerror})") from None
    evaluations = [item.measure(model.backbone, device) for item in sets]
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


def _sets_of(folder: Path, trained_on: str) -> list[EvaluationSet]:
    """A verification set is one set; a training set's identity-disjoint parts are one each.

    The parts of the shards that the model was trained on are called as in its history: `val`.
    """
    shards, name = Shards(folder), folder.resolve().name
    parts = [part for part in ("val", "confirm") if part in shards.index["splits"]]
    if not parts:
        return [EvaluationSet(name, shards)]
    # An exported file knows only the folder's name.
    own = trained_on == folder.resolve().name or Path(trained_on).resolve() == folder.resolve()
    own = own and bool(trained_on)
    return [EvaluationSet(part if own else f"{name}.{part}", shards, part) for part in parts]
