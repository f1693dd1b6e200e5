"""Trials that share an accelerator: never more than its memory holds, and alone after all else."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from facerec.config import ConfigError, override
from facerec.domains import Choice, IntUniform
from facerec.planning import forecast
from facerec.presets import laptop
from facerec.tuning import alone, options, packing, trials
from facerec.tuning.cluster import Slots, plan
from facerec.tuning.halving import JournalHalving
from facerec.tuning.packing import Free, pack
from facerec.tuning.sweep import Sweep
from facerec.tuning.trials import Job
from tests.tuning.conftest import small_sweep

DATA = packing.Data(1000, 50_000, 112)
SPACE = {
    "backbone.name": Choice(("tiny", "mobilefacenet")),
    "data.batch_size": IntUniform(32, 256),
    "optimizer.accumulate": Choice((1, 4)),
    "data.cache": Choice(("none", "device")),
}


def searching(**changes: object) -> Sweep:
    return small_sweep(space=SPACE, points=(), **changes)


def test_no_packing_takes_more_than_there_is() -> None:
    sweep = searching()
    each = [
        packing._needed(
            sweep.config(dict(zip(SPACE, values, strict=True))), DATA, Free(0), sweep.workers
        )
        for values in itertools.product(
            ("tiny", "mobilefacenet"), (32, 256), (1, 4), ("none", "device")
        )
    ]
    for gigabytes in (13, 30, 141):
        found = pack(sweep, DATA, Free(gigabytes * 1e9))
        assert found.needed == max(each)
        assert found.trials * found.needed <= 0.9 * gigabytes * 1e9
        assert (found.trials + 1) * found.needed > 0.9 * gigabytes * 1e9
        slots = plan([64], [2], workers=1, trials=100, sampler="random", share=1 / found.trials)
        assert slots.count == min(2 * found.trials, 64)
    assert found.setting == {
        "backbone.name": "mobilefacenet",
        "data.batch_size": 256,
        "optimizer.accumulate": 1,
        "data.cache": "device",
    }
    assert "data.batch_size=256" in str(found)
    assert f"{found.needed / 1e9:.1f} GB" in str(found)


def test_what_does_not_fit_once_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--trials-per-gpu auto: .* 0\.9 GB .*accumulate=2"):
        pack(searching(), DATA, Free(1e9))
    assert pack(searching(workers=2), DATA, Free(80e9)).trials == 1


@pytest.mark.parametrize("epochs", [1, 2, 5, 8, 10, 16, 28])
def test_plans_know_where_trials_are_stopped(epochs: int) -> None:
    nothing = SimpleNamespace(reported=dict)
    halving = JournalHalving(epochs, nothing)  # type: ignore[arg-type]
    milestones = sorted(milestone for milestone, _ in halving._brackets[0]._rungs)
    assert forecast.rungs(epochs) == [m for m in milestones if m <= 0.75 * epochs]


def test_without_an_accelerator_nothing_is_shared() -> None:
    share, said = packing.share_of(searching(), (0.0, 0.0))
    assert share == 1.0
    assert "nothing to share" in said


@pytest.mark.parametrize(("word", "pack_them", "share"), [("auto", True, 1.0), ("4", False, 0.25)])
def test_the_option_is_a_number_or_auto(word: str, pack_them: bool, share: float) -> None:
    found = options.read("small", ["--trials-per-gpu", word])
    assert (found.pack, found.gpus_per_worker) == (pack_them, share)


def test_any_other_word_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--trials-per-gpu many: .* or auto"):
        options.read("small", ["--trials-per-gpu", "many"])


def test_who_ran_out_of_memory_is_alone_and_nobody_overtakes(tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("first", "second", "lost", "late")}
    alone.mark(runs["lost"])
    order: list[str] = []
    leave = {name: threading.Event() for name in runs}
    inside = {name: threading.Event() for name in runs}

    def live(name: str) -> None:
        with alone.place(tmp_path, runs[name], "0") as is_alone:
            assert is_alone == (name == "lost")
            order.append(name)
            inside[name].set()
            leave[name].wait(10)
            order.append(f"{name} left")

    threads = {name: threading.Thread(target=live, args=(name,)) for name in runs}
    for name in ("first", "second"):
        threads[name].start()
        assert inside[name].wait(10)  # two share
    threads["lost"].start()
    assert not inside["lost"].wait(0.1)
    threads["late"].start()
    assert not inside["late"].wait(0.1)
    for name in ("first", "second", "lost", "late"):
        leave[name].set()
    for thread in threads.values():
        thread.join(10)
    assert order[4:] in (["lost", "lost left", "late", "late left"],)
    with alone.place(tmp_path, runs["late"], "1"):  # another accelerator
        pass


def test_a_trial_out_of_memory_is_marked_for_its_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trials, "_train", full)
    base = override(laptop(), {"data.train": "nowhere"})
    for share, marked in ((1.0, False), (0.5, True)):
        job = Job(base, tmp_path, "small", "val.tar", Slots(1, 1, 1, share))
        with pytest.raises(torch.OutOfMemoryError):
            trials._train_in_place(job, {"number": 3}, lambda message: None)
        assert (job.run(3) / alone.MARK).exists() == marked
