"""The searcher on real journals: what it hands out, what it tells, what it still knows after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from facerec.domains import Choice, Uniform
from facerec.tuning.messages import ACCIDENT, DIVERGED, FINISHED, REFUSED
from facerec.tuning.search import JournalSearcher
from tests.tuning.conftest import PAPER, Open, small_sweep


def epoch(number: int, value: float, outcome: str = "", text: str = "") -> dict[str, Any]:
    """A result as Tune hands it over: flattened."""
    result = {"objective": value, "outcome": outcome, "text": text, "metrics/epoch": float(number)}
    return result | {"metrics/val.tar": value, "metrics/seconds": 2.0 * number}


def ask(searcher: JournalSearcher, trial_id: str) -> dict[str, Any]:
    suggestion = searcher.suggest(trial_id)
    assert isinstance(suggestion, dict)
    return suggestion


def finish(searcher: JournalSearcher, trial_id: str, value: float) -> None:
    searcher.on_trial_result(trial_id, epoch(1, value / 2))
    searcher.on_trial_complete(trial_id, epoch(2, value, FINISHED))


def studied(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """The journal as plain Optuna reads it."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "small.journal"))
    storage = optuna.storages.JournalStorage(backend)
    names = optuna.study.get_all_study_names(storage)
    return list(optuna.load_study(study_name=max(names), storage=storage).trials)


def test_points_come_first_and_the_total_is_exact(open_searcher: Open) -> None:
    searcher = open_searcher(small_sweep(trials=3))
    asked = [ask(searcher, str(i)) for i in range(3)]
    assert [a["number"] for a in asked] == [0, 1, 2]
    assert {k: asked[0][k] for k in PAPER} == PAPER
    assert searcher.suggest("more") == Searcher.FINISHED
    assert searcher.remaining() == 0


def test_each_end_is_told_as_what_it_is(open_searcher: Open, tmp_path: Path) -> None:
    searcher = open_searcher(small_sweep(trials=5))
    for trial_id in "abcde":
        ask(searcher, trial_id)
    finish(searcher, "a", 0.8)
    searcher.on_trial_result("b", epoch(1, 0.1))
    searcher.on_trial_complete("b", epoch(2, 0.2))  # the result at which ASHA said stop
    searcher.on_trial_result("c", epoch(1, 0.3))
    broke = {"objective": 0.0, "outcome": DIVERGED, "text": "nan_loss", "detail": "the loss is nan"}
    searcher.on_trial_result("c", broke)
    searcher.on_trial_complete("c", broke)
    searcher.on_trial_result("d", {"outcome": ACCIDENT, "text": "MemoryError: no room"})
    searcher.on_trial_complete("d", error=True)
    searcher.on_trial_complete("e", error=True)  # a process that died says nothing
    assert searcher.failure is None

    told = studied(tmp_path)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, *[TrialState.FAIL] * 2]
    assert [t.state for t in told] == states
    assert told[0].value == 0.8
    assert told[1].intermediate_values == {1: 0.1, 2: 0.2}
    assert told[2].value == 0.0
    assert told[2].constraints == {"diverged": 1.0}
    rows = {row["number"]: row for row in searcher.rows()}
    assert [rows[i]["status"] for i in range(5)] == [
        *("completed", "stopped", "diverged", "failed", "failed")
    ]
    assert rows[0]["metrics"]["val.tar"] == 0.8
    assert (rows[2]["reason"], rows[2]["error"]) == ("nan_loss", "the loss is nan")
    assert rows[2]["metrics"]["val.tar"] == 0.3  # of the last epoch that was measured
    assert rows[3]["error"] == "MemoryError: no room"
    assert "died" in rows[4]["error"]
    assert [rows[i]["accidents"] for i in range(5)] == [0, 0, 0, 1, 1]


def test_accidents_are_counted_and_teach_nothing(open_searcher: Open, tmp_path: Path) -> None:
    searcher = open_searcher(small_sweep(trials=3))
    asked = [ask(searcher, trial_id) for trial_id in "abc"]
    full = {"outcome": ACCIDENT, "text": "out of memory (no room)"}
    for trial_id in "ab":
        searcher.on_trial_result(trial_id, full)
        searcher.on_trial_recover(trial_id)
    finish(searcher, "a", 0.5)  # it got over it
    searcher.on_trial_recover("b")  # a lost process says nothing
    searcher.on_trial_result("b", full)
    searcher.on_trial_complete("b", error=True)
    searcher.on_trial_recover("c")

    after = open_searcher(small_sweep(trials=3))  # whose process was lost, too
    assert ask(after, "again") == asked[2]
    after.on_trial_recover("again")
    rows = after.rows()
    assert [row["accidents"] for row in rows] == [1, 3, 2]
    assert [row["status"] for row in rows] == ["completed", "failed", "running"]
    assert [row["error"] for row in rows] == [
        *("", "3 accidents, the last: out of memory (no room)", "")
    ]
    told = studied(tmp_path)
    assert [t.state for t in told] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    assert (told[1].value, told[1].intermediate_values) == (None, {})
    assert searcher.failure is None
    assert after.failure is None


def test_a_score_that_is_not_a_number_is_kept_out_of_the_journal(
    open_searcher: Open, tmp_path: Path
) -> None:
    searcher = open_searcher(small_sweep())
    ask(searcher, "a")
    result = epoch(2, 0.0, FINISHED) | {"metrics/val.tar": float("nan")}
    searcher.on_trial_complete("a", result)
    assert "NaN" not in (tmp_path / "small.journal").read_text()
    assert searcher.rows()[0]["metrics"]["val.tar"] is None
    assert studied(tmp_path)[0].value == 0.0


def test_what_was_interrupted_runs_again_first_and_nothing_finished_does(
    open_searcher: Open,
) -> None:
    before = open_searcher(small_sweep(trials=4))
    asked = [ask(before, trial_id) for trial_id in "abc"]
    finish(before, "b", 0.5)
    before.on_trial_result("c", epoch(1, 0.25))
    before.on_trial_complete("c")  # taken away, not ended

    after = open_searcher(small_sweep(trials=6))  # and two more
    assert after.remaining() == 5
    again = [ask(after, str(i)) for i in range(5)]
    assert [a["number"] for a in again] == [0, 2, 3, 4, 5]
    assert again[0] == asked[0]
    assert again[1] == asked[2]
    assert after.reported(2) == {2: {1: 0.25}}
    after.on_trial_result("1", epoch(1, 0.9))  # an epoch that is trained again counts once
    after.on_trial_result("1", epoch(2, 0.3))
    assert after.reported(2) == {2: {1: 0.25, 2: 0.3}}
    assert after.suggest("more") == Searcher.FINISHED


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_resumed_sweep_asks_what_an_undisturbed_one_asks(
    sampler: str, tmp_path: Path, open_searcher: Open
) -> None:
    sweep = small_sweep(trials=8)
    plain = JournalSearcher(sweep, tmp_path / "plain.journal", total=8, sampler=sampler)
    undisturbed = [ask(plain, str(i)) for i in range(4)]
    resumed = []
    for i in range(4):
        searcher = open_searcher(sweep, sampler)
        resumed.append(ask(searcher, str(i)))
        finish(searcher, str(i), 0.1 * i)
    assert resumed == undisturbed
    assert len({a["loss.margin"] for a in resumed}) == 4


def test_a_torn_line_and_a_stale_lock_are_mended(open_searcher: Open, tmp_path: Path) -> None:
    searcher = open_searcher(small_sweep())
    ask(searcher, "a")
    finish(searcher, "a", 0.5)
    path = tmp_path / "small.journal"
    whole = path.read_bytes()
    for rubbish in (b'{"op_code":5,"worker_', b"\0\0\0\n", b'{"op_code"\n{"op'):
        path.write_bytes(whole + rubbish)
        (tmp_path / "small.journal.lock").symlink_to("small.journal")
        again = open_searcher(small_sweep())
        assert path.read_bytes() == whole
        assert [row["status"] for row in again.rows()] == ["completed"]
        assert again.remaining() == 3


def test_a_kill_at_any_byte_of_the_journal_loses_no_number(
    open_searcher: Open, tmp_path: Path
) -> None:
    searcher = open_searcher(small_sweep(trials=3))
    setting = [ask(searcher, trial_id) for trial_id in "ab"]
    finish(searcher, "a", 0.5)
    path = tmp_path / "small.journal"
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        again = open_searcher(small_sweep(trials=3))
        handed_out = [ask(again, str(i)) for i in range(again.remaining())]
        done = [row["number"] for row in again.rows() if row["status"] != "running"]
        assert again.failure is None
        assert sorted([a["number"] for a in handed_out] + done) == [0, 1, 2]
        assert [a for a in handed_out if a["number"] < 2] == setting[len(done) :]
        assert again.suggest("more") == Searcher.FINISHED


def test_a_widened_choice_keeps_the_trials(open_searcher: Open, tmp_path: Path) -> None:
    narrow = small_sweep(space={"seed": Choice((1, 2)), "loss.margin": Uniform(0, 0.5)}, points=())
    before = open_searcher(narrow)
    asked = [ask(before, trial_id) for trial_id in "ab"]
    finish(before, "a", 0.5)
    wide = small_sweep(
        space={"seed": Choice((1, 2, 3)), "loss.margin": Uniform(0, 0.7)}, points=(), trials=30
    )
    after = open_searcher(wide, "tpe")
    assert [row["status"] for row in after.rows()] == ["completed", "running"]
    assert ask(after, "b") == asked[1]
    finish(after, "b", 0.25)
    for i in range(2, 30):
        ask(after, str(i))
        finish(after, str(i), 0.1)
    assert after.failure is None
    rows = after.rows()
    assert [row["number"] for row in rows] == list(range(30))
    assert {row["setting"]["seed"] for row in rows} == {1, 2, 3}
    assert max(row["setting"]["loss.margin"] for row in rows) > 0.5
    assert [t.value for t in studied(tmp_path)[:2]] == [0.5, 0.25]


def test_a_refused_trial_stays_open(open_searcher: Open) -> None:
    searcher = open_searcher(small_sweep())
    first = ask(searcher, "a")
    result = {"outcome": REFUSED, "text": "shard 3: row 7: not a JPEG"}
    searcher.on_trial_result("a", result)
    searcher.on_trial_complete("a", result)
    assert searcher.refusal == "shard 3: row 7: not a JPEG"
    assert ask(open_searcher(small_sweep()), "b") == first


def test_a_failure_of_the_search_is_kept_not_taken_for_the_trials(
    open_searcher: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = open_searcher(small_sweep())
    ask(searcher, "a")

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(optuna.storages.JournalStorage, "set_trial_intermediate_value", full_disk)
        searcher.on_trial_result("a", epoch(1, 0.5))  # Tune must not hear of it
    assert isinstance(searcher.failure, OSError)
    searcher.on_trial_complete("a", epoch(2, 0.6, FINISHED))
    assert [row["status"] for row in open_searcher(small_sweep()).rows()] == ["running"]


def test_diverged_trials_rank_behind_all_others_for_tpe(open_searcher: Open) -> None:
    """Where all else was stopped early, TPE would take a diverged trial for one of the best."""
    sweep = small_sweep(space={"loss.margin": Uniform(0.0, 1.0)}, points=(), trials=60)
    searcher = open_searcher(sweep, "tpe")
    drawn = []
    for i in range(60):
        margin = ask(searcher, str(i))["loss.margin"]
        if margin > 0.5:
            result = {"objective": 0.0, "outcome": DIVERGED, "text": "nan_loss"}
        else:
            result = epoch(1, 0.2 - abs(margin - 0.25))
        searcher.on_trial_complete(str(i), result)
        drawn.append(margin)
    assert searcher.failure is None
    assert sum(margin > 0.5 for margin in drawn[:10]) >= 3
    assert sum(margin > 0.5 for margin in drawn[20:]) <= 10
