"""A trial that ran out of memory on a shared accelerator has it alone the next time.

Two files of locks for each accelerator, in a folder of this machine: trials share the first, one
that is to be alone holds it whole. Everybody passes the second on the way in, so that those who
come later cannot overtake one who waits to be alone. Locks end with the process that holds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = ".out_of_memory"  # in a run folder


def mark(run: Path) -> None:
    """Note that a trial ran out of memory."""
    run.mkdir(parents=True, exist_ok=True)
    (run / MARK).touch()


@contextmanager
def place(sweep: Path, run: Path, device: str) -> Iterator[bool]:
    """Hold a place on an accelerator while the block runs; waits where it has to be alone.

    Args:
        sweep: The sweep's folder.
        run: The trial's run folder: whether it ran out of memory before.
        device: Names the accelerator on this machine.

    Yields:
        Whether the trial is alone there.
    """
    alone = (run / MARK).exists()
    name = hashlib.sha256(f"{sweep.resolve()} {device}".encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"facerec-{os.getuid()}-{name}"
    with path.with_suffix(".place").open("w") as held:
        with path.with_suffix(".turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield alone
