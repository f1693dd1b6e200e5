"""Sweeps that are hit while they run: what they find is what an undisturbed one finds.

One trial runs at a time, so that the order of things is the same on every machine; the moments are
drawn from a seed and tied to what a sweep has saved.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from facerec import checkpoint
from facerec.tuning import results
from tests.tuning.chaos import TRIALS, Disturbed, Moment, SmallDisk, TwoNodes, moments
from tests.tuning.test_survival import Sweeping, assert_gone, command_line

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_slot() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": 1}))
        yield


@pytest.fixture(scope="module")
def undisturbed(
    one_slot: None, tmp_path_factory: pytest.TempPathFactory, toy_shards: Path
) -> results.Results:
    run = Disturbed(tmp_path_factory.mktemp("undisturbed"), toy_shards)
    try:
        assert run.start().end() == 0, run.log.read_text()
    finally:
        run.close()
    assert "1 trial at a time" in run.log.read_text()
    return results.load(run.sweep)


@pytest.fixture
def disturbed(tmp_path: Path, toy_shards: Path) -> Iterator[Disturbed]:
    run = Disturbed(tmp_path / "run", toy_shards)
    yield run
    run.close()


def _process(sweeping: Sweeping, part: str) -> int:
    (pid,) = (pid for pid, line in sweeping.family().items() if part in line)
    return pid


def _kill(disturbed: Disturbed, sweeping: Sweeping, moment: Moment) -> None:
    """Kill the driver; its trial would save once more before it misses it, and is killed too."""
    trial = _process(sweeping, "ray::ImplicitFunc")
    disturbed.wait(sweeping, moment)
    sweeping.process.kill()
    os.kill(trial, signal.SIGKILL)
    sweeping.end()
    assert_gone({trial: command_line(trial)})


def test_a_killed_driver_a_torn_journal_and_a_move(
    disturbed: Disturbed, undisturbed: results.Results, tmp_path: Path
) -> None:
    (moment,) = moments("driver", 2)
    killed = disturbed.start()
    disturbed.wait(killed, Moment(0, 1))
    _kill(disturbed, killed, moment)
    over = disturbed.over()
    assert len(over) == 2

    journal = disturbed.sweep / "small.journal"
    with journal.open("ab") as file:
        last = journal.read_bytes().splitlines()[-1]
        file.write(last[: len(last) // 2])  # torn
    shutil.rmtree(disturbed.sweep / "ray")
    disturbed.storage = disturbed.storage.rename(tmp_path / "elsewhere")
    assert disturbed.start("--resume").end() == 0, disturbed.log.read_text()
    disturbed.check(undisturbed)
    assert over.items() <= disturbed.over().items()  # what was finished was left alone
    disturbed.check_alone(moment.trial)
    assert not (tmp_path / "run" / "results").exists()


def test_a_damaged_checkpoint_and_tables_that_cannot_be_written(
    disturbed: Disturbed, undisturbed: results.Results
) -> None:
    first, second = moments("files", 1, 2)
    killed = disturbed.start()
    disturbed.wait(killed, first)
    in_the_way = [disturbed.sweep / name for name in ("trials.parquet", "trials.png")]
    for path in in_the_way:  # a folder cannot be replaced by a file, whoever runs this
        path.unlink(missing_ok=True)
        path.mkdir()
        (path / "in the way").touch()
    _kill(disturbed, killed, second)
    assert disturbed.log.read_text().count("tables cannot be written") == 1

    newest = checkpoint.latest(disturbed.sweep / results.run_folder(second.trial))
    assert newest is not None
    weights = newest / "backbone.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    for path in in_the_way:  # the trials are over with the first refusal
        disturbed.refusal(disturbed.start("--resume"))
        shutil.rmtree(path)
    assert set(disturbed.saved()) == set(range(TRIALS))
    assert disturbed.start("--resume").end() == 0, disturbed.log.read_text()
    disturbed.check(undisturbed)
    disturbed.check_alone(second.trial)


def test_lost_processes_then_more_trials_in_a_wider_space(
    disturbed: Disturbed, undisturbed: results.Results
) -> None:
    once, again = moments("processes", 1, 3)
    hit = disturbed.start()
    disturbed.wait(hit, once)
    os.kill(_process(hit, "ray::ImplicitFunc"), signal.SIGKILL)
    disturbed.wait(hit, Moment(again.trial - 1, 1))
    both = [_process(hit, part) for part in ("/raylet ", "ray::ImplicitFunc")]
    disturbed.wait(hit, again)
    for pid in both:
        os.kill(pid, signal.SIGKILL)
    assert "no node of Ray is left" in disturbed.refusal(hit)
    assert re.search(r"small-001 .* met an accident, runs again", disturbed.log.read_text())
    over = disturbed.over()
    assert sorted(over) == [0, 1, 2]

    more = disturbed.start("--resume", "--trials", str(TRIALS + 2), widest=0.9)
    assert more.end() == 0, disturbed.log.read_text()
    disturbed.check(undisturbed, TRIALS + 2)
    assert over.items() <= disturbed.over().items()
    for number in (again.trial, TRIALS + 1):
        disturbed.check_alone(number)


def test_a_full_disk(disturbed: Disturbed, undisturbed: results.Results, tmp_path: Path) -> None:
    (moment,) = moments("disk", 1)
    disk = SmallDisk(tmp_path / "disk", 64)
    if disk.refused:
        pytest.skip(f"no small file system can be mounted here: {disk.refused}")
    try:
        disturbed.storage = disk.folder / "results"
        stopped = disturbed.start()
        disturbed.wait(stopped, moment)
        disk.fill()
        assert "make room" in disturbed.refusal(stopped)
        disturbed.refusal(disturbed.start("--resume"))  # it is full still
        disk.empty()
        assert disturbed.start("--resume").end() == 0, disturbed.log.read_text()
        disturbed.check(undisturbed)
        disturbed.check_alone(moment.trial)
    finally:
        disk.close()


def test_a_lost_node(
    disturbed: Disturbed, undisturbed: results.Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes, a trial on each; the one that is lost is not the driver's."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    nodes = TwoNodes()
    try:
        going = disturbed.start("--address", nodes.address)
        for moment in moments("node", 0, 1):
            disturbed.wait(going, moment)
        nodes.kill_second()
        assert going.end() == 0, disturbed.log.read_text()
    finally:
        nodes.close()
    assert disturbed.log.read_text().count("met an accident, runs again") == 1
    disturbed.check(undisturbed)
    for number in (0, 1):
        disturbed.check_alone(number)
