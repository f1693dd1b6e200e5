"""Sweeps on several nodes: one is lost and another comes, or does not see what it should."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import pytest

from facerec.config import ConfigError, override
from facerec.tuning import nodes, rendezvous, results, watch
from facerec.tuning.cluster import Slots
from facerec.tuning.nodes import Nodes, check_sight, digest
from facerec.tuning.trials import Job
from tests.tuning.chaos import MAY_DIFFER
from tests.tuning.conftest import small_base
from tests.tuning.test_doors import family
from tests.tuning.test_survival import ROOT, Sweeping, command_line, saved

EPOCHS = 12
SCRIPT = """
from pathlib import Path
from facerec.config import override
from facerec.tuning.runner import main
from tests.tuning.conftest import small_base, small_sweep

if __name__ == "__main__":
    base = override(small_base(Path({shards!r})), {{"epochs": {epochs}}})
    main(small_sweep(base, trials=1, early_stop=False))
"""


class Machines:
    """A Ray of nodes with a core each, which have addresses of their own within this machine."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short, for its sockets
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.address = f"127.0.0.1:{free_port()}"

    def start(self, number: int) -> None:
        """Start a node, which need not be up when this returns; number 1 is the head."""
        words = [
            *("start", "--block", "--disable-usage-stats", "--num-cpus=1", "--num-gpus=0"),
            *(f"--node-ip-address=127.0.0.{number}", f"--temp-dir={self._home / str(number)}"),
            *("--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0"),
            f"--dashboard-agent-listen-port={free_port()}",
        ]
        if number == 1:
            port = self.address.rpartition(":")[2]
            words += ["--head", f"--port={port}", f"--dashboard-port={free_port()}"]
        else:
            words.append(f"--address={self.address}")
        with self._log(number).open("w") as log:
            self._processes[number] = subprocess.Popen(
                [Path(sys.executable).with_name("ray"), *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Else Ray gives all nodes of a machine one address.
                env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
            )

    def wait(self, number: int) -> None:
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in (said := self._log(number).read_text()):
            assert self._processes[number].poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.2)

    def programs(self, number: int) -> str:
        """The command lines of a node's processes."""
        return "\n".join(command_line(pid) for pid in family(self._processes[number].pid))

    def kill(self, number: int) -> None:
        """Kill all processes of a node, as a power cut would."""
        process = self._processes.pop(number)
        for pid in reversed(family(process.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()

    def close(self) -> None:
        for number in sorted(self._processes, reverse=True):
            self.kill(number)
        shutil.rmtree(self._home, ignore_errors=True)

    def _log(self, number: int) -> Path:
        return self._home / f"{number}.log"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    if sys.platform != "linux":
        pytest.skip("127.0.0.2 is an address of this machine on Linux alone")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = Machines()
    yield found
    found.close()


@pytest.mark.slow
def test_a_trial_whose_workers_are_on_two_nodes_survives_the_loss_of_one(
    machines: Machines, tmp_path: Path, toy_shards: Path
) -> None:
    machines.start(1)
    machines.wait(1)
    machines.start(2)
    machines.wait(2)
    script, log = tmp_path / "small.py", tmp_path / "log"
    script.write_text(SCRIPT.format(shards=str(toy_shards), epochs=EPOCHS))
    words = ["--sampler", "random", "--workers", "2", "--address", machines.address]
    going = Sweeping([sys.executable, str(script), *words], log)
    sweep = tmp_path / "results" / "small"
    try:
        going.wait_until(lambda: 0 in saved(sweep))
        for number in (1, 2):
            assert "ray::RayTrainWorker" in machines.programs(number)
        machines.kill(2)
        machines.start(3)
        assert going.end() == 0, log.read_text()
    finally:
        if going.process.poll() is None:
            going.process.kill()
    said = log.read_text()
    assert said.count("met an accident, runs again") == 1
    assert "node 127.0.0.2 (" in said
    assert "Traceback" not in said

    found = results.load(sweep)
    assert found.trials["status"].tolist() == ["completed"]
    assert found.trials["accidents"].tolist() == [1]
    run = tmp_path / "alone"
    run.mkdir()
    shutil.copy(sweep / results.run_folder(0) / "config.json", run)
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *two, "-m", "facerec", "train", f"run={run}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    undisturbed = pd.read_parquet(run / "metrics.parquet")
    columns = [name for name in undisturbed if name not in MAY_DIFFER]
    assert {"loss", "val.tar", "train.accuracy"} <= set(columns)
    pd.testing.assert_frame_equal(
        found.history[columns], undisturbed[columns], check_exact=True, check_dtype=False
    )


def test_what_a_node_does_not_see_is_refused_with_its_name(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "_PATIENCE", 0.0)
    monkeypatch.setattr(nodes, "_AGAIN", 0.0)
    monkeypatch.setattr(nodes, "here", lambda: "10.0.0.2 (two)")
    config, record = small_base(toy_shards), tmp_path / "small" / "sweep.json"
    told = rf"node 10.0.0.2 \(two\) does not see {record.parent}, .* --storage DIR"
    with pytest.raises(ConfigError, match=told):
        check_sight(record, "0" * 64, config)
    record.parent.mkdir()
    record.write_text("{}")
    check_sight(record, digest(record), config)
    with pytest.raises(ConfigError, match=r"\(two\) has another sweep in "):
        check_sight(record, "0" * 64, config)
    gone = override(config, {"data.train": "/gone"})
    with pytest.raises(ConfigError, match=r"\(two\) does not see the shards /gone "):
        check_sight(record, digest(record), gone)
    far = override(config, {"data.train": "s3://bucket/faces"})
    check_sight(record, digest(record), far)  # asking for it is left to the training


def test_nodes_that_go_and_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(number: int, alive: bool = True) -> dict[str, Any]:
        address = f"10.0.0.{number}"
        return {
            **{"NodeID": str(number), "Alive": alive},
            **{"NodeManagerAddress": address, "NodeManagerHostname": f"gpu-{number}"},
        }

    now, there = 0.0, [node(1), node(2)]
    monkeypatch.setattr(nodes, "ray", SimpleNamespace(nodes=lambda: there))
    looking = Nodes(clock=lambda: now)
    assert looking.look() == []
    there[1:] = [node(2, alive=False), node(3)]
    assert looking.look() == []  # it has just looked
    now = 60.0
    lost, came = looking.look()
    assert lost.startswith("node 10.0.0.2 (gpu-2) is lost, 2 nodes left; ")
    assert came == "node 10.0.0.3 (gpu-3) joins, 2 nodes"
    now = 120.0
    assert looking.look() == []


def test_the_workers_of_two_nodes_say_where_they_cannot_meet() -> None:
    assert rendezvous.interface_of("127.0.0.2") == ("lo" if sys.platform == "linux" else "")
    assert rendezvous.interface_of("192.0.2.1") == ""  # reserved for documents: nobody has it
    assert rendezvous.interface_of("::1") == ""
    with socket.create_server(("127.0.0.1", 0)) as store:
        port = store.getsockname()[1]
        rendezvous.knock("127.0.0.1", port, "127.0.0.2")
    told = rf"node 127.0.0.2 cannot reach node 127.0.0.1, port {port} \(.*every TCP port above 1024"
    with pytest.raises(ConnectionError, match=told):
        rendezvous.knock("127.0.0.1", port, "127.0.0.2")


def test_only_accidents_without_an_epoch_between_them_count(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "ray", MagicMock())
    slots = Slots(1, 2, 1, 0.0)
    job = Job(small_base(toy_shards), tmp_path, "small", "val.tar", slots)
    searcher = MagicMock(failure=None)
    watching = watch.Watch(job, searcher, MagicMock(), joined=True)
    counted: Any = SimpleNamespace(num_failures=0)
    trial = SimpleNamespace(config={"number": 0}, trial_id="a", run_metadata=counted)

    def accident(epoch: int) -> int:
        metrics = {"epoch": epoch, "val.tar": 0.5, "loss": 1.0}
        watching.on_trial_result(0, [], trial, {"metrics": metrics})
        counted.num_failures += 1  # by Tune
        watching.on_trial_recover(0, [], trial)
        assert searcher.failure is None
        return int(counted.num_failures)

    assert [accident(epoch) for epoch in (3, 3, 3, 4, 4)] == [0, 1, 2, 0, 1]
