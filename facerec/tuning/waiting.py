"""Trials that wait for room: named within a minute, and given up where none is likely to come.

Ray itself waits without a word. A trial waits where it has not begun (Tune has not started it, or
Ray Train not its workers) and a placement group of just its size is pending.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util import placement_group_table

from facerec.tuning.cluster import Slots
from facerec.tuning.trials import DRIVER_CPU, Job

PATIENCE = 60.0  # seconds until a trial without room is named; twice that, and it is given up
ABSENCE = 600.0  # seconds that a lost node of a cluster may take to come back
_LOOK = 5.0  # seconds between two looks
_AGAIN = 600.0  # seconds between two lines about the same trial
_WAITING = ("PENDING", "RESCHEDULING")  # the latter after its node was lost


class Waiting:
    """Watches for trials that get no room.

    Args:
        job: What the trials have in common.
        joined: Whether others may be using this Ray too: what they hold, they may give back.
        clock: Seconds, upwards.
    """

    def __init__(
        self, job: Job, *, joined: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._job, self._joined, self._clock = job, joined, clock
        self._looked = -_LOOK
        self._since: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._before: dict[int, int] = {}

    def starts(self, trial: Any) -> None:
        """Note that Tune starts a trial, for the first time or again."""
        self._before[trial.config["number"]] = self._written(trial)

    def look(self, trials: Sequence[Any]) -> tuple[list[str], str]:
        """Look for trials that wait; costs nothing where it was done a moment ago.

        Args:
            trials: Tune's.

        Returns:
            Lines for the reader; and why none of the trials can ever run, or nothing.
        """
        now = self._clock()
        if now - self._looked < _LOOK:
            return [], ""
        self._looked = now
        groups = self._groups()
        starved = [trial for trial in trials if trial.status == "PENDING"]
        going = [trial for trial in trials if trial.status == "RUNNING"]
        if self._job.slots.workers > 1:
            starved += [trial for trial in going if not self._has_begun(trial)]
            going = [trial for trial in going if self._has_begun(trial)]
        # Those that have their place may take long to start; the first ones have it.
        starting, starved = starved[: -groups or None], starved[-groups:] if groups else []
        titles = [self._job.title(trial.config) for trial in starved]
        self._since = {title: self._since.get(title, now) for title in titles}
        late = [title for title in titles if now - self._since[title] >= PATIENCE]
        if not late:
            return [], ""
        return self._lines(late, now), "" if going or starting else self._never(late, now)

    def _lines(self, late: Sequence[str], now: float) -> list[str]:
        new = [title for title in late if now - self._told.get(title, -_AGAIN) >= _AGAIN]
        self._told |= dict.fromkeys(new, now)
        return [
            f"{title}  has waited {now - self._since[title]:.0f} s for {self._need()}; "
            f"{self._free()}{self._hope(now - self._since[title])}"
            for title in new
        ]

    def _never(self, late: Sequence[str], now: float) -> str:
        """Why none can run where none does; empty where one may get room yet."""
        slots, waited = self._job.slots, now - self._since[late[0]]
        if (room := places(slots, self._nodes())) < slots.workers:
            if self._joined and waited < ABSENCE:
                return ""
            why = "no node is left that has it"
            if room:
                why = f"the nodes that are left have room for {room} of its {slots.workers} workers"
        elif self._joined or waited < 2 * PATIENCE:
            return ""
        else:
            why = f"nothing of this sweep runs, and {self._free()}"
        return (
            f"{late[0]} cannot start: it takes {self._need()}, and {why}; run it where "
            "there is room (--resume, if it had begun), or give fewer --workers, or a smaller "
            "--gpus-per-worker"
        )

    def _hope(self, waited: float) -> str:
        """How long it waits for a node, where those that are left cannot hold it."""
        slots = self._job.slots
        if not self._joined or (room := places(slots, self._nodes())) >= slots.workers:
            return ""
        return (
            f"; the nodes that are left have room for {room} of {slots.workers} workers, and "
            f"without another the sweep ends in {max(ABSENCE - waited, 0.0):.0f} s"
        )

    def _need(self) -> str:
        slots = self._job.slots
        times = f"{slots.workers} x " if slots.workers > 1 else ""
        return times + " and ".join(f"{amount:g} {kind}" for kind, amount in slots.each.items())

    def _free(self) -> str:
        free, there = ray.available_resources(), ray.cluster_resources()
        kinds = self._job.slots.each
        return "free are " + ", ".join(
            f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind}" for kind in kinds
        )

    def _nodes(self) -> list[Mapping[str, float]]:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def _groups(self) -> int:
        """Count the pending placement groups of one trial's size, or of its driver's."""
        sizes = [[self._job.slots.each] * self._job.slots.workers, [{"CPU": DRIVER_CPU}]]
        return sum(
            group["state"] in _WAITING and list(group["bundles"].values()) in sizes
            for group in placement_group_table().values()
        )

    def _has_begun(self, trial: Any) -> bool:
        """Whether its workers have written the run's config since Tune started it (last)."""
        return self._written(trial) != self._before.get(trial.config["number"], 0)

    def _written(self, trial: Any) -> int:
        """When the run's config was written, by its file system's clock; 0 where it was not."""
        try:
            config = self._job.run(trial.config["number"]) / "config.json"
            return config.stat().st_mtime_ns
        except FileNotFoundError:
            return 0


def places(slots: Slots, nodes: Sequence[Mapping[str, float]]) -> int:
    """Count the processes of a trial that nodes hold when nothing else is on them.

    Args:
        slots: What a trial takes.
        nodes: Resources of each node.
    """
    return sum(
        min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in slots.each.items())
        for node in nodes
    )
