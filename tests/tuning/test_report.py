"""The report: a plot that shows what it should, and tables that a person can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from facerec.domains import Choice, LogUniform, Uniform
from facerec.tuning import folder, report, results
from tests.tuning.conftest import small_base, small_sweep
from tests.tuning.test_folder import record
from tests.tuning.test_results import row

ARMS = ("zero", "log_c")


def write_sweep(path: Path, shards: Path, rows: list[dict[str, Any]]) -> Path:
    space = {"loss.margin": Uniform(0, 0.7), "loss.scale": LogUniform(16, 96)}
    sweep = small_sweep(
        small_base(shards),
        space=space | {"optimizer.schedule": Choice(("poly", "cosine"))},
        points=({"loss.margin": 0.4, "loss.scale": 64.0, "optimizer.schedule": "cosine"},),
    )
    path.mkdir()
    folder.write(path, record(sweep))
    table = results.trials_table(rows, metric="val.tar", keys=list(sweep.space), seed=1)
    results.write(path, "trials", table)
    results.write(path, "history", results.history_table({}))
    return path


def trial(number: int, status: str, value: float | None, *setting: Any) -> dict[str, Any]:
    keys = ("loss.margin", "loss.scale", "optimizer.schedule")
    found = row(number, status, value, setting=dict(zip(keys, setting, strict=True)))
    if status == "diverged":
        found |= {"metrics": {}, "reason": "nan_loss"}
    return found


ROWS = [
    trial(0, "completed", 0.61, 0.4, 64.0, "cosine"),
    trial(1, "completed", 0.67, 0.2, 32.0, "poly"),
    trial(2, "stopped", 0.31, 0.6, 90.0, "poly"),
    trial(3, "diverged", None, 0.7, 96.0, "cosine"),
    trial(4, "running", 0.1, 0.0, 16.0, "cosine"),
    trial(5, "failed", None, 0.1, 20.0, "cosine") | {"metrics": {}},
]


def printed(path: Path) -> str:
    console = Console(record=True, width=160, markup=False, file=open("/dev/null", "w"))  # noqa: SIM115
    report.show(path, console)
    return console.export_text()


def test_the_plot_shows_every_status_the_winner_and_the_papers_values(
    tmp_path: Path, toy_shards: Path
) -> None:
    path = report.write(write_sweep(tmp_path / "small", toy_shards, ROWS))
    pixels = matplotlib.image.imread(path)[..., :3]
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 1200  # three panels
    looks = [report._LOOKS[s][0] for s in ("completed", "stopped", "diverged", "running")]
    for colour in (*looks, report._BEST, report._DEFAULT):
        near = np.abs(pixels - matplotlib.colors.to_rgb(colour)).max(-1) < 0.1
        assert near.sum() > 40, colour


def test_the_ranking_can_be_read(tmp_path: Path, toy_shards: Path) -> None:
    text = printed(write_sweep(tmp_path / "small", toy_shards, ROWS))
    start = next(i for i, line in enumerate(text.splitlines()) if "───" in line)
    cells = [line.split() for line in text.splitlines()[start + 1 :]]
    assert [line[:2] for line in cells[:2]] == [["1", "1"], ["2", "0"]]
    assert cells[0][2:6] == ["0.2", "32", "poly", "0.6700"]
    assert any(line[-2:] == ["diverged", "(nan_loss)"] for line in cells)
    assert (
        "best       loss.margin=0.2  loss.scale=32  optimizer.schedule=poly  ->  val.tar 0.67"
        in text
    )
    assert "paper      loss.margin=0.4" in text
    assert "trials.parquet" in text
    assert report.PLOT in text


def test_the_papers_values_may_be_the_best_or_missing(tmp_path: Path, toy_shards: Path) -> None:
    assert "paper's own setting" in printed(write_sweep(tmp_path / "a", toy_shards, ROWS[:1]))
    assert "\npaper " not in printed(write_sweep(tmp_path / "b", toy_shards, ROWS[1:2]))


@pytest.mark.parametrize("rows", [[], ROWS[3:4], ROWS[5:]], ids=["none", "diverged", "failed"])
def test_a_sweep_without_a_winner_is_reported(
    rows: list[dict[str, Any]], tmp_path: Path, toy_shards: Path
) -> None:
    path = write_sweep(tmp_path / "small", toy_shards, rows)
    assert report.write(path).stat().st_size > 10_000
    assert "no winner" in printed(path)
