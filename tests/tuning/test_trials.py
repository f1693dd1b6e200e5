"""One trial without Ray: what it sends, and how each way to end is said."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from facerec import checkpoint, history
from facerec.config import ConfigError, override
from facerec.data.shards import DataError
from facerec.train import Diverged
from facerec.tuning import trials
from facerec.tuning.cluster import Slots
from facerec.tuning.messages import DIVERGED, WORST
from facerec.tuning.trials import Job
from tests.tuning.conftest import small_base

LESS = "optimizer.accumulate=2 or fewer trials at once need less"
SETTING = {"number": 7, "loss.margin": 0.3125, "loss.scale": 42.0}


@pytest.fixture
def job(tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # what a trial sets is undone
    threads = torch.get_num_threads()
    slots = Slots(1, 1, 1, gpu=False)
    yield Job(small_base(toy_shards), tmp_path, "small", "val.tar", slots)
    torch.set_num_threads(threads)


def trained(job: Job) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    trials._train(job, SETTING, lambda message: sent.append(dict(message)))
    return sent


def test_a_trial_sends_each_epoch_and_its_end(job: Job) -> None:
    sent = trained(job)
    assert [m["epoch"] for m in sent] == [1, 2, 2]
    assert [m["outcome"] for m in sent] == ["", "", "finished"]
    assert all(m["objective"] == m["metrics"]["val.tar"] for m in sent)
    saved = (job.run(7) / "config.json").read_text()
    assert '"loss.margin": 0.3125' in saved


def test_a_trial_that_was_complete_before_is_told_again_not_trained_again(job: Job) -> None:
    first = trained(job)
    newest = checkpoint.latest(job.run(7))
    again = trained(job)
    assert again[-1] == first[-1]
    assert checkpoint.latest(job.run(7)) == newest


def test_a_damaged_checkpoint_is_a_start_from_the_beginning(job: Job) -> None:
    first = trained(job)
    newest = checkpoint.latest(job.run(7))
    assert newest is not None
    weights = newest / "backbone.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    again = trained(job)
    assert [m["epoch"] for m in again] == [1, 2, 2]
    assert again[-1]["metrics"]["val.tar"] == first[-1]["metrics"]["val.tar"]
    assert len(history.read(job.run(7))) == 2


def test_scores_that_are_not_numbers_become_the_worst(job: Job) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        message = trials._message(job, {"epoch": 1.0, "val.tar": value})
        assert message["objective"] == 0.0


def test_a_metric_that_is_not_reported_is_named(job: Job) -> None:
    with pytest.raises(ConfigError, match=r"val\.tar: .*Did you mean val\.tar@far=1e-2"):
        trials._message(job, {"epoch": 1.0, "val.tar@far=1e-2": 0.5})


@pytest.mark.parametrize(
    ("error", "outcome", "text"),
    [
        (Diverged("nan_loss", 3), "diverged", "nan_loss"),
        (DataError("not a JPEG", key="a/1"), "refused", "key a/1: not a JPEG"),
        (ConfigError("metric = x"), "refused", "metric = x"),
        (MemoryError("no room"), "accident", f"out of memory (no room); {LESS}"),
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 1 GiB"
            ),
            "accident",
            f"out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); {LESS}",
        ),
        (RuntimeError("trace\nof a mistake"), "accident", "RuntimeError: of a mistake"),
    ],
)
def test_each_way_to_end_is_said(error: Exception, outcome: str, text: str) -> None:
    sent: list[Mapping[str, Any]] = []

    def work() -> None:
        raise error

    if outcome == "accident":
        with pytest.raises(type(error)):  # Tune has to see it, to run the trial again
            trials._guarded(work, sent.append)
    else:
        trials._guarded(work, sent.append)
    assert [(m["outcome"], m["text"]) for m in sent] == [(outcome, text)]


def test_memory_that_cannot_be_had_is_called_by_its_name() -> None:
    """PyTorch has no type of its own for it on the CPU."""
    sent: list[Mapping[str, Any]] = []
    with pytest.raises(RuntimeError):
        trials._guarded(lambda: torch.empty(10**16), sent.append)  # type: ignore[arg-type]
    assert sent[0]["outcome"] == "accident"
    assert sent[0]["text"].startswith("out of memory (")
    assert "40000000000000000 bytes" in sent[0]["text"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"),
    ],
)
def test_a_full_disk_is_no_accident_of_a_trial(error: Exception) -> None:
    def work() -> None:
        raise error

    sent: list[Mapping[str, Any]] = []
    trials._guarded(work, sent.append)
    assert [message["outcome"] for message in sent] == ["refused"]
    assert sent[0]["text"].endswith("make room, and go on with --resume")


def test_a_divergence_is_told_with_its_numbers() -> None:
    sent: list[Mapping[str, Any]] = []

    def work() -> None:
        raise Diverged("exploding_centers", 30, "the longest center has length 2e+05")

    trials._guarded(work, sent.append)
    assert sent == [
        {
            "objective": WORST,
            "outcome": DIVERGED,
            "text": "exploding_centers",
            "detail": "exploding_centers at step 30: the longest center has length 2e+05",
        }
    ]


def test_a_trial_whose_data_went_is_refused(job: Job, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(job.base.data.train, gone)
    for path in gone.glob("val-*"):
        path.unlink()
    base = override(job.base, {"data.train": str(gone)})
    broken = Job(base, tmp_path, "small", "val.tar", job.slots)
    sent: list[Mapping[str, Any]] = []
    trials._guarded(lambda: trials._train(broken, SETTING, sent.append), sent.append)
    assert sent[-1]["outcome"] == "refused"
    assert "val-00000.parquet" in sent[-1]["text"]


def test_a_title_can_be_read(job: Job) -> None:
    assert job.title(SETTING) == "small-007 margin=0.312 scale=42"
    assert job.title({"number": 12, "loss.bias_init": "zero"}) == "small-012 bias_init=zero"


def test_train_runs_get_names_that_no_attempt_has_used(tmp_path: Path) -> None:
    assert trials._unused(tmp_path, "small-001 margin=0.3") == "small-001 margin=0.3"
    (tmp_path / "small-001 margin=0.3").mkdir()
    assert trials._unused(tmp_path, "small-001 margin=0.3") == "small-001 margin=0.3 attempt 2"
