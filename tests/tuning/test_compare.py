"""Comparing losses: what each is given, the table, the plot; without any Ray."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib import image

from facerec.config import Component, ConfigError, flatten, override
from facerec.domains import Choice, Domain, IntUniform, LogUniform, Uniform
from facerec.losses import LOSSES, build, keywords
from facerec.presets import laptop
from facerec.tuning import compare, compare_report, results

T_OF_3 = 4.302652729911275  # 97.5 % quantile of Student's t with 2 degrees of freedom, from a table
COMPARED = [loss for loss in LOSSES if loss != "scf"]


@pytest.mark.parametrize("loss", COMPARED)
def test_every_loss_can_be_searched_and_repeated(loss: str) -> None:
    config = compare.recipe(laptop(), loss)
    searched, space = compare.search(loss, config, trials=6), compare.space(loss)
    assert (searched is None) == (not space)
    if searched is not None:
        assert (searched.trials, searched.early_stop) == (6, False)
        # The defaults come first.
        assert flatten(searched.config(searched.points[0])) == flatten(searched.config({}))
        assert searched.space == space
    if keywords(loss).get("scale") is not None:
        assert "loss.scale" in space
    best = {key: point[key] for point in [searched.points[-1]] for key in point} if searched else {}
    repeated = compare.repeats(loss, config, best)
    settings = {tuple((k, v) for k, v in p.items() if k != "seed") for p in repeated.points}
    assert repeated.trials == len(repeated.points) == 3 * len(settings)
    assert {point["seed"] for point in repeated.points} == set(compare.SEEDS)


def drawn(domain: Domain, generator: random.Random) -> Any:
    match domain:
        case Choice(options):
            return generator.choice(options)
        case IntUniform(low, high):
            return generator.randint(low, high)
        case LogUniform(low, high):
            return math.exp(generator.uniform(math.log(low), math.log(high)))
        case Uniform(low, high):
            return generator.uniform(low, high)


@pytest.mark.slow
@pytest.mark.parametrize("loss", COMPARED)
def test_whatever_the_search_draws_can_be_trained(loss: str) -> None:
    """Values that do not go together would end a comparison after hours."""
    config, generator = compare.recipe(laptop(), loss), random.Random(loss)
    for _ in range(25):
        setting = {key: drawn(domain, generator) for key, domain in compare.space(loss).items()}
        args = override(config, setting).loss.args
        build(loss, args, num_classes=100, embedding_size=128)


def test_few_identities_get_a_gentle_start_of_their_own() -> None:
    found = compare.points(laptop(Component("arcface")), compare.space("arcface"))
    assert [(p["loss.margin"], p["loss.scale"]) for p in found] == [(0.5, 64.0), (0.2, 24.0)]
    assert compare.points(laptop(Component("softmax")), {}) == ({},)


def test_seeds_that_ran_keep_their_numbers_when_the_best_changes() -> None:
    config = laptop(Component("normface"))
    before = compare.repeats("normface", config, {"loss.scale": 20.0})
    after = compare.repeats("normface", config, {"loss.scale": 40.0}, before.points)
    assert after.points[:6] == before.points
    assert [p["loss.scale"] for p in after.points[6:]] == [40.0] * 3
    fixed = compare.repeats("normface", config, fixed=["loss.scale"])
    assert list(fixed.space) == ["seed"]


def seeds(loss: str, setting: str, scores: list[float | None]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for seed, score in zip(compare.SEEDS, scores, strict=True):
        rows.append(
            {
                **{"loss": loss, "setting": setting, "seed": seed, "values": "scale=24"},
                **{"status": "diverged" if score is None else "completed"},
                **{"run": f"{loss}_seeds/checkpoints/{setting}{seed}"},
                **{"val.tar": math.nan if score is None else 1 - score},
                **{"confirm.tar": math.nan if score is None else score},
                **{"lfw.accuracy": math.nan if score is None else 0.8},
                **{"epochs": 8.0, "seconds": 10.0 + seed},
            }
        )
    return pd.DataFrame(rows)


TABLE = pd.concat(
    [
        seeds("a", "defaults", [0.2, 0.3, 0.4]),
        seeds("a", "best", [0.50, 0.55, 0.57]),
        seeds("b", "defaults", [0.60, 0.66, 0.63]),
        seeds("b", "best", [0.60, 0.66, 0.63]),
        seeds("c", "best", [0.90, None, 0.91]),
        seeds("d", "best", [0.10, 0.11, 0.12]),
    ]
)
SEARCHES = {
    "a": pd.DataFrame({"status": ["completed"] * 4 + ["diverged"] * 2}),
    "b": pd.DataFrame({"status": ["completed"] * 6}),
}


def test_the_summary_is_mean_deviation_and_interval_of_the_seeds() -> None:
    found = compare.summary(TABLE, SEARCHES)
    row = found[(found["loss"] == "a") & (found["setting"] == "best")].iloc[0]
    scores = [0.50, 0.55, 0.57]
    assert row["confirm.tar"] == pytest.approx(sum(scores) / 3)
    assert row["confirm.tar.std"] == pytest.approx(statistics.stdev(scores))
    half = T_OF_3 * statistics.stdev(scores) / math.sqrt(3)
    assert row["confirm.tar.high"] - row["confirm.tar"] == pytest.approx(half)
    assert row["confirm.tar"] - row["confirm.tar.low"] == pytest.approx(half)
    assert (row["trials"], row["diverged"], row["seeds"], row["seeds_diverged"]) == (6, 2, 3, 0)
    assert row["seconds"] == pytest.approx(13)


def test_losses_are_ranked_by_what_no_search_saw() -> None:
    found = compare.summary(TABLE, SEARCHES)
    assert compare.metrics(TABLE) == ["confirm.tar", "lfw.accuracy", "val.tar"]
    assert compare.ranked_by(TABLE) == "confirm.tar"
    best = found[found["setting"] == "best"]
    # c lost a seed: what is left of it may not win. The defaults stand below their loss's best.
    assert best["loss"].tolist() == ["b", "a", "d", "c"]
    assert best["rank"].tolist() == [1, 2, 3, 4]
    assert found["loss"].tolist() == ["b", "b", "a", "a", "d", "c"]
    assert found.loc[found["setting"] == "defaults", "rank"].isna().all()
    without = TABLE.drop(columns=["confirm.tar", "lfw.accuracy"])
    assert compare.ranked_by(without) == "val.tar"


def test_the_verdict_tells_near_from_far() -> None:
    found = compare.verdict(compare.summary(TABLE, SEARCHES), "confirm.tar")
    # b 0.63 ± 0.075; a 0.54 ± 0.090; d 0.11 ± 0.025; c has the wide interval of two seeds
    assert "b comes first with 0.6300" in found
    assert "which no search saw" in found
    assert "of a and c overlap its own (not distinguishable), those of d lie below it" in found
    alone = compare.summary(TABLE[TABLE["loss"] == "a"], SEARCHES)
    assert "nothing to tell apart" in compare.verdict(alone, "confirm.tar")


def test_a_loss_without_a_best_setting_is_in_the_table_unranked() -> None:
    lost = seeds("e", "defaults", [None, None, None])
    found = compare.summary(pd.concat([TABLE, lost]), SEARCHES)
    row = found[found["loss"] == "e"].iloc[0]
    assert pd.isna(row["rank"])
    assert pd.isna(row["confirm.tar"])
    assert row["seeds_diverged"] == 3
    assert found["loss"].iloc[-1] == "e"


def test_the_report_has_every_loss_and_says_what_the_search_saw(tmp_path: Path) -> None:
    results.write(tmp_path, "seeds", TABLE)
    results.write(tmp_path, "comparison", compare.summary(TABLE, SEARCHES))
    compare_report.write(tmp_path)
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    assert lines[0].startswith("| rank | loss | setting | values | confirm.tar | lfw.accuracy |")
    assert "val.tar (search saw it)" in lines[0]
    assert lines[2].startswith("| 1 | b | best | scale=24 | 0.6300 ± 0.0300 | 0.8000 ± 0.0000 |")
    assert "| 2 of 6 |" in next(line for line in lines if line.startswith("| 2 | a |"))
    assert "no search, 1 of 3 seeds" in next(line for line in lines if line.startswith("| 4 | c |"))
    assert "Ranked by confirm.tar; the search of each loss maximised val.tar" in lines[-2]
    assert lines[-1].startswith("By confirm.tar")
    drawn = image.imread(tmp_path / "comparison.png")
    assert drawn.shape[0] > 300
    grey = drawn[:, :, :3].mean(axis=2)
    assert (grey < 0.5).mean() > 0.002  # dots and letters stay dark without their colours


def record(**changes: Any) -> dict[str, Any]:
    base = {"epochs": 8, "loss.name": "a", "data.train": "/x", "data.batch_size": 64}
    return {"base": {**base, **changes}, "data": {"train": "1"}}


def test_losses_of_other_recipes_or_data_are_not_compared() -> None:
    own = record(**{"loss.name": "b", "data.train": "/y"})
    compare.check_equal([("cosface", record()), ("arcface", own)])
    with pytest.raises(ConfigError, match=r"epochs = 4 for arcface: .* cosface has 8"):
        compare.check_equal([("cosface", record()), ("arcface", record(epochs=4))])
    with pytest.raises(ConfigError, match="data"):
        compare.check_equal(
            [("cosface", record()), ("arcface", record() | {"data": {"train": "2"}})]
        )
