"""CONTRIBUTING.md's example of a new loss, word for word, through what every loss is tried with."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from facerec.config import Component
from facerec.losses import LOSSES, OBJECTIVES, REGULARIZERS, build, table
from facerec.losses.base import LossSpec
from facerec.losses.softmax import Softmax
from facerec.presets import laptop
from facerec.tuning.sweep import Sweep
from tests.losses import test_contract as contract
from tests.losses import test_declarations as declarations

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT[TEXT.index("## Adding a loss") : TEXT.index("## Tests")]
MODULE, LINE = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture
def loss(monkeypatch: pytest.MonkeyPatch) -> str:
    """The example, in the table for the length of a test; gives its name."""
    module = ModuleType("example_of_contributing")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(MODULE, "CONTRIBUTING.md", "exec"), module.__dict__)
    names = {**module.__dict__, "LossSpec": LossSpec, "Softmax": Softmax}
    ((name, spec),) = eval(f"{{{LINE}}}", names).items()
    assert name not in LOSSES
    monkeypatch.setitem(LOSSES, name, spec)
    return name


def test_it_is_one_line_and_a_short_file() -> None:
    assert len(LINE.splitlines()) == 1
    assert len(MODULE.splitlines()) < 60
    assert all(len(line) <= 100 for line in MODULE.splitlines())


def test_it_computes_its_formula(loss: str) -> None:
    cos = torch.tensor([0.3, -0.8], dtype=torch.float64)
    margin = build(loss, {"margin": 0.2}, num_classes=9, embedding_size=8).margin
    for value, found in zip(cos, margin.target(cos, cos), strict=True):
        assert float(found) == pytest.approx((math.pi - 2 * (math.acos(value) + 0.2)) / math.pi)
    for value, found in zip(cos, margin.others(cos, cos, cos), strict=True):
        assert float(found) == pytest.approx((math.pi - 2 * math.acos(value)) / math.pi)


def test_it_keeps_the_contract_of_every_loss(loss: str) -> None:
    for objective in OBJECTIVES:
        args = {"objective": objective}
        for storage in ("free", "unit"):
            contract.test_finite_at_the_ends_of_the_cosine(loss, args, storage)
        contract.test_zero_embeddings_have_a_finite_loss_and_a_small_gradient(loss, args)
        contract.test_half_precision_around_the_head_changes_only_the_input(loss, args)
        contract.test_one_row_and_one_class(loss, args)
        contract.test_state_survives_a_state_dict(loss, args)
    for regularizer in REGULARIZERS:
        contract.test_the_whole_product_is_finite(loss, regularizer)
    contract.test_nothing_handed_in_is_changed(loss)
    contract.test_margin_warmup(loss)


def test_its_declarations_are_right(loss: str) -> None:
    declarations.test_spaces_are_of_real_keywords_and_hold_the_defaults(loss)
    declarations.test_every_default_passes_the_check(loss)
    declarations.test_docstrings_explain_every_keyword(loss)


def test_it_can_be_swept_and_is_listed(loss: str) -> None:
    sweep = Sweep(name=loss, base=laptop(Component(loss)), space=LOSSES[loss].space)
    assert list(sweep.space) == ["loss.margin", "loss.scale"]
    assert "AirFace" in table.papers(loss)[0]
    assert f"## `{loss}`" in table.markdown()
