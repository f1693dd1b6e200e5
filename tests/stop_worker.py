"""One worker of a training that may be killed: python -m tests.stop_worker SHARDS LOSS DOOM RUN…

Each RUN is trained, or gone on with. DOOM is `none`, or a moment and a step such as `rename:7`, at
which the process kills itself as SIGKILL would. RANK, WORLD_SIZE and STORE in the environment make
it one of several.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from facerec import checkpoint, checkpoint_writer
from facerec import checkpoint_files as files
from facerec.train import train
from tests.test_train import silent, toy_config

CHANGES = {"checkpoint__every": 1, "data__augment__rotate": 0.1, "epochs": 3}


def doom(moment: str, step: int) -> None:
    """Kills the process in the middle of writing a step's checkpoint."""
    name = f"{step:08d}"
    rename, write = os.rename, files.write_tensors

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write_half(path: Path, tensors: Any) -> None:
        write(path, tensors)
        if name in str(path) and path.name.startswith("optimizer-"):
            os.truncate(path, path.stat().st_size // 2)
            die()

    def rename_never(source: Path, target: Path) -> None:
        if target.name == name:
            die()
        rename(source, target)

    if moment == "write":
        files.write_tensors = write_half
    else:
        checkpoint_writer.os.rename = rename_never  # type: ignore[attr-defined]


def main(shards: Path, loss: str, when: str, *runs: Path) -> None:
    torch.set_num_threads(1)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        rank, store = int(os.environ["RANK"]), f"file://{os.environ['STORE']}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    if when != "none":
        moment, step = when.split(":")
        doom(moment, int(step))
    config = toy_config(shards, loss__name=loss, **CHANGES)
    for run in runs:
        begun = checkpoint.latest(run) is not None
        train(config, run=run, report=silent, resume_from=run if begun else None)
    if world_size > 1:
        dist.barrier()  # gloo aborts now and then where one leaves long before the other
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], *map(Path, sys.argv[4:]))
