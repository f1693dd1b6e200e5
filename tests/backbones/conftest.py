"""Says which golden files had no backbone to be compared with."""

from __future__ import annotations

import pytest

from tests.backbones import goldens


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = [path.name for path in goldens.files() if not goldens.built(path)]
    if missing:
        terminalreporter.section("golden files of backbones not built yet")
        terminalreporter.line(", ".join(missing))
