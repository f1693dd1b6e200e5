"""The report: a plot that shows what it should, and tables that a person can read."""

from __future__ import annotations

import json
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


VERDICT = {
    **{"metric": "confirm.tar", "split": "confirm", "people": 98, "winner": "1", "best": "x"},
    "sentence": "loss.margin=0.2 is better than the paper's values: +0.251 (3 seeds, 98 people)",
    "settings": [
        {
            **{"setting": "defaults", "repeats": 0, "rank": 2, "mean": 0.42, "seeds": [2, 3, 4]},
            **{"diverged": 0, "failed": 0, "seconds": 91.0},
            "values": {"loss.margin": 0.4, "loss.scale": 64.0, "optimizer.schedule": "cosine"},
        },
        {
            **{"setting": "1", "repeats": 2, "rank": 1, "mean": 0.671, "seeds": [2, 4]},
            **{"diverged": 1, "failed": 0, "seconds": 93.0},
            "values": {"loss.margin": 0.2, "loss.scale": 24.0, "optimizer.schedule": "poly"},
            **{"effect": 0.251, "low": 0.21, "high": 0.29, "verdict": "better"},
        },
    ],
    "importance": [
        {"key": "loss.margin", "importance": 0.81, "low": 0.6, "high": 0.95, "reason": ""},
        {"key": "loss.scale", "importance": None, "low": None, "high": None, "reason": "few"},
    ],
    "good_region": [
        {
            **{"key": "loss.margin", "low": 0.1, "high": 0.25, "options": "", "best": 0.2},
            **{"share": 0.21, "trials": 3, "note": ""},
        },
        {
            **{"key": "optimizer.schedule", "low": None, "high": None, "options": "poly"},
            **{"best": "poly", "share": 0.5, "trials": 1, "note": "one trial alone"},
        },
    ],
    "ended": {
        "search": {
            "status": {"completed": 5, "diverged": 2},
            **{"trials": 7, "reasons": {"nan_loss": 2}, "accidents": 1, "seconds": 1234.5},
        },
    },
}


def test_the_confirmed_figure_is_told_not_the_searched_one(
    tmp_path: Path, toy_shards: Path
) -> None:
    path = write_sweep(tmp_path / "small", toy_shards, ROWS)
    (path / results.VERDICT).write_text(json.dumps(VERDICT))
    text = printed(path)
    assert f"verdict    {VERDICT['sentence']}" in text
    assert "importance loss.margin 0.81, 95 % 0.60 to 0.95\n" in text
    assert "           loss.scale: not known (few)\n" in text
    assert "good range loss.margin 0.1 to 0.25 (21% of its range, 3 trials)\n" in text
    assert "schedule poly (50% of its options, 1 trial; one trial alone)\n" in text
    assert "98 people that the search never saw" in text
    cells = [line.split() for line in text.splitlines()]
    first = next(line for line in cells if line[:2] == ["1", "1"] and "better" in line)
    assert first == [
        *("1", "1", "0.2", "24", "poly", "0.6710", "+0.2510", "+0.2100", "to", "+0.2900"),
        *("better", "2,", "1", "diverged", "93"),
    ]
    assert ["2", "defaults", "0.4", "64", "cosine", "0.4200", "3", "91"] in cells
    assert "search     5 completed, 2 diverged (2 nan_loss); 1 accident; 1,234 s" in text
    assert "best      " not in text.replace("best model", "")  # no single score is a winner's
    found = results.load(path)
    assert report.best_trial(found.trials, found.verdict) == 2
    assert report.write(path).stat().st_size > 10_000
    assert report.best_trial(found.trials, {}) == 1


@pytest.mark.parametrize("rows", [[], ROWS[3:4], ROWS[5:]], ids=["none", "diverged", "failed"])
def test_a_sweep_without_a_winner_is_reported(
    rows: list[dict[str, Any]], tmp_path: Path, toy_shards: Path
) -> None:
    path = write_sweep(tmp_path / "small", toy_shards, rows)
    assert report.write(path).stat().st_size > 10_000
    assert "no winner" in printed(path)
