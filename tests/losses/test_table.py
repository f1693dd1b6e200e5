"""The list of losses: made from the code, whole, and current in docs/losses.md."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from facerec.losses import LOSSES, OBJECTIVES, REGULARIZERS, keywords, table

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    stored = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    diff = difflib.unified_diff(stored.splitlines(), table.markdown().splitlines(), lineterm="")
    changes = "\n".join(diff)
    assert not changes, f"run facerec losses --markdown > docs/losses.md:\n{changes}"


def test_the_readme_names_every_loss() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in LOSSES if f"`{name}`" not in text] == []


@pytest.mark.parametrize("loss", LOSSES)
def test_every_keyword_has_a_row(loss: str) -> None:
    keys = [row.key for row in table.rows(loss)]
    assert {key.removeprefix("loss.") for key in keys if key.startswith("loss.")} == {
        *keywords(loss)
    }
    assert len(keys) == len(set(keys))
    for row in table.rows(loss):
        searched = LOSSES[loss].space.get(row.key)
        assert (searched is None) == (row.worth == ""), row.key
        assert row.valid


def test_rows_say_default_unit_limits_and_range() -> None:
    assert table.Row(
        "loss.margin", "0.5", "0 to below 3.14159 (radians)", "0.2 to 0.7"
    ) in table.rows("arcface")
    assert table.Row("loss.margin", "4", "1 to 5, whole", "1, 2, 3, 4") in table.rows("sphereface")
    found = {row.key: row for row in table.rows("uniface")}
    assert found["loss.margin"].default == "0.4"  # the loss's own, where CosFace has 0.35
    assert found["loss.bias_weight_decay"].valid == "0 or more, or None"
    assert found["loss.bias_lr_mult"].worth == "0.01 to 1, by factors"
    assert found["loss.regularizer"].valid == ", ".join(["none", *REGULARIZERS])


def test_papers_are_named_with_venue_and_year() -> None:
    assert table.papers("arcface") == [
        "ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019, equation 3"
    ]
    assert [text.split(":")[0] for text in table.papers("uniface")] == ["CosFace", "UniFace"]
    for loss in LOSSES:
        if loss != "softmax":
            assert table.papers(loss), loss
        for text in table.papers(loss):
            assert "\n" not in text
            assert text.count("(") == text.count(")")


def test_the_page_has_every_part() -> None:
    headings = [line for line in table.markdown().splitlines() if line.startswith("## ")]
    assert headings == [
        *(f"## `{name}`" for name in LOSSES),
        *(f"## `loss.objective={name}`" for name in OBJECTIVES),
        *(f"## `loss.regularizer={name}`" for name in REGULARIZERS),
    ]
