"""How trials share machines: never more than there is, and threads enough to use it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from facerec.config import ConfigError
from facerec.tuning import cluster
from facerec.tuning.cluster import Cluster, Slots, plan


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


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "workers", "count", "each"),
    [
        ([16], [2], 1 / 3, 1, 6, {"CPU": 2, "GPU": 0.3333}),
        ([4], [2], 1 / 3, 1, 4, {"CPU": 1, "GPU": 0.3333}),  # cores are the scarcest
        ([16], [1], 1 / 7, 1, 7, {"CPU": 2, "GPU": 0.1428}),
        ([16], [2], 0.6, 1, 2, {"CPU": 8, "GPU": 0.6}),  # a share never spans two
        ([16], [4], 2.0, 1, 2, {"CPU": 8, "GPU": 2}),
        ([16], [5], 2.0, 2, 1, {"CPU": 7.6, "GPU": 2}),
        ([8, 8], [3, 3], 2.0, 1, 2, {"CPU": 8, "GPU": 2}),  # the third of each is left over
        ([8], [0], 0.5, 2, 4, {"CPU": 0.95}),  # without accelerators it does not count
    ],
)
def test_accelerators_are_shared_or_given_by_the_pair(
    cpus: list[float],
    gpus: list[float],
    share: float,
    workers: int,
    count: int,
    each: dict[str, float],
) -> None:
    slots = plan(cpus, gpus, workers=workers, trials=100, sampler="random", share=share)
    assert slots.count == count
    assert slots.each == pytest.approx(each)


def test_no_plan_takes_more_than_there_is() -> None:
    shares = (1.0, 2.0, *(1 / n for n in range(2, 9)))
    cases = itertools.product(range(1, 20), range(4), range(1, 4), (1, 3, 50), shares)
    for cores, gpus, workers, trials, share in cases:
        try:
            slots = plan(
                [cores, 2], [gpus, 0], workers=workers, trials=trials, sampler="random", share=share
            )
        except ConfigError:
            continue
        assert 1 <= slots.count <= trials
        processes = slots.count * slots.workers
        assert processes * slots.threads <= cores + 2
        if slots.gpu:  # whole ones, or shares that no accelerator gives more of than it has
            on_each = max(int(1 / slots.gpu + 1e-9), 1)
            assert on_each * slots.gpu <= 1 or slots.gpu == int(slots.gpu)
            assert processes <= (gpus * on_each if slots.gpu < 1 else gpus // slots.gpu)


def test_what_no_node_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 accelerators and a CPU core, .* --gpus-per-worker"):
        plan([8, 8], [1, 1], workers=1, trials=4, sampler="tpe", share=2.0)
    with pytest.raises(ConfigError, match=r"--workers 2: .* cannot share .* --workers 1"):
        plan([8], [1], workers=2, trials=4, sampler="tpe", share=0.5)


def test_sweeps_within_one_another_share_the_outer_ones_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []

    @contextmanager
    def up(address: str, gpus: bool) -> Iterator[Cluster]:
        started.append("up")
        yield Cluster("", (2.0,), (0.0,))
        started.append("down")

    monkeypatch.setattr(cluster, "_up", up)
    with cluster.lasting():
        for _ in range(2):
            with cluster.lasting(), cluster.running():
                pass
        assert started == ["up"]
    assert started == ["up", "down"]


@pytest.mark.parametrize(("cpus", "gpus"), [([2], [0]), ([64], [2])])
def test_too_many_workers_are_refused(cpus: list[float], gpus: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"--workers 3: .* there are 2; give --workers 2"):
        plan(cpus, gpus, workers=3, trials=8, sampler="tpe")
