"""One trial on Ray: in a process of its own, or as several Ray Train workers.

Both ways call the same `facerec.train.train`, resume from the newest checkpoint in the trial's
run folder, and send Tune what `facerec.tuning.search` reads: the metrics, a finite objective, and
how it ended.
"""

from __future__ import annotations

import difflib
import errno
import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from facerec import checkpoint
from facerec.config import ConfigError, TrainConfig, override
from facerec.data.shards import DataError
from facerec.train import Diverged, train
from facerec.tuning import alone, nodes, results
from facerec.tuning.cluster import Slots
from facerec.tuning.folder import RECORD
from facerec.tuning.messages import (
    ACCIDENT,
    DETAIL,
    DIVERGED,
    FINISHED,
    OBJECTIVE,
    OUTCOME,
    REFUSED,
    TEXT,
    WORST,
)

Send = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep have in common.

    Attributes:
        base: The config that each trial changes.
        folder: The sweep's folder.
        name: The sweep folder's name.
        metric: What is maximised.
        slots: How the machine is shared.
        runs: Where the run folders are, relative to the sweep's folder.
        record: The digest of the sweep's record, by which other nodes know that they see the same
            folder; empty where there are none.
    """

    base: TrainConfig
    folder: Path
    name: str
    metric: str
    slots: Slots
    runs: str = results.RUNS
    record: str = ""

    def run(self, number: int) -> Path:
        """Give the run folder of a trial."""
        return self.folder / results.run_folder(number, self.runs)

    def title(self, config: Mapping[str, Any]) -> str:
        """Give a trial's readable name: `uniface_margin-003 margin=0.31 scale=42`."""
        parts = [f"{self.name}-{config['number']:03d}"]
        for key, value in config.items():
            if key != "number":
                shown = f"{value:.3g}" if isinstance(value, float) else str(value)
                parts.append(f"{key.rsplit('.', 1)[-1]}={shown}")
        return " ".join(parts)


def trainable(job: Job) -> Any:
    """Give Tune's function for the sweep's trials, with the resources of one trial."""
    slots = job.slots

    def single(config: dict[str, Any]) -> None:
        _guarded(lambda: _train_in_place(job, config, tune.report), tune.report)

    def together(config: dict[str, Any]) -> None:
        _guarded(lambda: _train_together(job, config), tune.report)

    if slots.workers == 1:
        return tune.with_resources(single, slots.each)
    # The workers stand in a placement group of their own; the driver takes next to nothing.
    return tune.with_resources(together, {"CPU": DRIVER_CPU})


DRIVER_CPU = 0.01
_A_WEEK = 7 * 24 * 3600  # seconds


def _guarded(work: Callable[[], None], send: Send) -> None:
    """Say how a trial ended; an accident goes up to Tune, which runs the trial again.

    (A full disk is none. Files are written by several libraries, each with an error of its own.)
    """
    try:
        work()
    except Diverged as error:
        send({OBJECTIVE: WORST, OUTCOME: DIVERGED, TEXT: error.reason, DETAIL: str(error)})
    except (ConfigError, DataError) as error:
        send({OUTCOME: REFUSED, TEXT: str(error)})
    except Exception as error:
        if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            # Every other trial would meet it too, and none should be given up for it.
            send({OUTCOME: REFUSED, TEXT: f"{error}; make room, and go on with --resume"})
            return
        send({OUTCOME: ACCIDENT, TEXT: _told(error)})
        raise


def _told(error: Exception) -> str:
    """An accident in one line."""
    if isinstance(error, _WorkerAccident):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _CPU_FULL in str(error):
        first = lines[0].partition(" GPU ")[0]  # what follows is the allocator's own statistics
        return f"out of memory ({first}); optimizer.accumulate=2 or fewer trials at once need less"
    return f"{type(error).__name__}: {lines[-1]}"


_CPU_FULL = "DefaultCPUAllocator: can't allocate memory"  # PyTorch has no type for it


class _WorkerAccident(RuntimeError):
    """What a Ray Train worker said before it ended."""


def _train_in_place(job: Job, setting: Mapping[str, Any], send: Send) -> None:
    """Train where other trials train too; once out of memory, without them."""
    if not 0 < job.slots.gpu < 1:
        _train(job, setting, send)
        return
    run, device = job.run(setting["number"]), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    with alone.place(job.folder, run, device):
        try:
            _train(job, setting, send)
        except torch.OutOfMemoryError:
            alone.mark(run)
            raise


def _train(job: Job, setting: Mapping[str, Any], send: Send, *, first: bool = True) -> None:
    """Train in this process; where several do, each calls it, and the first one sends."""
    if not job.slots.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if job.record:
        nodes.check_sight(job.folder / RECORD, job.record, job.base)
    torch.set_num_threads(job.slots.threads)
    changes = {key: value for key, value in setting.items() if key != "number"}
    run = job.run(setting["number"])
    sent: dict[str, float] = {}

    def report(metrics: Mapping[str, float], folder: Path | None) -> None:
        sent.update(metrics)
        send(_message(job, metrics))

    config, begun = override(job.base, changes), checkpoint.latest(run) is not None
    try:
        final = train(config, run=run, report=report, resume_from=run if begun else None)
    except ConfigError:
        if not begun:
            raise
        if first:  # no whole checkpoint is left: from the start, then
            shutil.rmtree(run, ignore_errors=True)
        final = train(config, run=run, report=report)
    if not first:
        return  # it has measured nothing
    if final.get("epoch") != sent.get("epoch"):  # it was complete before it was interrupted
        report(final, None)
    send({**_message(job, final), OUTCOME: FINISHED})


def _message(job: Job, metrics: Mapping[str, float]) -> dict[str, Any]:
    if job.metric not in metrics:
        near = difflib.get_close_matches(job.metric, metrics, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(metrics)}."
        raise ConfigError(f"metric = {job.metric}: the trainings do not report it. {hint}")
    value = metrics[job.metric]
    return {
        "epoch": metrics["epoch"],
        OBJECTIVE: value if math.isfinite(value) else WORST,
        OUTCOME: "",
        TEXT: "",
        "metrics": dict(metrics),
    }


def _train_together(job: Job, setting: Mapping[str, Any]) -> None:
    """Train with several Ray Train workers; their messages come through a mailbox.

    (Ray Train's own reports are barriers that every worker has to pass; the loop reports on rank
    0 alone.)
    """
    # A trial in one process has no use for them, and each takes its time to load.
    import ray.train.torch
    from ray.util.queue import Empty, Queue

    from facerec.tuning.rendezvous import OwnAddress

    # Ray Train would give up after a minute, and the trial be lost to accidents before a node is
    # back: how long it waits for room is up to `facerec.tuning.waiting`.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_A_WEEK))
    mailbox = Queue(actor_options={"num_cpus": 0})
    slots = job.slots

    def work(shared: dict[str, Any]) -> None:
        send: Send = shared["mailbox"].put
        first = ray.train.get_context().get_world_rank() == 0
        _guarded(lambda: _train(job, shared["setting"], send, first=first), send)

    trainer = ray.train.torch.TorchTrainer(
        work,
        train_loop_config={"mailbox": mailbox, "setting": dict(setting)},
        torch_config=OwnAddress(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=slots.workers,
            use_gpu=slots.gpu > 0,
            resources_per_worker=slots.each,
        ),
        run_config=ray.train.RunConfig(
            name=_unused(job.folder / "ray" / "train", job.title(setting)),
            storage_path=str(job.folder / "ray" / "train"),
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=3),
        ),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=fit, daemon=True)  # daemon: Tune may end this process
    thread.start()
    while True:
        alive = thread.is_alive()
        try:
            message = mailbox.get(timeout=0.5)
        except Empty:
            if alive:
                continue
            break
        if message[OUTCOME] == ACCIDENT:
            thread.join()
            raise _WorkerAccident(message[TEXT])
        tune.report(message)
        if message[OUTCOME] in (DIVERGED, REFUSED):
            return  # other workers may be waiting for the one that stopped
    if failure:
        raise failure[0]


def _unused(folder: Path, name: str) -> str:
    """Give a name that no earlier attempt has used: Train would go on with its state."""
    plain = name.replace("/", "_")
    attempt, unused = 1, plain
    while (folder / unused).exists():
        attempt += 1
        unused = f"{plain} attempt {attempt}"
    return unused
