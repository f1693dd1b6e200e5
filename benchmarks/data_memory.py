"""The memory that a call takes in a process of its own, what is mapped from files left out."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch


def highest(run: Callable[..., Any], *arguments: Any) -> float:
    """Megabytes of memory at most, mapped files apart, of a fresh process that calls `run`."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_watched, args=(there, run, arguments)
    )
    process.start()
    highest: float = here.recv()
    process.join()
    return highest


def _watched(door: Connection, run: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    seen, end = [_anonymous()], threading.Event()

    def watch() -> None:
        while not end.wait(0.02):
            seen.append(_anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(*arguments)
    end.set()
    watcher.join()
    door.send(round(max(seen), 1))


def _anonymous() -> float:
    """Megabytes of this process and its children that no file holds (Linux)."""
    total = 0
    for pid in (os.getpid(), *_children(os.getpid())):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1])
    return total * 1024 / 1e6


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, task.read_text().split())
