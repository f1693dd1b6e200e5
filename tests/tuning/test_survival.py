"""Sweeps as processes: killed, interrupted, robbed of a trial, and run with several workers."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from facerec import config
from facerec.train import train
from facerec.tuning import results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = """
from pathlib import Path
from facerec.config import override
from facerec.domains import LogUniform
from facerec.tuning.runner import main
from tests.tuning.conftest import small_base, small_sweep

base = override(small_base(Path({shards!r})), {{"epochs": {epochs}}})
if __name__ == "__main__":
    main(small_sweep(base, {changes}))
"""


class Sweeping:
    """A sweep's script in a process group of its own, as a terminal would have it."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as sink:
            self.process = subprocess.Popen(
                command,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )

    def wait_until(self, happened: Callable[[], bool], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def end(self, seconds: float = 200) -> int:
        return self.process.wait(seconds)

    def family(self) -> dict[int, str]:
        """The living processes that came from this one: pid -> command line."""
        found: dict[int, str] = {}
        parents: dict[int, list[int]] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                parents.setdefault(parent, []).append(int(folder.name))
        front = [self.process.pid]
        while front:
            for pid in parents.get(front.pop(), []):
                front.append(pid)
                found[pid] = command_line(pid)
        return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def assert_gone(family: dict[int, str], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while left := {pid: line for pid, line in family.items() if line and command_line(pid) == line}:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.2)


@pytest.fixture
def script(tmp_path: Path, toy_shards: Path) -> Callable[..., list[str]]:
    def write(changes: str, epochs: int) -> list[str]:
        path = tmp_path / "sweep.py"
        path.write_text(SCRIPT.format(shards=str(toy_shards), epochs=epochs, changes=changes))
        return [sys.executable, str(path)]

    return write


def statuses(sweep: Path) -> list[str]:
    try:
        return list(results.load(sweep).trials["status"])
    except config.ConfigError:
        return []


def saved(sweep: Path) -> dict[int, int]:
    """When each trial's newest checkpoint was written."""
    files = (sweep / "checkpoints").glob("*/checkpoints/[0-9]*/state.json")
    return {int(file.parts[-4]): file.stat().st_mtime_ns for file in files}


def test_a_killed_sweep_goes_on_where_it_was(
    tmp_path: Path, script: Callable[..., list[str]]
) -> None:
    command = [*script("trials=6, early_stop=False", 12), "--sampler", "random"]
    sweep, log = tmp_path / "results" / "small", tmp_path / "log"
    killed = Sweeping(command, log)

    def half_way() -> bool:
        running = [i for i, status in enumerate(statuses(sweep)) if status == "running"]
        return statuses(sweep).count("completed") >= 2 and any(i in saved(sweep) for i in running)

    killed.wait_until(half_way)
    family = killed.family()
    assert any("raylet" in line for line in family.values())
    killed.process.kill()
    killed.end()

    before = results.load(sweep).trials
    done = before[before["status"] == "completed"]
    written = saved(sweep)
    (sweep / "small.journal").open("a").write('{"op_code":5,"worker_id":"')  # torn
    (sweep / "small.journal.lock").symlink_to("small.journal")
    shutil.rmtree(sweep / "ray")
    resumed = Sweeping([*command, "--resume"], log)
    assert resumed.end() == 0, log.read_text()

    trials = results.load(sweep).trials
    assert trials["trial"].tolist() == list(range(6))
    assert trials["status"].tolist() == ["completed"] * 6
    again = trials[trials["trial"].isin(done["trial"])]
    columns = [name for name in trials if name != "rank"]
    pd.testing.assert_frame_equal(again[columns], done[columns])
    for number in done["trial"]:  # nothing finished ran again
        assert saved(sweep)[number] == written[number]
    assert results.load(sweep).history.groupby("trial").size().tolist() == [12] * 6

    # A trial that was interrupted scores what it scores undisturbed.
    number = before.loc[before["status"] == "running", "trial"].iloc[0]
    row = trials[trials["trial"] == number].iloc[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    metrics = train(config.load(sweep / row["run"] / "config.json"), report=lambda *_: None)
    torch.set_num_threads(threads)
    assert metrics["val.tar"] == row["val.tar"]
    assert_gone(family, 120)  # Ray's own agents look for their parent at their leisure


def test_ctrl_c_is_tidy_and_a_lost_trial_runs_again(
    tmp_path: Path, script: Callable[..., list[str]]
) -> None:
    command = [*script("trials=3, early_stop=False", 40), "--sampler", "random"]
    sweep, log = tmp_path / "results" / "small", tmp_path / "log"
    stopped = Sweeping(command, log)
    stopped.wait_until(lambda: 0 in saved(sweep))
    family = stopped.family()
    os.killpg(stopped.process.pid, signal.SIGINT)  # as a terminal sends it: to all of them
    assert stopped.end(30) == 130, log.read_text()
    assert_gone(family)
    assert "Traceback" not in log.read_text()
    assert set(statuses(sweep)) == {"running"}
    again = shlex.split(log.read_text().strip().splitlines()[-1])
    assert again[-1] == "--resume"

    resumed = Sweeping(again, log)
    first = saved(sweep)
    resumed.wait_until(lambda: saved(sweep).get(0, 0) > first[0])
    trial = next(pid for pid, line in resumed.family().items() if "ImplicitFunc" in line)
    os.kill(trial, signal.SIGKILL)
    assert resumed.end() == 0, log.read_text()
    assert "met an accident, runs again" in log.read_text()
    trials = results.load(sweep).trials
    assert trials["status"].tolist() == ["completed"] * 3
    assert trials["trial"].tolist() == [0, 1, 2]
    assert results.load(sweep).history.groupby("trial").size().tolist() == [40] * 3


def test_two_workers_go_through_ray_train(tmp_path: Path, script: Callable[..., list[str]]) -> None:
    """The second trial is stopped early; its workers must leave room for the third."""
    changes = (
        'space={"optimizer.lr": LogUniform(1e-9, 0.1)}, trials=3, early_stop=True, '
        'points=({"optimizer.lr": 0.05}, {"optimizer.lr": 1e-9}, {"optimizer.lr": 0.02})'
    )
    log = tmp_path / "log"
    sweeping = Sweeping([*script(changes, 8), "--workers", "2"], log)
    sweep = tmp_path / "results" / "small"
    sweeping.wait_until(lambda: "ray::RayTrainWorker" in " ".join(sweeping.family().values()))
    family = sweeping.family()
    assert sweeping.end(400) == 0, log.read_text()
    assert_gone(family)
    assert re.search(r"1 trial at a time, 2 workers each", log.read_text())
    trials = results.load(sweep).trials
    assert trials["status"].tolist()[:2] == ["completed", "stopped"]
    assert trials["epochs"].iloc[2] >= 2
    assert trials["epochs"].iloc[1] in (2, 4)
    assert (sweep / "best" / "config.json").exists()
