"""`facerec compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from facerec.commands.evaluate import DRAWS, add_switches, draws, folder, sets_of, switches
from facerec.config import ConfigError
from facerec.evaluation.compare_runs import compare_models, sentence, table
from facerec.evaluation.figures.measure import Wanted
from facerec.model import open_model


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Compare two models on the same pairs of a set: better, worse or not distinguishable."""
    parser.add_argument("a", type=Path, metavar="RUN_A")
    parser.add_argument("b", type=Path, metavar="RUN_B")
    parser.add_argument("set", type=Path, metavar="SET", help="prepared shards")
    parser.add_argument("--out", type=Path, help="folder for the scores of single pairs")
    parser.add_argument("--draws", type=draws, default=DRAWS, help="of identities")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    add_switches(parser)
    given = parser.parse_intermixed_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a, b = (open_model(path, device) for path in (given.a, given.b))
    sets = sets_of(given.set, a.trained_on)
    for item in sets:
        for model in (a, b):
            item.check(model.backbone)
    if given.draws == 0:
        raise ConfigError("--draws 0: a comparison takes 1 or more, such as 1000")
    wanted = Wanted(given.draws, given.seed, switches(given))
    console = Console()
    for item in sets:
        out = None if given.out is None else folder(given.out / item.name)
        found, notes = compare_models(item, a.backbone, b.backbone, device, wanted=wanted, out=out)
        console.print(table(found))
        for line in (*notes, sentence(item.name, str(given.a), str(given.b), found[0])):
            console.print(line, highlight=False, soft_wrap=True)
    return 0
