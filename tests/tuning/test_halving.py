"""Early stopping: who is stopped where, and that an interruption changes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from facerec.tuning.halving import JournalHalving

STOP, CONTINUE = "STOP", "CONTINUE"
Values = dict[int, dict[int, float]]


def halving(values: Values | None = None, *, epochs: float = 16, points: int = 0) -> JournalHalving:
    known = values or {}

    def reported(number: int | None = None) -> Values:
        return {n: v for n, v in known.items() if number in (None, n)}

    searcher: Any = SimpleNamespace(
        reported=reported, sweep=SimpleNamespace(points=(None,) * points)
    )
    return JournalHalving(epochs, searcher)


def trial(number: int) -> Any:
    return SimpleNamespace(trial_id=f"t{number}", config={"number": number})


def decide(scheduler: JournalHalving, number: int, epoch: float, value: float) -> str:
    return scheduler.on_trial_result(None, trial(number), {"epoch": epoch, "objective": value})


def started(scheduler: JournalHalving, *numbers: int) -> JournalHalving:
    for number in numbers:
        scheduler.on_trial_add(None, trial(number))
    return scheduler


def test_the_lower_half_ends_at_a_quarter_and_at_half() -> None:
    scheduler = started(halving(), 1, 2, 3, 4)
    for number in (1, 2, 3, 4):  # no one is judged early
        for epoch in (1, 2, 3):
            assert decide(scheduler, number, epoch, 0.1 * number) == CONTINUE
    assert decide(scheduler, 3, 4, 0.3) == CONTINUE
    assert decide(scheduler, 2, 4, 0.2) == STOP
    assert decide(scheduler, 4, 4, 0.4) == CONTINUE
    assert decide(scheduler, 3, 8, 0.6) == CONTINUE
    assert decide(scheduler, 4, 8, 0.5) == STOP


def test_full_trials_finish_by_themselves_however_bad() -> None:
    scheduler = started(halving(), 1, 2)
    for epoch in range(1, 17):
        assert decide(scheduler, 1, epoch, 0.9) == CONTINUE
    # Measured at the end alone: nothing would be saved by stopping it there.
    assert decide(scheduler, 2, 16, 0.1) == CONTINUE


@pytest.mark.parametrize(("points", "decision"), [(1, CONTINUE), (0, STOP)])
def test_the_papers_values_run_to_their_end(points: int, decision: str) -> None:
    scheduler = started(halving(points=points), 0, 1)
    decide(scheduler, 1, 4, 0.9)
    assert decide(scheduler, 0, 4, 0.1) == decision


def test_rungs_outlive_an_interruption() -> None:
    before: Values = {1: {4: 0.5, 8: 0.6}, 2: {4: 0.3}, 3: {2: 0.1}}
    scheduler = started(halving(before), 3, 4)
    assert decide(scheduler, 3, 4, 0.35) == STOP
    assert decide(scheduler, 4, 4, 0.55) == CONTINUE


def test_a_trial_that_goes_on_is_not_judged_again_at_rungs_behind_it() -> None:
    """At epoch 6 it would enter the rung of epoch 4 with two epochs more than the others."""
    before: Values = {1: {4: 0.2}, 2: {4: 0.1, 5: 0.4}}
    scheduler = started(halving(before), 2, 3)
    assert decide(scheduler, 2, 6, 0.5) == CONTINUE
    # Half of two trials at that rung, 0.2 and 0.1, were better than 0.15.
    assert decide(scheduler, 3, 4, 0.16) == CONTINUE


@pytest.mark.parametrize("epochs", [0.5, 1, 2, 3])
def test_short_budgets_are_taken(epochs: float) -> None:
    scheduler = started(halving(epochs=epochs), 1, 2)
    assert decide(scheduler, 1, epochs, 0.9) == CONTINUE
    assert decide(scheduler, 2, epochs, 0.1) == CONTINUE
