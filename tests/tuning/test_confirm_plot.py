"""The picture of a confirmation: which figures stand in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from facerec.tuning import confirm_plot, results

SETTINGS: list[dict[str, Any]] = [
    {"setting": "defaults", "rank": 2, "mean": 0.42, "values": {"loss.margin": 0.4}},
    {"setting": "1", "rank": 1, "mean": 0.66, "values": {"loss.margin": 0.2}}
    | {"effect": 0.24, "low": 0.2, "high": 0.28, "verdict": "better"},
    {"setting": "2", "rank": 3, "mean": 0.41, "values": {"loss.margin": 0.5}}
    | {"effect": -0.01, "low": None, "high": None, "verdict": "not distinguishable"},
    {"setting": "3", "rank": None, "mean": None, "values": {"loss.margin": 0.7}},
]


def written(folder: Path, settings: list[dict[str, Any]]) -> Path | None:
    verdict = {"metric": "confirm.tar", "sentence": "setting 1 is better", "settings": settings}
    (folder / results.VERDICT).write_text(json.dumps(verdict))
    rows = [
        {"setting": name, "seed": seed, "status": "completed", "confirm.tar": mean + seed / 100}
        for name, mean in (("defaults", 0.4), ("1", 0.64), ("2", 0.39))
        for seed in (1, 2, 3)
    ]
    rows.append({"setting": "3", "seed": 1, "status": "diverged", "confirm.tar": None})
    pd.DataFrame(rows).to_parquet(folder / "confirm.parquet")
    return confirm_plot.write(folder)


def test_every_score_and_every_interval_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1]
    )
    path = written(tmp_path, SETTINGS)
    assert path is not None
    assert path.stat().st_size > 10_000
    (figure,) = figures
    scores, effects = figure.axes
    assert [label.get_text() for label in scores.get_yticklabels()] == [
        "setting 2\nmargin 0.5",
        "the paper's values\nmargin 0.4",
        "setting 1\nmargin 0.2",
    ]
    seeds = [tuple(line.get_xdata()) for line in scores.lines[:3]]
    assert seeds == [
        tuple(pytest.approx(mean + seed / 100) for mean in (0.39, 0.4, 0.64)) for seed in (1, 2, 3)
    ]
    assert [line.get_xdata()[0] for line in scores.lines[3:]] == [0.41, 0.42, 0.66]
    intervals = [tuple(line.get_xdata()) for line in effects.lines[1:]]
    assert intervals == [(0.2, 0.28)]
    assert [text.get_text() for text in effects.texts] == ["not distinguishable", "better"]


def test_without_scores_nothing_is_drawn(tmp_path: Path) -> None:
    assert written(tmp_path, SETTINGS[3:]) is None
    assert not (tmp_path / confirm_plot.PLOT).exists()
