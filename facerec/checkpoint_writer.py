"""Checkpoints are written by a thread while the training goes on.

`Saver.save` copies what is to be saved, and a thread of each worker writes its part: the classes
that it holds, the first worker everything else too. No worker ever has the whole head. All write
into one folder aside, so several workers need a file system that all of them see. The first
worker's thread gives it its name once every part is there, which it learns from files: collectives
belong to the loop. Then it reads the checkpoint from end to end, and older ones go.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor

from facerec import checkpoint_files as files
from facerec.backbones.base import Backbone
from facerec.checkpoint_files import Progress, Saved
from facerec.checkpoint_state import snapshot
from facerec.data.identities import Identities
from facerec.data.writer import sync, write_json, write_table
from facerec.head import Head
from facerec.values import ConfigError

KEPT = 2  # checkpoints of a run that is not finished: the newest, and the one before it
POLL = 0.02  # seconds between two looks for the other workers' parts
LONGEST_WAIT = 1800.0  # seconds for another worker's part, once the first worker's is written
GRACE = 10.0  # the same where the training has failed meanwhile


class Part(Protocol):
    """A part of a training with a state of a few numbers, such as a gradient scaler."""

    def state_dict(self) -> Mapping[str, Any]:
        """Its state: numbers, texts, lists, as JSON keeps them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state back."""


class Saver:
    """Writes the checkpoints of one run; each worker has one. A context manager.

    At most one checkpoint is being written. Leaving the context waits for it; where the training
    failed, its error is the one that goes up.

    Args:
        run: The run folder; left-overs of interrupted checkpoints in it go.
        backbone: Replicated; the first worker's is saved.
        head: This worker's classes.
        optimizer: Of both.
        parts: Name -> further parts whose state is saved.
        identities: Names of the classes; None where the training set has none.

    Raises:
        OSError: The folder cannot be written.
        ConfigError: Not every worker sees the folder.
    """

    def __init__(
        self,
        run: Path,
        backbone: Backbone,
        head: Head,
        optimizer: torch.optim.Optimizer,
        *,
        parts: Mapping[str, Part] | None = None,
        identities: Identities | None = None,
    ) -> None:
        self._folder = run / "checkpoints"
        self._backbone, self._head, self._optimizer = backbone, head, optimizer
        self._parts, self._identities = dict(parts or {}), identities
        self._first = head.shard.rank == 0
        self._token = self._attempt()
        self._given_up = math.inf  # when the other workers' parts are waited for no more
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="facerec-checkpoint")
        self._writing: Future[None] | None = None

    def _attempt(self) -> str:
        """A name of this attempt, the same on all workers; all must see the folder."""
        number = secrets.randbits(40) if self._first else 0
        if self._first:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.glob(".*"):
                shutil.rmtree(left, ignore_errors=True)
            (self._folder / f".{number:x}").mkdir()
        token = f"{add_up(self._head, number):x}"
        blind = add_up(self._head, int(not (self._folder / f".{token}").is_dir()))
        if self._first:
            (self._folder / f".{token}").rmdir()
        if blind:
            raise ConfigError(
                f"{self._folder.parent}: {blind} of {self._head.shard.world_size} workers do not "
                "see this run folder; workers on several machines need one that all of them share"
            )
        return token

    def save(self, progress: Progress, *, last: bool = False) -> Path:
        """Begin to write `checkpoints/<step>`; every worker calls it.

        Waits for the checkpoint before, if it is still being written, and copies the state.

        Args:
            progress: How far the run is.
            last: Whether the training is over: earlier checkpoints go then.

        Returns:
            The checkpoint's folder, which is there after `wait`.

        Raises:
            OSError: The checkpoint before could not be written.
            ConfigError: Another worker could not write its part of it.
        """
        self.wait()
        final = self._folder / f"{progress.step:08d}"
        saved = Saved(
            final,
            deepcopy(progress),
            self._head.shard.num_classes,
            tuple(_pieces(self._head)),
            {},
            {name: dict(part.state_dict()) for name, part in self._parts.items()},
            "" if self._identities is None else self._identities.source,
        )
        parts = snapshot(self._backbone, self._head, self._optimizer)
        self._writing = self._thread.submit(self._write, saved, parts, 1 if last else KEPT)
        return final

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is there; every worker calls it.

        Raises:
            OSError: It could not be written.
            ConfigError: Another worker could not write its part.
        """
        if self._writing is None:
            return
        error = self._writing.exception()
        self._writing = None
        failed = add_up(self._head, int(error is not None))
        if error is not None:
            raise error
        if failed:
            raise ConfigError(
                f"{self._folder}: {failed} of {self._head.shard.world_size} workers could not "
                "write their part of a checkpoint; their messages say why"
            )

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.wait()
            else:
                self._given_up = time.monotonic() + GRACE
        finally:
            self._thread.shutdown()

    def _write(self, saved: Saved, parts: Mapping[str, Mapping[str, Tensor]], kept: int) -> None:
        """Write this worker's files; on the first worker, also see the checkpoint to its end."""
        aside = self._folder / f".{saved.folder.name}.{self._token}"
        aside.mkdir(parents=True, exist_ok=True)
        try:
            written: dict[str, Any] = {}
            for name, tensors in parts.items():
                files.write_tensors(aside / name, tensors)
                written[name] = files.describe(aside / name)
            if not self._first:
                write_json(aside / _receipt(self._head.shard.rank), written)
                return
            if self._identities is not None:
                table = pa.table({"identity": self._identities.names})
                write_table(aside / files.IDENTITIES, table.schema, [table])
                written[files.IDENTITIES] = files.describe(aside / files.IDENTITIES)
            written |= self._parts_of_others(aside)
            write_json(aside / files.STATE, {**saved.content, "files": written})
            sync(aside)
            self._put_in_place(aside, saved.folder, kept)
        except BaseException:
            own = [*parts, *((files.IDENTITIES, files.STATE) if self._first else ())]
            for name in own:  # on a full disk, their room is needed
                (aside / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                if not self._first:  # the first worker need not wait; no room is no hindrance
                    (aside / _receipt(self._head.shard.rank)).touch()
                aside.rmdir()  # unless others' parts are in it
            raise

    def _parts_of_others(self, aside: Path) -> dict[str, Any]:
        """What the other workers have written, once they all have."""
        found: dict[str, Any] = {}
        longest = time.monotonic() + LONGEST_WAIT
        for rank in range(1, self._head.shard.world_size):
            receipt = aside / _receipt(rank)
            while not receipt.exists():
                if time.monotonic() > min(longest, self._given_up):
                    raise OSError(errno.ETIMEDOUT, f"worker {rank} wrote no part", str(aside))
                time.sleep(POLL)
            content = receipt.read_text("utf-8")
            if not content:
                raise OSError(errno.EIO, f"worker {rank} could not write its part", str(aside))
            found |= json.loads(content)
            receipt.unlink()
        return found

    def _put_in_place(self, aside: Path, final: Path, kept: int) -> None:
        # One of this step is there where a run went on from before it: damaged, or of another way.
        if final.exists():
            _remove(final)
        os.rename(aside, final)
        sync(self._folder)
        files.check(final)
        others = sorted((f for f in folders(self._folder) if f != final), key=_step)
        before = [folder for folder in others if _step(folder) < _step(final)]
        spared = before[len(before) - kept + 1 :]
        for folder in others:
            if folder not in spared:
                _remove(folder)


def folders(place: Path) -> Iterator[Path]:
    """The checkpoints in a run's `checkpoints/`, in no order."""
    return (f for f in place.glob("[0-9]*") if f.name.isdecimal() and f.is_dir())


def _remove(folder: Path) -> None:
    """Away with a folder at once: a half-deleted one would pass for a damaged checkpoint."""
    gone = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _step(folder: Path) -> int:
    return int(folder.name)


def _receipt(rank: int) -> str:
    return f"worker-{rank}.json"


def add_up(head: Head, number: int) -> int:
    """The sum of a number over the workers; what the first one alone knows, the others give as 0.

    Every worker calls it, and goes on when all have.
    """
    if not head.shard.connected:
        return number
    total = torch.tensor(number, dtype=torch.int64, device=head.centers.device)
    dist.all_reduce(total)
    return int(total)


def _pieces(head: Head) -> Iterator[tuple[int, int]]:
    start = 0
    for size in head.shard.sizes:
        yield start, start + size
        start += size
