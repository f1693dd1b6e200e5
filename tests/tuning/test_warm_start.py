"""Earlier sweeps: what is taken, what is left out and why, and what the sampler makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from facerec.config import ConfigError, override
from facerec.domains import Choice, LogUniform, Uniform
from facerec.tuning import folder, results, samplers, warm_start
from facerec.tuning.sweep import Sweep
from tests.tuning.conftest import small_base, small_sweep
from tests.tuning.test_folder import record
from tests.tuning.test_results import row

KEYS = ("loss.margin", "loss.scale")


def earlier(path: Path, sweep: Sweep, rows: list[dict[str, Any]]) -> Path:
    path.mkdir()
    folder.write(path, record(sweep))
    table = results.trials_table(rows, metric="val.tar", keys=list(sweep.space), seed=1)
    results.write(path, "trials", table)
    curves = {
        r["number"]: pd.DataFrame({"epoch": [1.0, 2.0], "val.tar": [0.1, 0.2]})
        for r in rows
        if r["status"] == "stopped"
    }
    results.write(path, "history", results.history_table(curves))
    return path


def trial(number: int, status: str, value: float | None, *setting: Any, **own: Any) -> Any:
    found = row(number, status, value, setting=dict(zip(KEYS, setting, strict=True)))
    if status in ("diverged", "failed"):
        found |= {"metrics": {}}
    return found | own


ROWS = [
    trial(0, "completed", 0.6, 0.4, 64.0),
    trial(1, "stopped", 0.2, 0.2, 20.0),
    trial(2, "diverged", None, 0.7, 96.0, reason="nan_loss"),
    trial(3, "failed", None, 0.1, 30.0),
    trial(4, "running", None, 0.1, 30.0),
    trial(5, "completed", 0.7, 0.5, 90.0),
    trial(6, "completed", None, 0.1, 30.0),
]


def gathered(sweep: Sweep, *paths: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    return warm_start.gather(paths, sweep, record(sweep), **options)


def test_trials_are_taken_with_what_they_reached(tmp_path: Path, toy_shards: Path) -> None:
    sweep = small_sweep(small_base(toy_shards))
    path = earlier(tmp_path / "a", sweep, ROWS)
    narrow = {"loss.margin": Uniform(0.0, 0.7), "loss.scale": LogUniform(16.0, 80.0)}
    found, lines = gathered(small_sweep(small_base(toy_shards), space=narrow, trials=2), path)
    assert found["trials"] == [
        {
            "setting": {"loss.margin": 0.4, "loss.scale": 64.0},
            **{"status": "completed", "value": 0.6, "epochs": []},
        },
        {
            "setting": {"loss.margin": 0.2, "loss.scale": 20.0},
            **{"status": "stopped", "value": 0.2, "epochs": [[1.0, 0.1], [2.0, 0.2]]},
        },
    ]
    (line,) = lines
    assert line.startswith(f"{path}: 2 trials taken, 5 left out (")
    for why in ("1: failed", "1: running", "1: without a score", "loss.scale = 96.0 is not in"):
        assert why in line
    # When it is resumed, what was taken stands in its record.
    (path / "trials.parquet").unlink()
    again, lines = gathered(sweep, path, before=found)
    assert again == found
    assert lines == [f"{path}: taken when the sweep began"]


def test_confirmed_settings_are_taken_where_seeds_were_repeated(
    tmp_path: Path, toy_shards: Path
) -> None:
    sweep = small_sweep(small_base(toy_shards))
    path = earlier(tmp_path / "a", sweep, ROWS)
    done = ((0.4, "completed"), (0.2, "completed"), (0.4, "completed"))
    not_so = ((0.2, "failed"), (0.9, "completed"), (0.9, "completed"))  # 0.9 is beyond the space
    again = [
        trial(n, status, 0.5 + n / 10, margin, 32.0)
        for n, (margin, status) in enumerate((*done, *not_so))
    ]
    table = results.trials_table(again, metric="val.tar", keys=KEYS, seed=1)
    table["setting"] = ["defaults", "1", "defaults", "1", "2", "2"]
    table["seed"] = [5, 5, 4, 4, 4, 5]
    table["confirm.tar"] = [0.3, 0.1, 0.2, 0.1, 0.1, 0.1]
    results.write(path, "confirm", table)
    found, lines = gathered(sweep, path)
    assert found["repeats"] == [
        {
            "setting": {"loss.margin": 0.4, "loss.scale": 32.0},
            "seeds": [4, 5],
            "metrics": {
                "val.tar": [0.7, 0.5],
                "val.tar@far=1e-2": [0.7, 0.5],
                "confirm.tar": [0.2, 0.3],
            },
        }
    ]
    assert lines[0].endswith("; 1 confirmed setting tells how far seeds differ")


def test_a_sweep_with_another_space_counts_where_the_configs_agree(
    tmp_path: Path, toy_shards: Path
) -> None:
    base = override(small_base(toy_shards), {"loss.scale": 32.0, "seed": 5})
    narrow = small_sweep(base, space={"loss.margin": Uniform(0.0, 0.7)}, points=())
    rows = [row(n, "completed", 0.5, setting={"loss.margin": n / 10}) for n in range(3)]
    path = earlier(tmp_path / "a", narrow, rows)
    found, _ = gathered(small_sweep(small_base(toy_shards)), path)
    assert [t["setting"] for t in found["trials"]] == [
        {"loss.margin": n / 10, "loss.scale": 32.0} for n in range(3)
    ]
    fixed = small_sweep(override(base, {"loss.scale": 48.0}), space=narrow.space, points=())
    found, lines = gathered(fixed, path)
    assert found["trials"] == []
    assert "3: loss.scale = 32.0, here 48.0" in lines[0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"metric": "val.tar@far=1e-2"}, "maximised val.tar, not val.tar@far=1e-2"),
        ({"base": {"epochs": 3}}, "epochs = 2.0, here 3.0"),
        ({"base": {"loss.name": "arcface"}}, "loss.name = cosface, here arcface"),
    ],
)
def test_other_sweeps_are_left_out_and_said(
    changes: dict[str, Any], why: str, tmp_path: Path, toy_shards: Path
) -> None:
    base = small_base(toy_shards)
    path = earlier(tmp_path / "a", small_sweep(base), ROWS[:1])
    now = small_sweep(override(base, changes.pop("base", {})), **changes)
    found, lines = gathered(now, path)
    assert found["trials"] == []
    assert lines == [f"{path}: 0 trials taken, 1 left out (1: {why})"]


def test_keys_that_an_older_sweep_does_not_know_had_their_defaults(
    tmp_path: Path, toy_shards: Path
) -> None:
    base = small_base(toy_shards)
    path = earlier(tmp_path / "a", small_sweep(base), ROWS[:1])
    known = folder.read(path)
    for key in ("data.sampling", "data.cache", "data.augment.occlusion"):
        del known["base"][key]
    folder.write(path, known)
    mapped = small_sweep(override(base, {"data.cache": "memory"}))
    assert len(gathered(mapped, path)[0]["trials"]) == 1
    occluded = small_sweep(override(base, {"data.augment.occlusion": 0.2}))
    found, lines = gathered(occluded, path)
    assert found["trials"] == []
    assert "data.augment.occlusion = 0.0, here 0.2" in lines[0]


def test_other_images_are_left_out_and_no_sweep_is_refused(
    tmp_path: Path, toy_shards: Path
) -> None:
    sweep = small_sweep(small_base(toy_shards))
    path = earlier(tmp_path / "a", sweep, ROWS[:1])
    content = folder.read(path)
    folder.write(path, content | {"data": content["data"] | {"train": "other"}})
    assert "1: trained on other images" in gathered(sweep, path)[1][0]
    with pytest.raises(ConfigError, match="not a sweep's folder"):
        gathered(sweep, tmp_path / "none")


def test_options_of_mixed_kinds_come_back_from_the_table() -> None:
    domain = {"kind": "choice", "options": ["s", None, 0.5, 1]}
    cells = ["s", float("nan"), "0.5", 1.0]
    assert [warm_start._value(cell, domain) for cell in cells] == ["s", None, 0.5, 1]


def test_tpe_learns_from_earlier_trials_and_numbers_stay_the_sweeps_own() -> None:
    """All that was good lay at one end: the first draw is near it, and is trial 0."""
    space = {"loss.margin": Uniform(0.0, 0.7), "optimizer.schedule": Choice(("cosine", "poly"))}
    trials = [
        {
            "setting": {"loss.margin": 0.7 * n / 29, "optimizer.schedule": "cosine"},
            **{"status": "completed", "value": 1 - n / 29, "epochs": [[1, 0.1]]},
        }
        for n in range(30)
    ]
    trials += [{**trials[29], "status": "stopped", "value": 0.1}]
    trials += [{**trials[29], "status": "diverged", "value": None, "epochs": []}]
    wanted = {key: samplers.distribution(domain) for key, domain in space.items()}
    drawn: dict[bool, list[float]] = {}
    for warm in (False, True):
        known = samplers.as_trials(trials if warm else [], space, 0.0)
        sampler = samplers.build("tpe", space, trials=8, seed=1, first={}, earlier=known)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        asked = [study.ask(wanted) for _ in range(4)]
        assert [trial.number for trial in asked] == [0, 1, 2, 3]
        drawn[warm] = [trial.params["loss.margin"] for trial in asked]
    assert max(drawn[True]) < 0.3 < max(drawn[False])
