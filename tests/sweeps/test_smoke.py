"""Each sweep script is its own test: `--smoke` runs it on small synthetic shards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from facerec.tuning import results

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "sweeps").glob("*.py"))
COMPARISON = ROOT / "sweeps" / "all_losses.py"
SWEEPS = [script for script in SCRIPTS if script != COMPARISON]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_scripts_are_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < 40


def smoke(script: Path, cache: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
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
            [sys.executable, str(script), "--smoke", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert "http://127.0.0.1:82" in ended.stdout
    assert "http://127.0.0.1:8265" not in ended.stdout
    return ended


@pytest.mark.slow
@pytest.mark.parametrize("script", SWEEPS, ids=[script.stem for script in SWEEPS])
def test_smoke(script: Path, cache: Path, tmp_path: Path) -> None:
    ended = smoke(script, cache, tmp_path)
    found = results.load(tmp_path / "results" / script.stem)
    assert found.trials["trial"].tolist() == [0, 1]
    assert set(found.trials["status"]) <= {"completed", "diverged"}
    assert found.trials["epochs"].tolist() == [1, 1]
    assert found.confirm["setting"].tolist() == ["defaults", "1"][: len(found.confirm)]
    assert (found.trials["status"] == "completed").sum() <= 1 + len(found.confirm) / 2
    assert set(found.confirm["seed"]) <= {2}
    assert found.verdict["metric"] == "confirm.tar"
    assert found.verdict["sentence"] in ended.stdout
    assert len(list((cache / "facerec").glob("synthetic-*"))) == 1


@pytest.mark.slow
def test_a_comparison_makes_one_table_and_is_resumed(cache: Path, tmp_path: Path) -> None:
    """Two losses, the first of which has nothing to search; on one Ray."""
    first = smoke(COMPARISON, cache, tmp_path)
    assert first.stdout.count("asks for a token") == 3  # a search, and the seeds of two losses
    folder = tmp_path / "results" / COMPARISON.stem
    table = pd.read_parquet(folder / "comparison.parquet")
    assert set(table["loss"]) == {"softmax", "normface"}
    assert set(table["setting"]) == {"best", "defaults"}
    assert (table["seeds"] + table["seeds_diverged"]).tolist() == [3] * 4
    seeds = pd.read_parquet(folder / "seeds.parquet")
    assert set(seeds["epochs"]) == {1}
    assert "confirm.tar" in seeds
    for name in ("comparison.md", "comparison.png", "comparison.csv", "normface/trials.csv"):
        assert (folder / name).stat().st_size
    command = [sys.executable, str(COMPARISON), "--resume", "--losses", "softmax,normface"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
    assert "dashboard" not in again.stdout  # nothing is left to run
    pd.testing.assert_frame_equal(table, pd.read_parquet(folder / "comparison.parquet"))
