"""One seed for each test; says which golden files had no loss to be compared with."""

from __future__ import annotations

import pytest
import torch

from tests.losses import goldens


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = [path.name for path in goldens.files() if not goldens.built(path)]
    if missing:
        terminalreporter.section("golden files of losses not built yet")
        terminalreporter.line(", ".join(missing))
