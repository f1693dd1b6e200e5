"""What a sweep's Ray listens on, and who gets in: our own cluster, and one that is joined."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest
from ray._private import ray_constants

from facerec.config import ConfigError
from facerec.tuning import doors

ROOT = Path(__file__).parents[2]
SCRIPT = """
from pathlib import Path
from facerec.config import override
from facerec.tuning.runner import main
from tests.tuning.conftest import small_base, small_sweep

if __name__ == "__main__":
    base = override(small_base(Path({shards!r})), {{"epochs": 5000}})
    main(small_sweep(base, trials=1, workers=2))
"""
# A call that each of Ray's gRPC servers knows: whoever has no token is turned away before it is
# looked at.
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
)


@pytest.mark.slow
def test_a_sweep_listens_on_loopback_alone_and_asks_for_its_token(
    tmp_path: Path, toy_shards: Path
) -> None:
    with sweeping(tmp_path, toy_shards) as process:
        found = listening(process)
        assert {host for host, _, _ in found} == {"127.0.0.1"}
        with ThreadPoolExecutor(len(found)) as pool:
            answers = list(pool.map(answer, [port for _, port, _ in found]))
        for said, (_, port, program) in zip(answers, found, strict=True):
            # Figures for Prometheus are given to everybody on this machine; and what PyTorch's
            # workers say to each other has no token, and is no gRPC.
            good = {"401", "UNAUTHENTICATED"}
            if any(part in program for part in ("Agent", "dashboard.py", "monitor.py")):
                good.add("figures")
            if "ray::RayTrainWorker" in program:
                good.add("DEADLINE_EXCEEDED")
            assert said in good, (port, program)
        names = " ".join(program for _, _, program in found)
        parts = ("gcs_server", "raylet", "dashboard.py", "ray::ImplicitFunc", "ray::RayTrainWorker")
        assert all(part in names for part in parts)
        home = Path(environment(process)["RAY_TMPDIR"])
        cluster = (home / "ray" / "ray_current_cluster").read_text()
        changes = ({}, {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64})
        with ThreadPoolExecutor() as pool:
            known, *strangers = pool.map(lambda changed: joining(cluster, changed), changes)
        assert "1 node" in known
        for stranger in strangers:
            assert "Failed to connect to Ray cluster" in stranger

        for pid in family(process):  # nothing is sent to Ray's makers
            if (set_here := environment(pid)).get("RAY_JOB_ID"):
                assert set_here["RAY_USAGE_STATS_ENABLED"] == "0"
        stats = list((home / "ray").glob("session_2*/usage_stats.json"))
        assert all(not json.loads(path.read_text())["total_success"] for path in stats)


@contextmanager
def sweeping(folder: Path, shards: Path) -> Iterator[int]:
    """Run a sweep while the block does: from when its two workers train; gives its process."""
    script = folder / "small.py"
    script.write_text(SCRIPT.format(shards=str(shards)))
    log = folder / "log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
    try:
        deadline = time.monotonic() + 150
        while len(list(folder.glob("results/small/checkpoints/*/checkpoints/[0-9]*"))) < 1:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def family(process: int) -> list[int]:
    """A process and the living ones that came from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found = [process]
    for pid in found:  # it grows meanwhile
        found += children.get(pid, [])
    return found


def environment(process: int) -> dict[str, str]:
    """The environment that a process began with, and what its first child did."""
    found: dict[str, str] = {}
    for pid in family(process)[:2]:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        found |= dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return found


def listening(process: int) -> list[tuple[str, int, str]]:
    """Host, port and program of each TCP socket on which a process or its family listens."""
    sockets: dict[str, tuple[str, int]] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                host, port = fields[1].split(":")
                sockets[f"socket:[{fields[9]}]"] = (as_address(host), int(port, 16))
    found = set()
    for pid in family(process):
        program = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        for file in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(file)
            except OSError:
                continue
            if target in sockets:
                found.add((*sockets[target], program))
    return sorted(found)


def as_address(hexadecimal: str) -> str:
    """An address as the kernel lists it, in words of the machine's byte order."""
    words = [int(hexadecimal[i : i + 8], 16) for i in range(0, len(hexadecimal), 8)]
    raw = b"".join(struct.pack("=I", word) for word in words)
    if len(raw) == 16 and raw[:12] == bytes(10) + b"\xff\xff":
        raw = raw[12:]  # IPv4 through a socket of IPv6
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def answer(port: int) -> str:
    """What a server says to somebody without a token."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/api/v0/actors")
        reply = connection.getresponse()
        text = reply.read().decode()
        return "figures" if reply.status == 200 and "# HELP" in text else str(reply.status)
    except (http.client.BadStatusLine, OSError):
        pass  # it speaks gRPC
    finally:
        connection.close()
    for call in CALLS:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                channel.unary_unary(call)(b"", timeout=10)
                return f"answers {call}"
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNIMPLEMENTED:
                    return str(error.code().name)
    return "knows none of the calls"


def joining(address: str, changes: dict[str, str]) -> str:
    """What another process prints that joins the cluster, with changes of its environment."""
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else Ray takes another address for it
    code = f"import ray; ray.init({address!r}); print(len(ray.nodes()), 'node')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **loopback, "RAY_AUTH_MODE": "token", **changes},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


def test_the_token_cannot_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    told = pytest.raises(ConfigError, match=r"RAY_AUTH_MODE=disabled: .* give RAY_AUTH_MODE=token")
    with told, doors.locked():
        pass


def test_the_lock_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    before = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    with doors.locked():
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
        assert not ray_constants.ENABLE_RAY_CLUSTER
    assert before == (dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER)


@contextmanager
def dashboard(status: int) -> Iterator[str]:
    """A server that gives every question the same status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_joined_cluster_whose_dashboard_lets_anybody_in_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with dashboard(200) as anybody, dashboard(401) as token:
        # On loopback nobody from elsewhere comes to it, whatever it answers.
        assert doors.check("127.0.0.1:6379", anybody) == ""
        assert "asks for no token" in doors.check("10.0.0.1:6379", anybody)
        monkeypatch.setattr(doors, "is_loopback", lambda host: False)
        with pytest.raises(ConfigError, match=rf"--address 10.0.0.1:6379: .*{anybody} asks for no"):
            doors.check("10.0.0.1:6379", anybody)
        assert doors.check("10.0.0.1:6379", token).startswith("warning: ")
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        assert doors.check("10.0.0.1:6379", token) == ""
        assert doors.check("10.0.0.1:6379", "") == ""


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_which_addresses_are_of_this_machine_alone(host: str, own: bool) -> None:
    assert doors.is_loopback(host) is own
