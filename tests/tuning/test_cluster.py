"""How trials share machines: never more than there is, and threads enough to use it."""

from __future__ import annotations

import pytest

from facerec.config import ConfigError
from facerec.tuning.cluster import Slots, plan


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "trials", "sampler", "slots"),
    [
        ([2], [0], 1, 8, "tpe", Slots(2, 1, 1, False)),
        ([2], [0], 2, 8, "tpe", Slots(1, 2, 1, False)),
        ([1], [0], 1, 8, "tpe", Slots(1, 1, 1, False)),
        ([2], [0], 1, 1, "tpe", Slots(1, 1, 2, False)),
        ([16], [0], 1, 8, "tpe", Slots(2, 1, 8, False)),  # TPE wants to learn
        ([16], [0], 1, 8, "random", Slots(8, 1, 2, False)),
        ([16], [0], 1, 100, "random", Slots(16, 1, 1, False)),
        ([16], [4], 1, 100, "random", Slots(4, 1, 4, True)),
        ([16], [4], 2, 100, "random", Slots(2, 2, 4, True)),
        ([4], [8], 1, 100, "random", Slots(4, 1, 1, True)),  # fewer cores than accelerators
        ([3, 3], [0, 0], 1, 4, "random", Slots(4, 1, 1, False)),  # two threads would not fit
        ([8, 8], [0, 1], 1, 4, "random", Slots(1, 1, 8, True)),
        ([8, 8], [2, 2], 4, 4, "random", Slots(1, 4, 4, True)),
    ],
)
def test_the_machine_is_shared(
    cpus: list[float], gpus: list[float], workers: int, trials: int, sampler: str, slots: Slots
) -> None:
    assert plan(cpus, gpus, workers=workers, trials=trials, sampler=sampler) == slots


def test_no_plan_takes_more_than_there_is() -> None:
    for cores in range(1, 20):
        for gpus in range(4):
            for workers in range(1, 4):
                for trials in (1, 3, 50):
                    try:
                        slots = plan(
                            [cores, 2], [gpus, 0], workers=workers, trials=trials, sampler="random"
                        )
                    except ConfigError:
                        continue
                    processes = slots.count * slots.workers
                    room = [
                        min(c // slots.threads, g) if slots.gpu else c // slots.threads
                        for c, g in ((cores, gpus), (2, 0))
                    ]
                    assert 1 <= processes <= sum(room)
                    assert slots.count <= trials


@pytest.mark.parametrize(("cpus", "gpus"), [([2], [0]), ([64], [2])])
def test_too_many_workers_are_refused(cpus: list[float], gpus: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"--workers 3: .* there are 2; give --workers 2"):
        plan(cpus, gpus, workers=3, trials=8, sampler="tpe")
