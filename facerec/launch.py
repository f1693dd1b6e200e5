"""Several workers started by `torchrun`: how they find each other, and how they end together.

`torchrun` starts N processes of one command and tells each its number by environment variables.
Here they form the process group that `facerec.train` looks for. Where one of them ends badly, the
first to notice says why, once for all of them, and all end with its exit status; `torchrun` ends
those that still wait for another.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from facerec.values import ConfigError

PATIENCE = timedelta(hours=4)  # for a collective: the others wait while the first worker measures
_LISTENED = timedelta(seconds=10)  # for what the first to speak has to say

_rendezvous: Any = dist.rendezvous  # type: ignore[attr-defined]
_PrefixStore: Any = dist.PrefixStore  # type: ignore[attr-defined]

_shared: list[Any] = []  # the store of the group that this process is in


def started_together() -> bool:
    """Whether this process is one of several that `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the first of its group, or alone."""
    return not _shared or dist.get_rank() == 0


def told_by_first(name: str, value: Callable[[], str]) -> str:
    """Let the first worker find a text, and tell it to the others.

    Args:
        name: Of the text, used once.
        value: Called on the first worker alone.
    """
    if not _shared:
        return value()
    if is_first():
        _shared[0].set(name, value())
    found: bytes = _shared[0].get(name)
    return found.decode()


def together(work: Callable[[], tuple[int, str]]) -> int:
    """Do the work of one worker inside the group of all; leaves the process where it failed.

    Args:
        work: Gives an exit status and, where that is not 0, what to say on stderr.

    Returns:
        0; any other status ends the process here, at once: to take an interrupted group apart
        could wait for the others.
    """
    text = ""
    try:
        _join()
        status, text = work()
    except KeyboardInterrupt:
        status, text = 130, "interrupted"
    except Exception as error:
        status, text = 1, traceback.format_exc().rstrip()
        if isinstance(error, ConfigError):
            status, text = 2, f"error: {error}"
        elif _says_lost(error):
            text = "error: another worker was lost; the same command with the same run=DIR resumes"
    if status:
        with contextlib.suppress(ValueError):  # not the main thread: no signal comes here
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # torchrun passes on what all have had
        status = _end(status, text)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    _shared.clear()
    dist.destroy_process_group()
    return 0


def _join() -> None:
    """Join the group, on NCCL where there are accelerators, else on gloo.

    Raises:
        ConfigError: The environment does not say who is who, or more workers than accelerators.
    """
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE = {os.environ['WORLD_SIZE']}, and {missing[0]} is not set; start with "
            "torchrun --nproc-per-node N -m facerec train ..., or unset WORLD_SIZE"
        )
    try:
        store, rank, size = next(_rendezvous("env://"))
    except dist.DistError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"the workers do not meet at {where}: {reason}") from None
    store.set_timeout(PATIENCE)
    _shared[:] = [_PrefixStore("facerec", store)]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if here == size:  # nothing has to leave this machine
        names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if names else ():
            os.environ.setdefault(variable, names[0])
    device = None
    if torch.cuda.is_available():
        if here > torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise ConfigError(
                f"--nproc-per-node {here}: this machine has {count} accelerators, one for each "
                f"worker; give --nproc-per-node {count}"
            )
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(device)
    dist.init_process_group(
        "gloo" if device is None else "nccl",
        store=_PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
        device_id=device,
    )


def _says_lost(error: Exception) -> bool:
    """Whether an error tells of another worker's end."""
    from_gloo = isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    return from_gloo or isinstance(error, dist.DistError)


def _end(status: int, text: str) -> int:
    """Say why, unless another worker has; gives the status that all end with."""
    try:
        (store,) = _shared
        if store.add("speaking", 1) > 1:
            store.wait(["spoken"], _LISTENED)  # none shall be ended before it has spoken
            return int(store.get("spoken"))
        print(text, file=sys.stderr, flush=True)
        store.set("spoken", str(status))
    except (ValueError, RuntimeError):  # not joined yet, or the store is gone
        print(text, file=sys.stderr, flush=True)
    return status
