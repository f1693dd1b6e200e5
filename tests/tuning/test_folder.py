"""A sweep's folder: names, owners, and what a resumed sweep may differ in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facerec.config import ConfigError, override
from facerec.domains import Choice, LogUniform, Uniform
from facerec.tuning import folder, results
from facerec.tuning.sweep import Sweep
from tests.tuning.conftest import small_base, small_sweep
from tests.tuning.test_results import row


def record(sweep: Sweep, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"sampler": "tpe", "overrides": {}, "smoke": False, "commit": "abc"}
    found = folder.record(sweep, **values | changes)
    return dict(json.loads(json.dumps(found)))  # as it comes back from the disk


def begin(storage: Path, sweep: Sweep, finished: int = 0) -> Path:
    path = folder.create(storage, sweep.name)
    folder.write(path, record(sweep))
    rows = [row(i, "completed" if i < finished else "running", 0.5) for i in range(sweep.trials)]
    results.write(path, "trials", results.trials_table(rows, metric="m", keys=[], seed=1))
    results.write(path, "history", results.history_table({}))
    return path


def test_a_second_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    names = [folder.create(tmp_path / "new" / "deep", "small").name for _ in range(3)]
    assert names == ["small", "small-2", "small-3"]


def test_the_newest_unfinished_run_is_resumed(tmp_path: Path, toy_shards: Path) -> None:
    sweep = small_sweep(small_base(toy_shards))
    for name in ("small_other", "small-x", "small-2-3"):
        begin(tmp_path, small_sweep(small_base(toy_shards), name=name))
    with pytest.raises(ConfigError, match=r"nothing to resume.*small-2-3, small-x, small_other"):
        folder.resumable(tmp_path, "small")
    first = begin(tmp_path, sweep, finished=1)
    assert folder.resumable(tmp_path, "small") == first
    second = begin(tmp_path, sweep, finished=4)
    assert folder.resumable(tmp_path, "small") == first
    third = begin(tmp_path, sweep)
    assert folder.resumable(tmp_path, "small") == third
    assert folder.finished(second) == 4


def test_a_sweep_is_unfinished_until_its_verdict_is_given(tmp_path: Path, toy_shards: Path) -> None:
    sweep = small_sweep(small_base(toy_shards), confirm=2, seeds=3)
    first = begin(tmp_path, sweep, finished=4)
    begin(tmp_path, small_sweep(small_base(toy_shards)), finished=4)  # nothing is confirmed there
    assert folder.resumable(tmp_path, "small") == first
    for seeds, judged in ((2, False), (3, True)):
        verdict = {"trials": 4, "confirm": 2, "seeds": seeds}
        (first / results.VERDICT).write_text(json.dumps(verdict))
        assert folder.judged(first, folder.read(first)) is judged
    assert folder.resumable(tmp_path, "small").name == "small-2"  # all are finished: the newest


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_storage_without_rights_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="no right to write"):
        folder.check_storage(tmp_path / "results")


def test_a_storage_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for check in (folder.check_storage, lambda storage: folder.create(storage, "small")):
        with pytest.raises(ConfigError, match=r"--storage .*file/results: cannot be written"):
            check(tmp_path / "file" / "results")


def test_a_folder_has_one_owner_and_the_kernel_frees_it(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, time\n"
        "from facerec.tuning import folder\n"
        "with folder.owned(pathlib.Path(sys.argv[1])):\n"
        "    print('owned', flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "owned\n"
        with pytest.raises(ConfigError, match=f"process {other.pid}"), folder.owned(tmp_path):
            pass
        other.kill()
    with folder.owned(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_record_comes_back(tmp_path: Path, toy_shards: Path) -> None:
    found = record(small_sweep(small_base(toy_shards)))
    folder.write(tmp_path, found)
    assert folder.read(tmp_path) == found
    folder.check_same(found, found, tmp_path)
    for damaged in ("", "[]", "{}", '{"version": 9}'):
        (tmp_path / folder.RECORD).write_text(damaged)
        with pytest.raises(ConfigError):
            folder.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer.lr": 0.07}, ["optimizer.lr = 0.07", "give optimizer.lr=0.05"]),
        ({"epochs": 3}, ["epochs = 3", "epochs=2"]),
        ({"loss.name": "arcface"}, ["loss.name = arcface", "cosface"]),
        ({"seed": 2}, ["seed = 2"]),
    ],
)
def test_another_base_is_refused(
    changes: dict[str, Any], words: list[str], tmp_path: Path, toy_shards: Path
) -> None:
    base = small_base(toy_shards)
    before, now = record(small_sweep(base)), record(small_sweep(override(base, changes)))
    with pytest.raises(ConfigError) as caught:
        folder.check_same(before, now, tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_data_may_move_but_not_change(tmp_path: Path, toy_shards: Path, toy_pairs: Path) -> None:
    before = record(small_sweep(small_base(toy_shards)))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in toy_shards.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    folder.check_same(before, record(small_sweep(small_base(moved))), tmp_path)
    (moved / "index.json").write_text((moved / "index.json").read_text() + " ")
    with pytest.raises(ConfigError, match=r"data\.train = .*elsewhere: holds other images"):
        folder.check_same(before, record(small_sweep(small_base(moved))), tmp_path)
    more = override(small_base(toy_shards), {"data.eval": str(toy_pairs)})
    with pytest.raises(ConfigError, match=r"data\.eval"):
        folder.check_same(before, record(small_sweep(more)), tmp_path)


@pytest.mark.parametrize(
    ("space", "refused"),
    [
        ({"loss.margin": Uniform(0.0, 0.9)}, ""),
        ({"loss.margin": Uniform(0.2, 0.9)}, "does not hold all of"),
        ({"loss.margin": LogUniform(0.01, 0.9)}, "does not hold all of"),
        ({"loss.scale": LogUniform(8, 128)}, ""),
        ({"optimizer.schedule": Choice(("step", "poly", "cosine"))}, ""),
        ({"optimizer.schedule": Choice(("step", "cosine"))}, "does not hold all of"),
        ({"optimizer.lr": LogUniform(0.01, 0.1)}, "optimizer.lr is new"),
    ],
)
def test_a_space_may_only_widen(space: Any, refused: str, tmp_path: Path, toy_shards: Path) -> None:
    base = small_base(toy_shards)
    old: dict[str, Any] = {
        "loss.margin": Uniform(0.0, 0.7),
        "loss.scale": LogUniform(16, 96),
        "optimizer.schedule": Choice(("step", "poly")),
    }
    before = record(small_sweep(base, space=old, points=()))
    now = record(small_sweep(base, space=old | space, points=()))
    if refused:
        with pytest.raises(ConfigError, match=refused):
            folder.check_same(before, now, tmp_path)
    else:
        folder.check_same(before, now, tmp_path)
