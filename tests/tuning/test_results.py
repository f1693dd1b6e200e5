"""The tables: columns, types, ranks, and the way to the disk and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from facerec.config import ConfigError
from facerec.tuning import results

KEYS = ["loss.margin", "loss.bias_init"]


def row(number: int, status: str, value: float | None, **changes: Any) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        **{"epoch": 2.0, "step": 8, "images": 320, "loss": 3.0, "loss.softmax": 3.0},
        **{"train.accuracy": 0.5, "val.tar": value, "val.tar@far=1e-2": value},
        **{"seconds": 4.5, "images_per_second": 90.0, "lfw.accuracy": 0.75},
    }
    setting = {"loss.margin": 0.1 * number, "loss.bias_init": "zero"}
    found = {"number": number, "status": status, "reason": "", "error": "", "commit": "abc"}
    return found | {"setting": setting, "metrics": metrics} | changes


ROWS = [
    row(0, "completed", 0.5),
    row(1, "completed", 0.7),
    row(2, "stopped", 0.9),  # a higher score than any, below full budget
    row(3, "diverged", None, metrics={}, reason="nan_loss"),
    row(4, "failed", None, metrics={}, error="its process died"),
    row(5, "completed", None),  # its embeddings were not finite
    row(6, "running", 0.8),
    row(7, "completed", 0.7),
]


def table() -> pd.DataFrame:
    return results.trials_table(ROWS, metric="val.tar", keys=KEYS, seed=3)


def test_columns_are_the_promised_ones() -> None:
    assert list(table()) == [
        *("trial", "status", "reason", "error", "rank", "run", "loss.margin", "loss.bias_init"),
        *("seed", "val.tar", "val.tar@far=1e-2", "lfw.accuracy"),
        *("epochs", "seconds", "images_per_second", "commit", "accidents"),
    ]
    assert table()["run"][7] == "checkpoints/7"
    assert set(table()["status"]) <= set(results.STATUSES)


def test_only_full_trials_with_a_score_are_ranked() -> None:
    ranks = {number: rank for number, rank in enumerate(table()["rank"]) if not pd.isna(rank)}
    assert ranks == {1: 1, 7: 2, 0: 3}  # the earlier one of two equals first


def test_tables_come_back_as_they_were(tmp_path: Path) -> None:
    history = results.history_table(
        {
            1: pd.DataFrame({"epoch": [1.0, 2.0], "loss": [3.0, 2.0], "val.tar": [0.1, 0.2]}),
            0: pd.DataFrame({"epoch": [1.0], "loss": [4.0]}),
        }
    )
    assert history[["trial", "epoch"]].to_numpy().tolist() == [[0, 1], [1, 1], [1, 2]]
    for _ in range(2):  # replaced, too
        results.write(tmp_path, "trials", table())
        results.write(tmp_path, "history", history)
    found = results.load(tmp_path)
    pd.testing.assert_frame_equal(found.trials, table())
    pd.testing.assert_frame_equal(found.history, history)
    csv = pd.read_csv(tmp_path / "trials.csv")
    assert csv["rank"].tolist()[:2] == [3, 1]
    assert csv["rank"].isna().tolist()[2:7] == [True] * 5
    assert {path.name for path in tmp_path.iterdir()} == {
        *("trials.parquet", "trials.csv", "history.parquet", "history.csv")
    }


def test_a_sweep_without_trials_has_tables_too(tmp_path: Path) -> None:
    empty = results.trials_table([], metric="val.tar", keys=KEYS, seed=1)
    results.write(tmp_path, "trials", empty)
    results.write(tmp_path, "history", results.history_table({}))
    assert list(results.load(tmp_path).trials)[:5] == ["trial", "status", "reason", "error", "rank"]


def test_searched_values_of_mixed_kinds_become_text() -> None:
    rows = [
        row(i, "completed", 0.5, setting={"k": value}) for i, value in enumerate((None, 0.5, "s"))
    ]
    found = results.trials_table(rows, metric="val.tar", keys=["k"], seed=1)["k"]
    assert found.dtype == "str"
    assert found.tolist()[1:] == ["0.5", "s"]


def test_what_is_no_sweeps_folder_is_said(tmp_path: Path) -> None:
    results.write(tmp_path / "..", "unrelated", pd.DataFrame({"a": [1]}))
    inside = tmp_path / "uniface_margin"
    inside.mkdir()
    results.write(inside, "trials", table())
    results.write(inside, "history", results.history_table({}))
    with pytest.raises(ConfigError, match=r"did you mean .*uniface_margin\?"):
        results.load(tmp_path)
    (inside / "trials.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ConfigError, match="not a sweep's folder"):
        results.load(inside)


@pytest.mark.slow
def test_results_and_reports_need_neither_ray_nor_optuna() -> None:
    script = (
        "import sys, facerec.tuning.report, facerec.tuning.compare_report\n"
        "assert not {'ray', 'optuna'} & set(sys.modules), sorted(sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)
