"""Processes that are killed with SIGKILL, and go on as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facerec import checkpoint, history
from facerec import checkpoint_files as files
from facerec.train import train
from tests.stop_worker import CHANGES
from tests.test_train import assert_same_weights, silent, toy_config, without_clock

ROOT = Path(__file__).parent.parent
LOSS = "uniface_bce"


def start(
    shards: Path, *runs: Path, when: str = "none", workers: int = 1
) -> list[subprocess.Popen[str]]:
    store = runs[0].with_name(f"store-{time.monotonic_ns()}")
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.stop_worker", shards, LOSS, when, *runs],
            cwd=ROOT,
            env={
                **os.environ,
                **{"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(workers)},
                "STORE": str(store),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(workers)
    ]


def end(*running: subprocess.Popen[str]) -> list[int]:
    try:
        for process in running:
            process.communicate(timeout=120)
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running]


def kill_at(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Kills it a while after it has saved a step."""
    while (newest := checkpoint.latest(run)) is None or int(newest.name) < step:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    time.sleep(random.random() * 0.1)
    process.kill()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_bit(toy_shards: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(toy_config(toy_shards, loss__name=LOSS, **CHANGES), run=whole, report=silent)
    at = random.randint(1, 4)
    (killed,) = start(toy_shards, cut)
    kill_at(killed, cut, at)
    assert end(killed) == [-signal.SIGKILL]
    for when in ("write:8", "rename:12"):
        assert end(*start(toy_shards, cut, when=when)) == [-signal.SIGKILL], (at, when)
    assert end(*start(toy_shards, cut)) == [0], at
    assert_same_weights(whole, cut)
    assert without_clock(history.read(whole)) == without_clock(history.read(cut))
    assert os.listdir(cut / "checkpoints") == ["00000018"]


@pytest.mark.slow
def test_two_workers_go_on_to_the_bit_after_one_is_killed(toy_shards: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    first, second = start(toy_shards, cut, workers=2)
    kill_at(second, cut, random.randint(1, 14))
    codes = end(first, second)  # the first one does not wait for ever
    assert codes[0] != 0
    assert codes[1] == -signal.SIGKILL
    assert end(*start(toy_shards, cut, whole, workers=2)) == [0, 0]
    assert files.read_state(checkpoint.find(cut)).pieces == ((0, 6), (6, 12))
    assert_same_weights(whole, cut)
    assert without_clock(history.read(whole)) == without_clock(history.read(cut))
