"""Each sweep script is its own test: `--smoke` runs it on small synthetic shards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from facerec.tuning import results

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "sweeps").glob("*.py"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_scripts_are_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 40


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_smoke(script: Path, cache: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    # Whoever has the dashboard's usual port, the next free one is used.
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8265))
            taken.listen()
        except OSError:
            pass  # taken already
        ended = subprocess.run(
            [sys.executable, str(script), "--smoke"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert "http://127.0.0.1:82" in ended.stdout
    assert "http://127.0.0.1:8265" not in ended.stdout
    found = results.load(tmp_path / "results" / script.stem)
    assert found.trials["trial"].tolist() == [0, 1]
    assert set(found.trials["status"]) <= {"completed", "diverged"}
    assert found.trials["epochs"].tolist() == [1, 1]
    assert len(list((cache / "facerec").glob("synthetic-*"))) == 1
