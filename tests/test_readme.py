"""The README's table of losses is made from the code, and stays true."""

from __future__ import annotations

from pathlib import Path

from facerec.losses import LOSSES, keywords

README = Path(__file__).parent.parent / "README.md"


def loss_row(name: str) -> str:
    """One line of the table: what it is made of, its defaults, what is worth searching."""
    spec = LOSSES[name]
    own = keywords(name)
    shown = [key for key in ("margin", "scale", "bias_init", "negative_weight") if key in own]
    defaults = ", ".join(f"{key} {own[key]}" for key in shown)
    space = ", ".join(f"`{key}`" for key in spec.space)
    return f"| `{name}` | {spec.margin.__name__} | `{own['objective']}` | {defaults} | {space} |"


def test_the_table_of_losses_is_current() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    missing = [row for row in map(loss_row, LOSSES) if row not in lines]
    assert not missing, "README.md lacks these lines:\n" + "\n".join(missing)
