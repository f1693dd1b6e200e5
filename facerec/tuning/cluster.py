"""Ray for the length of a sweep: started on free ports of this machine, or joined by address.

A cluster of our own has a short folder of its own, so that files of other clusters on the machine
cannot mislead it, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from facerec.config import ConfigError
from facerec.tuning import doors

# In the environment before Ray starts, so that its processes inherit them.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints nothing at verbose=0
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard's list of Train runs
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor less per trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the tables are ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may end before its first epoch does
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}

# Within `lasting`: what ends with it, and the one cluster of its sweeps once that is up.
_lasting: list[tuple[ExitStack, list[Cluster]]] = []

_WORKER_SHARE = 0.95  # of the cores that a worker's threads use
_PARTS = 10_000  # Ray counts in ten thousandths

_TEMP, _PREFIX, _ALIVE = "/tmp", "facerec-", "alive"  # short: the names of sockets are limited


@dataclass(frozen=True)
class Cluster:
    """A Ray that is up.

    Attributes:
        dashboard: Where its dashboard is; empty without one.
        cpus: CPU cores of each node.
        gpus: Accelerators of each node.
        joined: Whether it was there before, and others may be using it.
    """

    dashboard: str
    cpus: tuple[float, ...]
    gpus: tuple[float, ...]
    joined: bool = False


@dataclass(frozen=True)
class Slots:
    """How trials share the machine.

    Attributes:
        count: Trials at a time.
        workers: Processes of each.
        threads: Threads of each process, and CPU cores reserved for it.
        gpu: Accelerators of each process, or its share of one; 0 where there are none.
    """

    count: int
    workers: int
    threads: int
    gpu: float

    @property
    def each(self) -> dict[str, float]:
        """What Ray reserves for each process: several leave a little for the one that drives."""
        cores = self.threads if self.workers == 1 else self.threads * _WORKER_SHARE
        return {"CPU": cores, **({"GPU": self.gpu} if self.gpu else {})}


def plan(
    cpus: Sequence[float],
    gpus: Sequence[float],
    *,
    workers: int,
    trials: int,
    sampler: str,
    share: float = 1.0,
) -> Slots:
    """Share the machine among trials, never more than it has.

    With accelerators each process has one, several, or a share of one. Without, a process has one
    core, or more where there are fewer trials than cores. TPE learns from trials that are over, so
    at most a quarter of its trials (but two) run at a time.

    Args:
        cpus: Cores of each node.
        gpus: Accelerators of each node.
        workers: Processes of each trial.
        trials: Trials to run.
        sampler: `tpe` or `random`.
        share: Accelerators of each process: a whole number, or a part of one. Where there are
            none, it does not count.

    Raises:
        ConfigError: Where one trial does not fit, or the workers of one would share an
            accelerator.
    """
    gpu = sum(gpus) >= 1
    if gpu and workers > 1 and share < 1:
        raise ConfigError(
            f"--workers {workers}: the workers of a trial cannot share an accelerator (NCCL takes "
            f"one process on each); {share:g} of one goes with --workers 1"
        )
    each = math.floor(share * _PARTS) / _PARTS  # never rounded up: all shares must fit

    def room(threads: int) -> int:
        return sum(
            min(int(c) // threads, _places(int(g), each)) if gpu else int(c) // threads
            for c, g in zip(cpus, gpus, strict=True)
        )

    if room(1) < workers:
        what = "an accelerator" if share <= 1 else f"{share:g} accelerators"
        what = f"{what} and a CPU core" if gpu else "a CPU core"
        if not room(1):
            raise ConfigError(
                f"a trial takes {what}, and no node has that (in all: {sum(cpus):g} cores and "
                f"{sum(gpus):g} accelerators); give a smaller --gpus-per-worker, or --address of a "
                "larger cluster"
            )
        raise ConfigError(
            f"--workers {workers}: each worker takes {what}, and there are {room(1)}; give "
            f"--workers {room(1)} or fewer"
        )
    useful = trials if sampler == "random" else max(2, trials // 4)
    count = min(room(1) // workers, useful, trials)
    threads = 1
    while room(threads + 1) >= count * workers:
        threads += 1
    return Slots(count, workers, threads, each if gpu else 0.0)


def _places(gpus: int, each: float) -> int:
    """How many processes the accelerators of a node hold: a share never spans two."""
    return gpus * math.floor(1 / each) if each < 1 else gpus // int(each)


@contextmanager
def running(address: str = "", *, gpus: bool = True) -> Iterator[Cluster]:
    """Have Ray while the block runs.

    Args:
        address: Cluster to join; empty starts one on this machine, whatever else runs there.
        gpus: Whether accelerators may be used.

    Raises:
        ConfigError: Where there is no cluster at the address, or it lets anybody in.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what matters is said by us
    if not _lasting:
        with _up(address, gpus) as cluster:
            yield cluster
        return
    stack, up = _lasting[-1]
    if not up:
        up.append(stack.enter_context(_up(address, gpus)))
    yield up[0]


@contextmanager
def lasting() -> Iterator[None]:
    """Let all sweeps of the block share one Ray, which the first that needs it starts.

    Within another such block it is that one's Ray.
    """
    if _lasting:
        yield
        return
    with ExitStack() as stack:
        _lasting.append((stack, []))
        try:
            yield
        finally:
            _lasting.pop()


@contextmanager
def _up(address: str, gpus: bool) -> Iterator[Cluster]:
    yield from _joined(address, gpus) if address else _started(gpus)


def _started(gpus: bool) -> Iterator[Cluster]:
    before = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "RAY_ADDRESS")}
    _remove_left_behind()
    home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_TEMP))
    alive = (home / _ALIVE).open("w")
    fcntl.flock(alive, fcntl.LOCK_EX)
    os.environ["RAY_TMPDIR"] = str(home)
    os.environ.pop("RAY_ADDRESS", None)
    try:
        with doors.locked():
            context = ray.init(
                address="local",
                num_gpus=None if gpus else 0,
                include_dashboard=True,  # Train's cleaner of placement groups asks it
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
            # Ray's tools look here first for the cluster to talk to: never to another one.
            (home / "ray" / "ray_current_cluster").write_text(context.address_info["gcs_address"])
            yield _cluster(context, gpus)
    finally:
        ray.shutdown()
        _remove(home)
        alive.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _remove(home: Path) -> None:
    """Remove a cluster's folder; what its last processes still write is left to the next sweep."""
    shutil.rmtree(home / "ray", ignore_errors=True)
    if not (home / "ray").exists():
        shutil.rmtree(home, ignore_errors=True)


def _remove_left_behind() -> None:
    """Remove the folders of clusters whose process was killed: nobody holds their lock."""
    for lock in Path(_TEMP).glob(f"{_PREFIX}*/{_ALIVE}"):
        try:
            with lock.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(lock.parent)
        except OSError:
            continue  # it is alive, or another user's


def _joined(address: str, gpus: bool) -> Iterator[Cluster]:
    doors.knock(address)
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = address  # Ray lets the variable win over the argument
    try:
        try:
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, RayError, ValueError, RuntimeError) as error:
            why = str(error).strip().partition("\n")[0]
            if "RAY_AUTH_MODE" not in os.environ:
                why += "; where it asks for a token, set RAY_AUTH_MODE=token"
            raise doors.silent(address, why) from None
        up = replace(_cluster(context, gpus), joined=True)
        if warning := doors.check(address, up.dashboard):
            print(warning, file=sys.stderr)
        yield up
    finally:
        ray.shutdown()
        if before is None:
            os.environ.pop("RAY_ADDRESS", None)
        else:
            os.environ["RAY_ADDRESS"] = before


def _cluster(context: Any, gpus: bool) -> Cluster:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Cluster(
        dashboard=f"http://{context.dashboard_url}" if context.dashboard_url else "",
        cpus=tuple(float(node.get("CPU", 0)) for node in nodes),
        gpus=tuple(float(node.get("GPU", 0)) if gpus else 0.0 for node in nodes),
    )
