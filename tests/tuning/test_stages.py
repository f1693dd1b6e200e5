"""Search, confirmation and verdict of a real sweep: killed on the way, resumed, extended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import ray

from facerec import config
from facerec.config import ConfigError
from facerec.tuning import cluster, results, runner, waiting
from facerec.tuning.watch import Board
from tests.tuning.conftest import small_base, small_sweep
from tests.tuning.test_survival import Sweeping, assert_gone, script

__all__ = ["script"]  # the fixture

pytestmark = pytest.mark.slow


def confirmed(sweep: Path) -> pd.DataFrame:
    try:
        return results.load(sweep).confirm
    except config.ConfigError:
        return pd.DataFrame()


def saved(sweep: Path) -> dict[str, int]:
    """When each confirmed training's newest checkpoint was written."""
    files = (sweep / results.CONFIRM_RUNS).glob("*/checkpoints/[0-9]*/state.json")
    return {file.parts[-4]: file.stat().st_mtime_ns for file in files}


def test_a_killed_confirmation_goes_on_and_takes_more_seeds(
    tmp_path: Path, script: Callable[..., list[str]]
) -> None:
    changes = "trials=2, confirm=1, seeds=2"
    command = [*script(changes, 10), "--sampler", "random"]
    sweep, log = tmp_path / "results" / "small", tmp_path / "log"
    killed = Sweeping(command, log)

    def half_way() -> bool:
        table = confirmed(sweep)
        return len(table) > 2 and "completed" in set(table["status"]) and len(saved(sweep)) > 2

    killed.wait_until(half_way, 300)
    family = killed.family()
    killed.process.kill()
    killed.end()
    before, written = confirmed(sweep), saved(sweep)
    done = before[before["status"] == "completed"]
    assert len(done) < 4
    searched = (sweep / "trials.csv").read_text()
    journal = sweep / results.CONFIRM_RUNS / "confirm.journal"
    journal.open("a").write('{"op_code":5,"worker_id":"')  # torn

    resumed = Sweeping([*command, "--resume", "--seeds", "3"], log)
    assert resumed.end(300) == 0, log.read_text()
    assert log.read_text().count("asks for a token") == 1
    found = results.load(sweep)
    assert (sweep / "trials.csv").read_text() == searched  # the search's alone
    table = found.confirm
    assert table["trial"].tolist() == list(range(6))
    assert table["setting"].tolist() == ["defaults", "1"] * 3
    assert table["seed"].tolist() == [2, 2, 3, 3, 4, 4]
    assert table["status"].tolist() == ["completed"] * 6
    columns = [name for name in done if name != "rank"]
    again = table[table["trial"].isin(done["trial"])][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, done[columns].reset_index(drop=True))
    for number in done["trial"]:  # nothing finished ran again
        assert saved(sweep)[str(number)] == written[str(number)]
    for setting, own in table.groupby("setting"):
        tried = found.trials[found.trials["trial"] == own["repeats"].iloc[0]].iloc[0]
        for key in ("loss.margin", "loss.scale"):
            assert set(own[key]) == {tried[key]}, setting

    verdict = found.verdict
    assert (verdict["trials"], verdict["confirm"], verdict["seeds"]) == (2, 1, 3)
    assert verdict["split"] == "val"  # these shards have no confirm
    assert "which the search saw" in verdict["sentence"]
    assert verdict["sentence"] in log.read_text()
    best = config.load(sweep / "best" / "config.json")
    winner = table[table["run"] == verdict["best"]].iloc[0]
    assert best == config.load(sweep / verdict["best"] / "config.json")
    own = table[table["setting"] == verdict["winner"]]
    assert winner["val.tar"] == own["val.tar"].median()
    assert (own["rank"] == 1).all()
    assert best.seed == winner["seed"]
    assert_gone(family, 120)

    written = saved(sweep)
    finished = Sweeping([*command, "--resume"], log)
    assert finished.end() == 0, log.read_text()
    assert "asks for a token" not in log.read_text()
    assert saved(sweep) == written
    pd.testing.assert_frame_equal(results.load(sweep).confirm, table)


def test_a_sweep_that_gets_no_room_ends_and_says_what_it_waits_for(
    tmp_path: Path,
    toy_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 2.0)
    sweep = small_sweep(small_base(toy_shards), trials=2)
    with cluster.lasting(), cluster.running() as up:
        cores = sum(up.cpus)
        holder = ray.remote(num_cpus=cores)(Board).remote()
        ray.get(holder.tell.remote("", "", False))
        with pytest.raises(ConfigError, match=rf"cannot start: .* free are 0 of {cores:g} CPU"):
            runner.run(sweep, storage=tmp_path, sampler="random")
        assert "has waited" in capsys.readouterr().out
        ray.kill(holder)
        deadline = time.monotonic() + 30
        while ray.available_resources().get("CPU", 0) < cores:
            assert time.monotonic() < deadline, ray.util.placement_group_table()
            time.sleep(0.2)
        assert not list(tmp_path.iterdir())  # nothing had begun
        found = runner.run(sweep, storage=tmp_path, sampler="random")
    assert found.trials["status"].tolist() == ["completed"] * 2


def test_a_sweep_begins_with_an_earlier_one(
    tmp_path: Path, toy_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = small_sweep(small_base(toy_shards), trials=2)
    earlier = runner.run(sweep, storage=tmp_path / "first")
    folder = tmp_path / "first" / "small"
    capsys.readouterr()
    second = runner.run(sweep, storage=tmp_path / "second", warm_start=[folder])
    assert f"warm start {folder}: 2 trials taken, 0 left out" in capsys.readouterr().out
    assert second.trials["trial"].tolist() == [0, 1]
    assert second.trials["loss.margin"][0] == earlier.trials["loss.margin"][0]  # the paper's
    assert second.trials["loss.margin"][1] != earlier.trials["loss.margin"][1]
