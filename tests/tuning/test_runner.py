"""A whole sweep on a Ray of its own; and what is refused before any Ray starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray

from facerec import checkpoint
from facerec.config import ConfigError
from facerec.data.shards import Shards
from facerec.evaluation import protocols
from facerec.tuning import cluster, folder, options, results, runner
from facerec.tuning.options import Options
from tests.conftest import write_toy_shards
from tests.tuning.conftest import PAPER, small_base, small_sweep


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("loss.margn=0.4", ["loss.margn", "margin"]),
        ("optimizer.lr=fast", ["optimizer.lr", "'fast'", "number"]),
        ("loss.margin=1.9", ["loss.margin = 1.9", "1"]),
        ("loss.margin=0.4 loss.scale=32", ["loss.margin, loss.scale", "facerec train"]),
        ("epochs=0", ["epochs = 0"]),
        ("epochs", ["'epochs'", "key=value"]),
        ("epochs=2 epochs=3", ["epochs", "twice"]),
        ("--trials 0", ["--trials 0", "1 or more"]),
        ("--trials many", ["--trials many", "whole number"]),
        ("--workers 0", ["--workers 0", "1 or more"]),
        ("--confirm -1", ["--confirm -1", "0 or more"]),
        ("--seeds 0", ["--seeds 0", "1 or more"]),
        ("--seeds 2000", ["seeds = 2000", "1000 or fewer"]),
        ("--gpus-per-worker 1.5", ["--gpus-per-worker 1.5", "whole number"]),
        ("--gpus-per-worker many", ["--gpus-per-worker many", "a number"]),
        ("--trials-per-gpu 0", ["--trials-per-gpu 0", "1 or more"]),
        ("--trials-per-gpu 2 --gpus-per-worker 1", ["not allowed with"]),
        ("--warm-start {tmp}/none", ["{tmp}/none", "not a sweep's folder"]),
        ("--warm-start {tmp} --sampler random", ["--warm-start", "learns from no trial"]),
        ("--tirals 8", ["--tirals", "Did you mean --trials?"]),
        ("--sampler tep", ["--sampler tep", "Did you mean tpe?"]),
        ("--resume", ["--resume", "nothing to resume"]),
        ("data.train={tmp}/none", ["{tmp}/none", "no such folder"]),
        ("data.train={tmp}/half", ["{tmp}/half", "half-written"]),
        ("data.train={tmp}/no_val", ["{tmp}/no_val", "no val split", "--val-identities"]),
        ("data.train={tmp}/few", ["{tmp}/few", "needs 10,000", "19 identities"]),
        ("data.eval={tmp}/none", ["{tmp}/none", "no such folder"]),
        ("data.eval={tmp}/file", ["{tmp}/file"]),
        ("--storage {tmp}/file/results", ["{tmp}/file", "cannot be written"]),
        ("--storage /proc/results", ["/proc/results", "cannot be written"]),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(
    words: str,
    told: list[str],
    tmp_path: Path,
    toy_shards: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("no set")
    (tmp_path / "half").mkdir()
    write_toy_shards(tmp_path / "no_val", identities=2, images=2, val=0)
    write_toy_shards(tmp_path / "few", identities=2, images=2, val=3)
    sweep = small_sweep(small_base(toy_shards))
    storage = tmp_path / "results"
    argv = [word.format(tmp=tmp_path) for word in words.split()]
    if "--storage" not in argv:
        argv = ["--storage", str(storage), *argv]
    with pytest.raises(SystemExit) as ended:
        runner.main(sweep, argv)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    for word in told:
        assert word.format(tmp=tmp_path) in printed.err
    assert not storage.exists()
    assert not ray.is_initialized()


def test_a_searched_key_on_the_command_line_is_fixed_and_no_longer_searched(
    toy_shards: Path,
) -> None:
    sweep = small_sweep(small_base(toy_shards))
    fixed = runner.chosen_sweep(sweep, Options(overrides={"loss.scale": "32"}))
    assert list(fixed.space) == ["loss.margin"]
    assert fixed.points == ({"loss.margin": 0.4},)
    assert fixed.config(fixed.points[0]).loss.args == {"margin": 0.4, "scale": 32.0}


def test_how_much_is_confirmed(toy_shards: Path) -> None:
    sweep = small_sweep(small_base(toy_shards), confirm=3, seeds=3)

    def wanted(**options: Any) -> tuple[int, int]:
        chosen = runner.chosen_sweep(sweep, Options(**options))
        return chosen.confirm, chosen.seeds

    assert wanted() == (3, 3)
    assert wanted(confirm=0) == (0, 3)
    assert wanted(confirm=5, seeds=8) == (5, 8)
    data = {"data.train": str(toy_shards)}
    assert wanted(smoke=True, overrides=data) == (1, 1)
    assert wanted(smoke=True, overrides=data, seeds=2) == (1, 2)


@pytest.mark.parametrize(
    ("words", "share"),
    [([], 1.0), (["--trials-per-gpu", "4"], 0.25), (["--gpus-per-worker", "2"], 2.0)],
)
def test_accelerators_are_shared_as_either_option_says(words: list[str], share: float) -> None:
    assert options.read("small", words).gpus_per_worker == share


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, toy_shards: Path, toy_pairs: Path) -> Path:
    """A sweep of two trials of two epochs, run once; gives its folder."""
    storage = tmp_path_factory.mktemp("storage")
    sweep = small_sweep(small_base(toy_shards))
    overrides: dict[str, Any] = {"data.eval": str(toy_pairs)}
    found = runner.run(sweep, trials=2, storage=storage, overrides=overrides)
    assert not ray.is_initialized()
    pd.testing.assert_frame_equal(found.trials, results.load(storage / "small").trials)
    return storage / "small"


def test_a_sweep_leaves_what_it_promises(swept: Path) -> None:
    names = {path.name for path in swept.iterdir()}
    assert names >= {
        *("trials.parquet", "trials.csv", "history.parquet", "history.csv", "sweep.json"),
        *("small.journal", "checkpoints", "best", "trials.png"),
    }
    found = results.load(swept)
    assert found.trials["status"].tolist() == ["completed"] * 2
    assert sorted(found.trials["rank"]) == [1, 2]
    assert found.trials[list(PAPER)].iloc[0].to_dict() == PAPER
    assert found.history[["trial", "epoch"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    last = found.history[found.history["epoch"] == 2].reset_index()
    for column in ("val.tar", "pairs.accuracy"):
        assert found.trials[column].tolist() == last[column].tolist()


def test_the_best_model_measures_what_its_row_says(swept: Path, toy_pairs: Path) -> None:
    trials = results.load(swept).trials
    best = trials[trials["rank"] == 1].iloc[0]
    for run in (swept / "best", swept / best["run"]):
        saved, backbone = checkpoint.load_backbone(run)
        assert saved.loss.args["margin"] == best["loss.margin"]
        metrics: dict[str, float] = {}
        shards = Shards(Path(saved.data.train))
        for item in protocols.open_sets(shards, [toy_pairs], backbone):
            metrics |= item.measure(backbone).metrics
        assert metrics["val.tar"] == best["val.tar"]
        assert metrics["pairs.accuracy"] == best["pairs.accuracy"]


def test_a_finished_sweep_has_nothing_to_resume_but_more_trials(
    swept: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {
        path.name: path.stat().st_mtime_ns for path in (swept / "checkpoints").rglob("*.json")
    }
    monkeypatch.setattr(cluster, "running", lambda *args, **options: pytest.fail("a Ray"))
    found = runner.run(small_sweep(small_base(toy_shards)), resume=True, storage=swept.parent)
    assert len(found.trials) == 2
    after = {path.name: path.stat().st_mtime_ns for path in (swept / "checkpoints").rglob("*.json")}
    assert after == before


def test_another_sweep_is_not_resumed(swept: Path, toy_shards: Path) -> None:
    kept = (swept / folder.RECORD).read_text()
    other = small_sweep(small_base(toy_shards), early_stop=True)
    with pytest.raises(ConfigError, match="early_stop"):
        runner.run(other, resume=True, storage=swept.parent)
    with pytest.raises(ConfigError, match=r"optimizer\.lr = 0\.3: .*begun with 0\.05"):
        runner.run(
            small_sweep(small_base(toy_shards)),
            resume=True,
            storage=swept.parent,
            overrides={"optimizer.lr": 0.3},
        )
    assert (swept / folder.RECORD).read_text() == kept
    assert json.loads(kept)["trials"] == 2
