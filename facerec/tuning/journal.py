"""The journal of a sweep: Optuna's journal file, mended after a crash, and the study in it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from facerec.tuning import samplers
from facerec.tuning.sweep import Sweep, as_json

_SPACE = "space"  # user attribute of a study: written last, so a study without it is half made


def repair(journal: Path) -> None:
    """Cut a torn last line off a journal, and remove the lock of a process that is gone.

    Only for the owner of the sweep's own lock: nobody else may be writing.
    """
    for stale in journal.parent.glob(f"{journal.name}.lock*"):
        stale.unlink()
    if not journal.exists():
        return
    lines = journal.read_bytes().split(b"\n")
    whole = lines[:-1]  # what follows the last line break was not written to its end
    while whole and not _is_json(whole[-1]):
        whole.pop()
    size = sum(len(line) + 1 for line in whole)
    if size != journal.stat().st_size:
        with open(journal, "r+b") as file:
            file.truncate(size)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class Lines(JournalFileBackend):  # type: ignore[misc]  # Optuna is not followed
    """A journal file whose one writer is this process; what belongs together is written at once.

    Optuna makes each line durable by itself, which is nine times per trial, and reads it back.

    Args:
        path: The journal's; `repair` has seen it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._written = path.read_bytes().count(b"\n")
        self._new: list[dict[str, Any]] = []  # lines that are not written yet
        self._held = False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines: now, or at the end of the block of `together`."""
        self._new += [json.loads(json.dumps(log)) for log in logs]
        if not self._held:
            self._write()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Give the lines from a number on."""
        if log_number_from < self._written:
            yield from super().read_logs(log_number_from)
        yield from self._new[max(log_number_from - self._written, 0) :]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Have the block's lines written at its end, durable all at once."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._write()

    def _write(self) -> None:
        if self._new:
            super().append_logs(self._new)
            self._written += len(self._new)
            self._new = []


def open_study(sweep: Sweep, lines: Lines, sampler: BaseSampler) -> optuna.Study:
    """Open the newest study of a journal; a changed space gets a new one with the old trials.

    (A study's distributions are fixed: Optuna takes no new option of a choice.)
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for harmless in (
        "The reported value is ignored",  # a retried trial repeats epochs
        "Inconsistent parameter values",  # a trial keeps its setting in a widened space
    ):
        warnings.filterwarnings("ignore", message=harmless)
    storage = JournalStorage(lines)
    space = {key: as_json(domain) for key, domain in sweep.space.items()}
    whole = [s for s in optuna.get_all_study_summaries(storage) if _SPACE in s.user_attrs]
    newest = max(whole, key=lambda s: int(s.study_name.rpartition("/")[2]), default=None)
    if newest is not None and newest.user_attrs[_SPACE] == space:
        return optuna.load_study(study_name=newest.study_name, storage=storage, sampler=sampler)
    for summary in optuna.get_all_study_summaries(storage):
        if _SPACE not in summary.user_attrs:
            optuna.delete_study(study_name=summary.study_name, storage=storage)
    study = optuna.create_study(
        study_name=f"{sweep.name}/{len(whole)}",
        direction="maximize",
        storage=storage,
        sampler=sampler,
    )
    if newest is not None:
        old = optuna.load_study(study_name=newest.study_name, storage=storage)
        wanted = {key: samplers.distribution(domain) for key, domain in sweep.space.items()}
        for trial in old.get_trials():
            clone = copy.copy(trial)
            clone.distributions = {key: wanted[key] for key in trial.params}
            study.add_trial(clone)
    study.set_user_attr(_SPACE, space)
    return study
