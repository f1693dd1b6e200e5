"""`facerec losses`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

from facerec.losses import LOSSES
from facerec.losses import table as loss_table


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """List the losses."""
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
