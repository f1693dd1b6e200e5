"""The confirmation: which settings, which seeds, what is added later, and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from facerec.config import ConfigError
from facerec.domains import IntUniform, Uniform
from facerec.tuning import confirm, journal, results
from facerec.tuning.confirm import Rerun
from facerec.tuning.search import JournalSearcher
from facerec.tuning.sweep import Sweep
from tests.tuning.conftest import PAPER, small_base, small_sweep
from tests.tuning.test_search import ask, finish


def setting(margin: float) -> dict[str, float]:
    return {"loss.margin": margin, "loss.scale": 32.0}


def row(number: int, values: dict[str, Any], score: float | None, status: str = "completed") -> Any:
    return {
        "number": number,
        "status": status,
        "setting": values,
        "metrics": {} if score is None else {"val.tar": score},
    }


ROWS = [
    row(0, PAPER, 0.8),
    row(1, setting(0.1), 0.5),
    row(2, setting(0.2), 0.9, "stopped"),
    row(3, setting(0.3), 0.7),
    row(4, setting(0.3), 0.6),  # the same setting twice
    row(5, setting(0.4), 0.95, "diverged"),
    row(6, setting(0.5), None),  # its embeddings were not finite
    row(7, setting(0.6), 0.4),
]


def told(runs: list[Rerun]) -> list[tuple[str, int | None, int]]:
    return [(run.setting, run.repeats, run.seed) for run in runs]


def test_the_best_full_trials_and_the_defaults_are_trained_again_with_other_seeds() -> None:
    runs = confirm.plan(small_sweep(confirm=2, seeds=2), ROWS)
    assert told(runs) == [
        *(("defaults", 0, 2), ("1", 3, 2), ("2", 1, 2)),  # the search has seed 1
        *(("defaults", 0, 3), ("1", 3, 3), ("2", 1, 3)),
    ]
    assert [run.values for run in runs[:3]] == [PAPER, setting(0.3), setting(0.1)]


def test_there_may_be_fewer_settings_than_wanted_or_none() -> None:
    many = confirm.plan(small_sweep(confirm=9, seeds=1), ROWS)
    assert [run.setting for run in many] == ["defaults", "1", "2", "3"]
    assert confirm.plan(small_sweep(confirm=9), ROWS[:1]) == []
    assert confirm.plan(small_sweep(confirm=0), ROWS) == []
    without = confirm.plan(small_sweep(confirm=1, seeds=1, points=()), ROWS)
    assert told(without) == [("1", 0, 2)]


def test_defaults_that_the_search_never_finished_are_trained_all_the_same() -> None:
    runs = confirm.plan(small_sweep(confirm=1, seeds=1), ROWS[1:])
    assert told(runs) == [("defaults", None, 2), ("1", 3, 2)]


def test_what_is_added_later_comes_after_what_is_there() -> None:
    first = confirm.plan(small_sweep(confirm=1, seeds=1), ROWS)
    more = confirm.plan(small_sweep(confirm=2, seeds=2), ROWS, first)
    assert more[:2] == first
    assert told(more[2:]) == [("2", 1, 2), ("defaults", 0, 3), ("1", 3, 3), ("2", 1, 3)]
    # A later trial beats the others: the confirmed ones keep their names.
    better = confirm.plan(
        small_sweep(confirm=1, seeds=1), [*ROWS, row(8, setting(0.0), 0.99)], first
    )
    assert told(better) == [*told(first), ("2", 8, 2)]
    assert confirm.plan(small_sweep(confirm=1, seeds=1), ROWS, more) == more


def test_a_searched_seed_is_no_part_of_a_setting() -> None:
    space = {"loss.margin": Uniform(0.0, 0.7), "seed": IntUniform(1, 5)}
    sweep = small_sweep(space=space, points=({"loss.margin": 0.4, "seed": 1},), confirm=1, seeds=1)
    rows = [row(0, {"loss.margin": 0.4, "seed": 1}, 0.1)]
    rows += [row(n, {"loss.margin": 0.2, "seed": n}, 0.5 + n / 10) for n in (1, 2)]
    runs = confirm.plan(sweep, rows)
    assert [(run.values, run.seed) for run in runs] == [
        ({"loss.margin": 0.4}, 2),
        ({"loss.margin": 0.2}, 2),
    ]


def test_a_plan_comes_back(tmp_path: Path) -> None:
    runs = confirm.plan(small_sweep(confirm=2, seeds=2), ROWS[1:])
    assert confirm.read_plan(tmp_path) == []
    confirm.write_plan(tmp_path, runs)
    assert confirm.read_plan(tmp_path) == runs
    path = tmp_path / results.CONFIRM_RUNS / "plan.json"
    for damaged in ("", "{}", '{"runs": [{"seed": 1}]}'):
        path.write_text(damaged)
        with pytest.raises(ConfigError, match=r"plan\.json: cannot be read"):
            confirm.read_plan(tmp_path)


@pytest.fixture
def sweep(toy_shards: Path) -> Sweep:
    return small_sweep(small_base(toy_shards), confirm=1, seeds=2)


def opened(sweep: Sweep, folder: Path, runs: list[Rerun]) -> JournalSearcher:
    confirm.write_plan(folder, runs)
    journal.repair(folder / results.CONFIRM_RUNS / confirm.JOURNAL)
    return confirm.open_searcher(sweep, folder, runs, "abc")


def test_a_confirmation_is_resumed_with_what_was_added(sweep: Sweep, tmp_path: Path) -> None:
    runs = confirm.plan(sweep, ROWS)
    searcher = opened(sweep, tmp_path, runs)
    asked = [ask(searcher, str(n)) for n in range(3)]  # the fourth is never asked for
    assert asked[1] == {"number": 1, **setting(0.3), "seed": 2}
    finish(searcher, "0", 0.7)
    finish(searcher, "2", 0.6)
    more = confirm.plan(small_sweep(sweep.base, confirm=2, seeds=2), ROWS, runs)
    again = opened(sweep, tmp_path, more)
    assert again.remaining() == 4
    asked = [ask(again, str(n)) for n in range(4)]
    assert [a["number"] for a in asked] == [1, 3, 4, 5]
    for a in asked:
        run = more[a["number"]]
        assert a == {"number": a["number"], **run.values, "seed": run.seed}
    assert again.failure is None


def test_the_table_has_the_columns_of_trials_and_says_which_setting(
    sweep: Sweep, tmp_path: Path
) -> None:
    runs = confirm.plan(sweep, ROWS[1:])
    searcher = opened(sweep, tmp_path, runs)
    for n in range(3):
        ask(searcher, str(n))
        finish(searcher, str(n), 0.5 + n / 10)
    tables = confirm.ConfirmTables(tmp_path, searcher, runs)
    assert tables.write()["rank"].isna().all()
    tables.measured({1: {"confirm.tar": 0.25}})
    table = tables.write({"defaults": 2, "1": 1})
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "confirm.parquet"), table)
    assert list(table) == [
        *("setting", "trial", "repeats", "status", "reason", "error", "rank", "run"),
        *("loss.margin", "loss.scale", "seed", "val.tar", "confirm.tar"),
        *("epochs", "seconds", "images_per_second", "commit", "accidents"),
    ]
    assert table["setting"].tolist() == ["defaults", "1", "defaults"]
    assert table["seed"].tolist() == [2, 2, 3]
    assert table["repeats"].isna().tolist() == [True, False, True]
    assert table["rank"].tolist() == [2, 1, 2]
    assert table["run"].tolist() == [f"checkpoints/confirm/{n}" for n in range(3)]
    assert table["confirm.tar"].isna().tolist() == [True, False, True]
