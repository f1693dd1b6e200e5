"""Which sweeps a comparison runs, and which not again: the sweeps themselves are stood in for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from facerec import config as configs
from facerec.config import ConfigError, override
from facerec.tuning import compare, compare_report, equal_budget, folder, options, results
from facerec.tuning.equal_budget import Comparison, compare_losses
from facerec.tuning.options import Options
from facerec.tuning.runner import Interrupted, chosen_sweep
from facerec.tuning.sweep import Sweep
from tests.tuning.conftest import small_base

LOSSES = ("softmax", "normface", "cosface")


class Runs:
    """Stands in for `runner.run`: writes what a sweep leaves, with scores made up."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.refused: dict[str, type[BaseException]] = {}

    def __call__(self, sweep: Sweep, **given: Any) -> None:
        self.names.append(sweep.name)
        if sweep.name in self.refused:
            raise self.refused[sweep.name]("broken")
        storage, resume = given["storage"], given.pop("resume")
        sweep = chosen_sweep(sweep, Options(**given))
        path = storage / sweep.name
        assert path.exists() == resume
        path.mkdir(exist_ok=True)
        begun = folder.record(sweep, sampler="tpe", overrides={}, smoke=False, commit="")
        folder.write(path, begun)
        rows = []
        for number in range(sweep.trials):
            point: Mapping[str, Any] = dict.fromkeys(sweep.space, 30.0 + number)
            if number < len(sweep.points):
                point = sweep.points[number]
            run = path / results.run_folder(number)
            run.mkdir(parents=True, exist_ok=True)
            configs.save(override(sweep.base, point), run / "config.json")
            row = {"number": number, "status": "completed", "reason": "", "error": ""}
            score = number / 10 + (0.5 if sweep.name.startswith("cosface") else 0.0)
            row |= {"metrics": {"val.tar": score, "epoch": 2, "seconds": 1.0}}
            rows.append(row | {"setting": point, "commit": ""})
        table = results.trials_table(rows, metric="val.tar", keys=list(sweep.space), seed=1)
        results.write(path, "trials", table)
        results.write(path, "history", results.history_table({}))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    monkeypatch.setattr(equal_budget, "run", found)
    monkeypatch.setattr(compare_report, "write", lambda folder: None)  # test_compare draws
    return found


@pytest.fixture
def comparison(toy_shards: Path) -> Comparison:
    base = small_base(toy_shards)
    configs = {loss: compare.recipe(base, loss) for loss in LOSSES}
    return Comparison("compared", configs, trials=2)


def test_finished_losses_do_not_run_again_and_new_ones_join_the_table(
    comparison: Comparison, runs: Runs, tmp_path: Path
) -> None:
    first = compare_losses(comparison, Options(storage=tmp_path, losses=("softmax", "normface")))
    # Softmax has nothing to search.
    assert runs.names == ["softmax_seeds", "normface", "normface_seeds"]
    assert set(first["loss"]) == {"softmax", "normface"}
    best = first[(first["loss"] == "normface") & (first["setting"] == "best")].iloc[0]
    assert best["values"] == "scale=16"  # trial 1, the better of the two
    runs.names.clear()
    again = compare_losses(comparison, Options(storage=tmp_path, resume=True))
    assert runs.names == ["cosface", "cosface_seeds"]
    assert set(again["loss"]) == set(LOSSES)
    assert again["loss"].iloc[0] == "cosface"
    runs.names.clear()
    compare_losses(comparison, Options(storage=tmp_path, resume=True))
    assert runs.names == []
    stored = pd.read_parquet(tmp_path / "compared" / "comparison.parquet")
    pd.testing.assert_frame_equal(stored, again)


def test_more_trials_go_on_and_measure_the_new_best(
    comparison: Comparison, runs: Runs, tmp_path: Path
) -> None:
    compare_losses(comparison, Options(storage=tmp_path, losses=("normface",)))
    runs.names.clear()
    given = Options(storage=tmp_path, losses=("normface",), resume=True, trials=4)
    found = compare_losses(comparison, given)
    assert runs.names == ["normface", "normface_seeds"]
    assert found.loc[found["setting"] == "best", "values"].tolist() == ["scale=33"]
    points = folder.read(tmp_path / "compared" / "normface_seeds")["points"]
    assert [point["loss.scale"] for point in points] == [30.0] * 3 + [16.0] * 3 + [33.0] * 3


def test_a_comparison_without_resume_has_a_folder_of_its_own(
    comparison: Comparison, runs: Runs, tmp_path: Path
) -> None:
    for name in ("compared", "compared-2"):
        compare_losses(comparison, Options(storage=tmp_path, losses=("softmax",)))
        assert (tmp_path / name / "comparison.csv").exists()


def test_other_budgets_are_refused_before_anything_runs(
    comparison: Comparison, runs: Runs, tmp_path: Path
) -> None:
    compare_losses(comparison, Options(storage=tmp_path, losses=("softmax",)))
    runs.names.clear()
    given = Options(storage=tmp_path, resume=True, overrides={"epochs": 3})
    with pytest.raises(ConfigError, match=r"epochs = 3\.0 for softmax: .* softmax has 2\.0"):
        compare_losses(comparison, given)
    with pytest.raises(ConfigError, match=r"seed: .* 2, 3, 4"):
        compare_losses(comparison, Options(storage=tmp_path, overrides={"seed": 7}))
    with pytest.raises(ConfigError, match=r"cosfase.*Did you mean cosface"):
        compare_losses(comparison, Options(storage=tmp_path, losses=("cosfase",)))
    with pytest.raises(ConfigError, match="nothing to resume"):
        compare_losses(comparison, Options(storage=tmp_path / "none", resume=True))
    assert runs.names == []


def test_a_loss_that_cannot_be_run_does_not_hold_up_the_others(
    comparison: Comparison, runs: Runs, tmp_path: Path
) -> None:
    runs.refused = {"normface": ConfigError}
    with pytest.raises(ConfigError, match="normface: broken"):
        compare_losses(comparison, Options(storage=tmp_path))
    stored = pd.read_parquet(tmp_path / "compared" / "comparison.parquet")
    assert set(stored["loss"]) == {"softmax", "cosface"}


def test_an_interruption_keeps_what_is_finished(
    comparison: Comparison, runs: Runs, tmp_path: Path
) -> None:
    runs.refused = {"normface_seeds": KeyboardInterrupt}
    with pytest.raises(Interrupted):
        compare_losses(comparison, Options(storage=tmp_path))
    runs.names.clear()
    runs.refused = {}
    found = compare_losses(comparison, Options(storage=tmp_path, resume=True))
    assert runs.names == ["normface_seeds", "cosface", "cosface_seeds"]
    assert set(found["loss"]) == set(LOSSES)


def test_a_fixed_key_is_fixed_for_every_loss(
    comparison: Comparison, runs: Runs, tmp_path: Path
) -> None:
    overrides = {"loss.scale": 32.0}
    given = Options(storage=tmp_path, losses=("normface", "cosface"), overrides=dict(overrides))
    found = compare_losses(comparison, given)
    assert runs.names == ["normface_seeds", "cosface", "cosface_seeds"]
    assert found.loc[found["loss"] == "normface", "values"].tolist() == ["", ""]
    seeds = pd.read_parquet(tmp_path / "compared" / "seeds.parquet")
    run = seeds.loc[seeds["loss"] == "cosface", "run"].iloc[0]
    assert configs.load(tmp_path / "compared" / run / "config.json").loss.args["scale"] == 32.0


def test_the_command_line_names_losses() -> None:
    assert options.read("all", ["--losses", "a,b"], losses=True).losses == ("a", "b")
    assert options.read("all", [], losses=True).losses == ()
    with pytest.raises(ConfigError, match="no such option"):
        options.read("all", ["--losses", "a"])


def test_smoke_compares_two_losses(comparison: Comparison) -> None:
    given = Options(smoke=True)
    assert equal_budget._losses(comparison, given) == ["softmax", "normface"]
    assert len(compare.SEEDS) == 3
