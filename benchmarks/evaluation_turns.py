"""Both sides of a comparison in turns, and the memory that one of them takes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TURNS = 5


def in_turns(
    ours: Callable[[int], Any], reference: Callable[[int], Any], share: int = 1
) -> tuple[dict[str, Any], Any, Any]:
    """Seconds of both sides, the ratio of their medians, and what both returned last.

    The processor's seconds, of all threads, count no waiting for a core that others use; threads
    that wait for each other are counted.

    Args:
        ours: Called with the turn's number.
        reference: Likewise; each of its turns does one part in `share` of the work.
        share: By which its seconds are multiplied.
    """
    names = "seconds", "processor_seconds"
    clocks = time.perf_counter, time.process_time
    times: list[dict[str, list[float]]] = [{name: [] for name in names} for _ in range(2)]
    found: list[Any] = [None, None]
    for turn in range(TURNS):
        for which, run in enumerate((ours, reference)):
            began = [clock() for clock in clocks]
            found[which] = run(turn)
            for name, clock, start in zip(names, clocks, began, strict=True):
                times[which][name].append((clock() - start) * (share if which else 1))
    result: dict[str, Any] = {"reference / ours": {}, "ours": {}, "reference": {}}
    for name in names:
        mine, other = (statistics.median(side[name]) for side in times)
        result["reference / ours"][name] = round(other / mine, 3)
        for side, taken in zip(("ours", "reference"), times, strict=True):
            result[side][name] = [round(one, 4) for one in taken[name]]
    return result, found[0], found[1]


def peak(run: Callable[[], Any]) -> tuple[float, float]:
    """Gigabytes of the process before, and at most during a run (Linux)."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the highest so far
    run()
    return round(before, 2), round(_status("VmHWM"), 2)


def load() -> float:
    """How many threads wanted a core in the last minute, its own ones among them."""
    return round(os.getloadavg()[0], 1)


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise KeyError(name)
