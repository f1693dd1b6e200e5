"""Synthetic shards are drawn once, by one sweep, whoever else starts; bad data is refused early."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from facerec.config import Component, ConfigError, override
from facerec.data.shards import DataError
from facerec.presets import laptop
from facerec.tuning import data
from tests.conftest import write_toy_shards
from tests.tuning.conftest import small_base


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that data_prep would have got; a slow stand-in writes the index."""
    commands: list[list[str]] = []

    def stand_in(command: list[str], check: bool) -> Any:
        commands.append(command)
        folder = Path(command[4])
        folder.mkdir()
        time.sleep(0.3)
        (folder / "index.json").write_text("{}")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", stand_in)
    return commands


def test_shards_are_drawn_once_though_sweeps_start_at_once(drawn: list[list[str]]) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(data.synthetic(data.SMOKE))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 1
    assert len(set(found)) == 1
    assert drawn[0][1:4] == ["-m", "data_prep", "synthetic"]
    assert f"--identities={data.SMOKE['identities']}" in drawn[0]


def test_other_parameters_are_another_folder(drawn: list[list[str]], tmp_path: Path) -> None:
    base = laptop(Component("cosface"))
    small = data.with_data(base, smoke=True).data.train
    large = data.with_data(base).data.train
    assert small != large
    assert f"identities{data.DEMO['identities']}" in large
    assert Path(large).parent == tmp_path / "cache" / "facerec"


def test_a_drawing_that_fails_is_said(
    drawn: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: Any = subprocess.CompletedProcess([""], 1)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(DataError, match=r"ended with status 1; give data\.train"):
        data.synthetic(data.SMOKE)


def test_folders_become_absolute(
    toy_shards: Path, toy_pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_shards.parent)
    changes = {"data.train": toy_shards.name, "data.eval": str(toy_pairs) + "," + toy_shards.name}
    found = data.with_data(override(small_base(toy_shards), changes)).data
    assert found.train == str(toy_shards)
    assert found.eval_sets == (toy_pairs, toy_shards)


def test_good_data_is_described(toy_shards: Path, toy_pairs: Path) -> None:
    base = override(small_base(toy_shards), {"data.eval": str(toy_pairs)})
    described = data.check(base, "pairs.accuracy")
    for word in (str(toy_shards), "120 images of 12 identities", "val 200 images", "pairs"):
        assert word in described


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("pears.accuracy", ["pears.accuracy", "did you mean pairs"]),
        ("loss", ["metric = loss", "val, pairs"]),
    ],
)
def test_a_metric_of_no_set_is_refused(
    metric: str, words: list[str], toy_shards: Path, toy_pairs: Path
) -> None:
    base = override(small_base(toy_shards), {"data.eval": str(toy_pairs)})
    with pytest.raises(ConfigError) as caught:
        data.check(base, metric)
    for word in words:
        assert word in str(caught.value)


def test_unsuitable_data_is_refused(tmp_path: Path, toy_shards: Path) -> None:
    base = small_base(toy_shards)
    missing = override(base, {"data.train": str(tmp_path / "none")})
    with pytest.raises(DataError, match="no such folder"):
        data.check(missing, "val.tar")
    with pytest.raises(DataError, match="no such folder"):
        data.check(override(base, {"data.eval": str(tmp_path / "none")}), "val.tar")
    tiny = write_toy_shards(tmp_path / "tiny", identities=2, images=2, val=2, side=32)
    with pytest.raises(DataError, match="32"):
        data.check(small_base(tiny), "val.tar")
    without = write_toy_shards(tmp_path / "without", identities=2, images=2, val=0)
    with pytest.raises(DataError, match="no val split"):
        data.check(small_base(without), "val.tar")
    half = write_toy_shards(tmp_path / "half", identities=2, images=2, val=2)
    index = json.loads((half / "index.json").read_text())
    (half / index["shards"][0]["file"]).unlink()
    with pytest.raises(DataError, match="missing"):
        data.check(small_base(half), "val.tar")
    (half / "index.json").unlink()
    with pytest.raises(DataError, match="half-written"):
        data.check(small_base(half), "val.tar")
