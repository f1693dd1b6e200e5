"""The search on Ray Tune: searcher, early stopping, trials and watching put together."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.tune import Stopper

from facerec.tuning.halving import JournalHalving
from facerec.tuning.search import JournalSearcher
from facerec.tuning.trials import Job, trainable
from facerec.tuning.watch import Watch, Written

RETRIES = 2  # a trial lost to an accident runs again this often
_LOOK = 5.0  # seconds between two looks at Ray's nodes


class Ending(Stopper):  # type: ignore[misc]  # Ray has no types
    """Ends a sweep that is interrupted, or that cannot go on.

    Attributes:
        interrupted: Whether the user asked for the end.
    """

    def __init__(self, searcher: JournalSearcher) -> None:
        self.interrupted = False
        self._searcher = searcher
        self._looked = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether all trials are to end now; they stay open in the journal.

        Raises:
            KeyboardInterrupt: After an interruption. Tune would wait for each trial's epoch.
        """
        if self.interrupted:
            raise KeyboardInterrupt
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            if not any(node["Alive"] for node in ray.nodes()):
                # Tune itself would wait for one for ever.
                self._searcher.refusal = (
                    "no node of Ray is left (its raylet was killed, or the machine ran out of "
                    "memory); go on with --resume"
                )
        return self._searcher.failure is not None or bool(self._searcher.refusal)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def search(job: Job, searcher: JournalSearcher, tables: Written, *, joined: bool = False) -> None:
    """Run all trials that are left, on a Ray that is up.

    Args:
        job: What the trials have in common.
        searcher: Says what is tried.
        tables: Written as trials end.
        joined: Whether others may be using this Ray too.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM; the trials stay open in the journal.
    """
    early_stop = searcher.sweep.early_stop
    ending = Ending(searcher)
    tuner = tune.Tuner(
        trainable(job),
        tune_config=tune.TuneConfig(
            num_samples=searcher.remaining(),
            search_alg=searcher,
            max_concurrent_trials=job.slots.count,
            scheduler=JournalHalving(job.base.epochs, searcher) if early_stop else None,
            # What drives several workers cannot be stopped in the middle and go on with others.
            reuse_actors=job.slots.workers == 1 or not early_stop,
            trial_name_creator=lambda trial: job.title(trial.config),
            trial_dirname_creator=lambda trial: f"{trial.config['number']}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(job.folder / "ray"),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Watch(job, searcher, tables, joined=joined)],
            stop=ending,
            verbose=0,
        ),
    )
    with _interruptible(ending):
        tuner.fit()


@contextmanager
def _interruptible(ending: Ending) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) end the sweep tidily, and the second one at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if ending.interrupted:
            os._exit(130)  # Ray's processes end with this one
        ending.interrupted = True
        print("\nending the trials; once more to end at once", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, handle) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
