"""The journal's file: what is written at once, what is read before it is, and what others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from facerec.tuning.journal import Lines
from tests.tuning.conftest import Open, small_sweep


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_that_belong_together_are_read_at_once_and_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    lines = Lines(path)
    lines.append_logs([{"n": 0}])
    assert written(path) == [{"n": 0}]
    with lines.together():
        lines.append_logs([{"n": 1}])
        lines.append_logs([{"n": 2}, {"n": 3}])
        assert written(path) == [{"n": 0}]
        assert [list(lines.read_logs(n)) for n in range(5)] == [
            [{"n": m} for m in range(n, 4)] for n in range(5)
        ]
    assert written(path) == [{"n": n} for n in range(4)]
    assert list(Lines(path).read_logs(2)) == [{"n": 2}, {"n": 3}]


def test_what_was_said_before_an_error_is_written_too(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "journal")

    def broken() -> None:
        with lines.together():
            lines.append_logs([{"n": 0}])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert written(tmp_path / "journal") == [{"n": 0}]


def test_a_trial_is_asked_for_and_told_in_one_writing_each(
    open_searcher: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = open_searcher(small_sweep(trials=4))
    times: list[int] = []
    plain = JournalFileBackend.append_logs

    def counted(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        times.append(len(logs))
        plain(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", counted)
    for number in range(4):
        asked = searcher.suggest(str(number))
        assert isinstance(asked, dict)
        result = {"objective": 0.5, "outcome": "finished", "metrics/epoch": 1.0}
        searcher.on_trial_complete(str(number), result)
    assert searcher.failure is None
    assert len(times) == 8
    assert sum(times) > 8 * 2
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "small.journal")))
    (study,) = optuna.study.get_all_study_names(storage)
    told = optuna.load_study(study_name=study, storage=storage).trials
    assert [trial.value for trial in told] == [0.5] * 4
