"""Trials without room: named after a minute, given up only where no room can come."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from facerec.tuning import waiting
from facerec.tuning.cluster import Slots
from facerec.tuning.trials import Job
from facerec.tuning.waiting import ABSENCE, PATIENCE, Waiting, places
from tests.tuning.conftest import small_sweep


class Machine:
    """Ray as far as it is asked, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
        self.now, self.state = 0.0, state
        self.nodes = [{"CPU": 2.0}]
        self.pending(1)
        ray = SimpleNamespace(
            nodes=lambda: [{"Alive": True, "Resources": node} for node in self.nodes],
            available_resources=lambda: {"CPU": 0.5},
            cluster_resources=lambda: {"CPU": sum(node["CPU"] for node in self.nodes)},
        )
        monkeypatch.setattr(waiting, "ray", ray)
        monkeypatch.setattr(waiting, "placement_group_table", lambda: self.groups)

    def pending(self, count: int, *bundles: dict[str, float]) -> None:
        group = {"state": self.state, "bundles": dict(enumerate(bundles or ({"CPU": 1.0},)))}
        self.groups = {str(n): group for n in range(count)}


@pytest.fixture(params=["PENDING", "RESCHEDULING"])  # the latter after its node was lost
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch, request.param)


def job(folder: Path, workers: int = 1) -> Job:
    slots = Slots(2, workers, 1, 0.0)
    return Job(small_sweep().base, folder, "small", "val.tar", slots)


def trial(number: int, status: str) -> Any:
    began = SimpleNamespace(start_time=0.0)
    return SimpleNamespace(config={"number": number}, status=status, run_metadata=began)


def looked(watch: Waiting, machine: Machine, trials: list[Any], at: float) -> tuple[Any, str]:
    machine.now = at
    return watch.look(trials)


def test_a_trial_without_room_is_named_within_a_minute(machine: Machine, tmp_path: Path) -> None:
    watch = Waiting(job(tmp_path), clock=lambda: machine.now)
    trials = [trial(0, "RUNNING"), trial(1, "PENDING")]
    assert looked(watch, machine, trials, 0) == ([], "")
    assert looked(watch, machine, trials, PATIENCE - 1) == ([], "")
    lines, never = looked(watch, machine, trials, PATIENCE + 4.5)
    assert lines == ["small-001  has waited 64 s for 1 CPU; free are 0.5 of 2 CPU"]
    assert never == ""  # another one runs: it will make room
    assert looked(watch, machine, trials, 3 * PATIENCE) == ([], "")  # once is enough
    trials[1].status = "RUNNING"
    assert looked(watch, machine, trials, 4 * PATIENCE) == ([], "")


@pytest.mark.parametrize(
    ("joined", "nodes", "after", "why"),
    [
        (False, [{"CPU": 2.0}], 1, ""),
        (False, [{"CPU": 2.0}], 2, "nothing of this sweep runs, and free are 0.5 of 2 CPU"),
        (True, [{"CPU": 2.0}], 9, ""),  # others may give back what they hold
        (True, [{"CPU": 0.5}], 9, ""),  # a node that was lost may come back
        (True, [{"CPU": 0.5}], ABSENCE / PATIENCE, "no node is left that has it"),
        (False, [], 1, "no node is left that has it"),
    ],
)
def test_it_is_given_up_where_no_room_can_come(
    joined: bool, nodes: Any, after: float, why: str, machine: Machine, tmp_path: Path
) -> None:
    watch = Waiting(job(tmp_path), joined=joined, clock=lambda: machine.now)
    machine.nodes = nodes
    trials = [trial(1, "PENDING")]
    looked(watch, machine, trials, 0)
    never = looked(watch, machine, trials, after * PATIENCE + 0.5)[1]
    assert (why in never) if why else (never == "")
    if why:
        assert never.startswith("small-001 cannot start: it takes 1 CPU, and ")


def test_a_trial_that_is_slow_to_start_is_not_waiting(machine: Machine, tmp_path: Path) -> None:
    watch = Waiting(job(tmp_path), clock=lambda: machine.now)
    trials = [trial(0, "PENDING"), trial(1, "PENDING")]
    machine.pending(0)  # both have their places
    looked(watch, machine, trials, 0)
    assert looked(watch, machine, trials, 9 * PATIENCE) == ([], "")
    machine.pending(1)
    looked(watch, machine, trials, 10 * PATIENCE)
    lines, never = looked(watch, machine, trials, 13 * PATIENCE)
    assert [line.partition("  ")[0] for line in lines] == ["small-001"]
    assert never == ""  # the other one is on its way


def test_workers_that_ray_train_cannot_place_are_seen(machine: Machine, tmp_path: Path) -> None:
    watch = Waiting(job(tmp_path, workers=2), clock=lambda: machine.now)
    trials = [trial(0, "RUNNING"), trial(1, "RUNNING")]
    begun = tmp_path / "checkpoints" / "0" / "config.json"
    begun.parent.mkdir(parents=True)
    begun.write_text("{}")
    os.utime(begun, (10.0, 10.0))
    machine.pending(1, {"CPU": 7.0}, {"CPU": 7.0})
    looked(watch, machine, trials, 0)
    assert looked(watch, machine, trials, 2 * PATIENCE)[0] == []  # another's group
    machine.pending(1, {"CPU": 0.95}, {"CPU": 0.95})
    looked(watch, machine, trials, 3 * PATIENCE)
    lines, never = looked(watch, machine, trials, 4 * PATIENCE + 1)
    assert [line.partition("  ")[0] for line in lines] == ["small-001"]  # the first one trains
    assert "2 x 0.95 CPU" in lines[0]
    assert never == ""


def test_a_trial_that_lost_a_node_says_what_is_left(machine: Machine, tmp_path: Path) -> None:
    watch = Waiting(job(tmp_path, workers=2), joined=True, clock=lambda: machine.now)
    lost = trial(0, "RUNNING")
    machine.pending(0)
    watch.starts(lost)
    begun = tmp_path / "checkpoints" / "0" / "config.json"
    begun.parent.mkdir(parents=True)
    begun.write_text("{}")
    assert looked(watch, machine, [lost], 0) == ([], "")
    watch.starts(lost)  # again: what was written belongs to the first time
    machine.nodes = [{"CPU": 1.0}]
    machine.pending(1, {"CPU": 0.95}, {"CPU": 0.95})
    looked(watch, machine, [lost], 10)
    (line,), never = looked(watch, machine, [lost], 10 + PATIENCE)
    assert line == (
        "small-000  has waited 60 s for 2 x 0.95 CPU; free are 0.5 of 1 CPU; the nodes that are "
        "left have room for 1 of 2 workers, and without another the sweep ends in 540 s"
    )
    assert never == ""
    never = looked(watch, machine, [lost], 10 + ABSENCE)[1]
    assert "takes 2 x 0.95 CPU, and the nodes that are left have room for 1 of its 2" in never
    os.utime(begun, ns=(0, 0))  # as the workers do that found room
    assert looked(watch, machine, [lost], 30 + ABSENCE) == ([], "")


@pytest.mark.parametrize(
    ("slots", "nodes", "room"),
    [
        (Slots(1, 1, 2, 0.0), [{"CPU": 1.0}, {"CPU": 1.0}], 0),
        (Slots(1, 2, 1, 0.0), [{"CPU": 1.0}, {"CPU": 1.0}], 2),
        (Slots(1, 1, 1, 0.3333), [{"CPU": 1.0, "GPU": 1.0}], 1),
        (Slots(1, 3, 1, 1.0), [{"CPU": 9.0, "GPU": 2.0}, {"CPU": 9.0}], 2),
    ],
)
def test_how_many_places_nodes_have(slots: Slots, nodes: Any, room: int) -> None:
    assert places(slots, nodes) == room
