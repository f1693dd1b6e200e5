"""A small sweep that is disturbed: its script, how far it is, and what must hold in the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facerec import config
from facerec.train import train
from facerec.tuning import results
from tests.tuning.test_survival import Sweeping

EPOCHS = 12
TRIALS = 4
SEED = 20  # of all that is drawn: which trial is hit, and at which epoch
_SCRIPT = """
from pathlib import Path
from facerec.config import override
from facerec.domains import LogUniform, Uniform
from facerec.tuning.runner import main
from tests.tuning.conftest import small_base, small_sweep

if __name__ == "__main__":
    base = override(small_base(Path({shards!r})), {{"epochs": {epochs}}})
    space = {{"loss.margin": Uniform(0.0, {widest}), "loss.scale": LogUniform(16.0, 96.0)}}
    main(small_sweep(base, space=space, trials={trials}, early_stop=False))
"""
# What a disturbance may change: times, and what counts disturbances.
MAY_DIFFER = (
    *("seconds", "images_per_second", "commit", "accidents", "possible_images_per_second"),
    *("bound_by", "bound.compute", "bound.memory", "bound.communication", "bound.decode"),
)


@dataclass(frozen=True)
class Moment:
    """When a sweep is hit: as soon as a trial has saved an epoch."""

    trial: int
    epoch: int


def moments(case: str, *trials: int) -> list[Moment]:
    """Draw a moment in each of some trials, in their first half: they are hit while they run."""
    drawn = random.Random(f"{SEED} {case}")
    return [Moment(trial, drawn.randint(1, EPOCHS // 2)) for trial in trials]


class Disturbed:
    """A sweep in a folder of its own; each start of its script has a log of its own."""

    def __init__(self, folder: Path, shards: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self._shards = folder, shards
        self.storage = folder / "results"
        self.log = folder / "0.log"
        self._starts: list[Sweeping] = []

    @property
    def sweep(self) -> Path:
        return self.storage / "small"

    def start(self, *words: str, widest: float = 0.7) -> Sweeping:
        """Start the script; `widest` is the upper end of the searched margins."""
        script = self.folder / "small.py"
        script.write_text(
            _SCRIPT.format(shards=str(self._shards), epochs=EPOCHS, widest=widest, trials=TRIALS)
        )
        self.log = self.folder / f"{len(self._starts) + 1}.log"
        options = ["--sampler", "random", "--storage", str(self.storage)]
        self._starts.append(Sweeping([sys.executable, str(script), *options, *words], self.log))
        return self._starts[-1]

    def close(self) -> None:
        """Leave no process behind where a test failed; Ray's end with their driver."""
        for sweeping in self._starts:
            if sweeping.process.poll() is None:
                sweeping.process.kill()
                sweeping.process.wait()

    def wait(self, sweeping: Sweeping, moment: Moment) -> None:
        sweeping.wait_until(lambda: self.saved().get(moment.trial, 0) >= moment.epoch)

    def refusal(self, sweeping: Sweeping) -> str:
        """What the script says last where the user has something to mend."""
        assert sweeping.end() == 2, self.log.read_text()
        said = self.log.read_text()
        assert "Traceback" not in said, said
        last = said.strip().splitlines()[-1]
        assert last.startswith("error: "), said
        return last

    def saved(self) -> dict[int, int]:
        """The newest saved epoch of each trial."""
        epochs = {}
        for file in (self.sweep / "checkpoints").glob("*/checkpoints/[0-9]*/state.json"):
            try:
                epochs[int(file.parts[-4])] = int(json.loads(file.read_text())["epoch"])
            except FileNotFoundError:  # a newer one has just replaced it
                continue
        return epochs

    def over(self) -> dict[int, int]:
        """When the last checkpoint of each trial that the table has as completed was written."""
        trials = results.load(self.sweep).trials
        numbers = trials.loc[trials["status"] == "completed", "trial"]
        return {
            number: max(
                file.stat().st_mtime_ns
                for file in (self.sweep / results.run_folder(number)).rglob("state.json")
            )
            for number in numbers
        }

    def check(self, undisturbed: results.Results, trials: int = TRIALS) -> None:
        """All that holds once a sweep is through, whatever it met.

        Args:
            undisturbed: The tables of the same sweep when nothing happened to it.
            trials: How many trials there are; those beyond the undisturbed ones are new.
        """
        found = results.load(self.sweep)
        assert found.trials["trial"].tolist() == list(range(trials))
        assert found.trials["status"].tolist() == ["completed"] * trials
        assert found.trials["error"].tolist() == [""] * trials
        for _, rows in found.history.groupby("trial"):
            assert rows["epoch"].tolist() == list(range(1, EPOCHS + 1))
        ends = found.trials.drop(columns="rank" if trials > TRIALS else [])
        _assert_same(ends[ends["trial"] < TRIALS], undisturbed.trials)
        history = found.history
        _assert_same(history[history["trial"] < TRIALS], undisturbed.history)
        assert sorted(found.trials["rank"]) == list(range(1, trials + 1))
        winner = found.trials.set_index("rank")["run"][1]
        assert (self.sweep / "best" / "config.json").read_bytes() == (
            self.sweep / winner / "config.json"
        ).read_bytes()

    def check_alone(self, number: int) -> None:
        """Train one finished trial again by itself: it gives the row's metrics."""
        row = results.load(self.sweep).trials.set_index("trial").loc[number]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            metrics = train(
                config.load(self.sweep / row["run"] / "config.json"), report=lambda *_: None
            )
        finally:
            torch.set_num_threads(threads)
        shared = [name for name in metrics if name in row.index and name not in MAY_DIFFER]
        assert "val.tar" in shared
        for name in shared:
            np.testing.assert_equal(row[name], metrics[name], name)


def _assert_same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    columns = [name for name in wanted if name in found and name not in MAY_DIFFER]
    pd.testing.assert_frame_equal(
        found[columns].reset_index(drop=True), wanted[columns], check_exact=True
    )


_NODES = """
import sys
from ray.cluster_utils import Cluster

if __name__ == "__main__":
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = nodes.add_node(num_cpus=1)
        print(nodes.address, flush=True)
        if sys.stdin.readline():
            nodes.remove_node(second, allow_graceful=False)
        sys.stdin.readline()
    finally:
        nodes.shutdown()
"""


class TwoNodes:
    """A Ray of two nodes with a core each, in a process that ends with its standard input."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))  # short, for its sockets
        self._log = (self._home / "log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _NODES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
            env={**os.environ, "RAY_TMPDIR": str(self._home)},
        )
        assert self._process.stdout is not None
        self.address = ""
        while ":" not in self.address:  # Ray itself may print before
            line = self._process.stdout.readline()
            assert line, (self._home / "log").read_text()
            self.address = line.strip()

    def kill_second(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        finally:
            self._log.close()
            shutil.rmtree(self._home, ignore_errors=True)


class SmallDisk:
    """A file system of its own in memory, which can be filled to the last byte.

    Attributes:
        refused: Why there is none; else empty.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder, self._ballast = folder, folder / "ballast"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            self.refused = str(error)
        else:
            self.refused = done.stderr.strip() if done.returncode else ""

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def empty(self) -> None:
        self._ballast.unlink()

    def close(self) -> None:
        if not self.refused:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
