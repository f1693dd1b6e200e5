"""Confirmed models on the images that judge them: which images, which figure, in which order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facerec import checkpoint
from facerec.config import override
from facerec.data.shards import Shards
from facerec.evaluation.protocols import EvaluationSet
from facerec.evaluation.uncertain_tars import resample_all_pairs
from facerec.train import train
from facerec.tuning import measured
from facerec.tuning.sweep import Sweep
from tests.conftest import write_toy_shards
from tests.tuning.conftest import small_base, small_sweep


def with_confirm(source: Path, folder: Path) -> Path:
    """Shards whose confirm split is their val split once more: figures must agree."""
    shutil.copytree(source, folder)
    index = json.loads((folder / "index.json").read_text())
    index["splits"]["confirm"] = index["splits"]["val"]
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory, toy_shards: Path) -> tuple[Path, Sweep]:
    """Two settings with a seed each, trained for an epoch; gives the folder and the sweep."""
    folder = tmp_path_factory.mktemp("confirmed")
    shards = with_confirm(toy_shards, folder / "shards")
    base = override(small_base(shards), {"epochs": 1})
    for number, margin in enumerate((0.0, 0.2)):
        config = override(base, {"loss.margin": margin, "seed": 2})
        train(config, run=folder / f"runs/{number}", report=lambda *_: None)
    return folder, small_sweep(base)


def table(*rows: tuple[str, int, str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "setting": [name for name, _, _ in rows],
            "trial": [number for _, number, _ in rows],
            "seed": 2,
            "status": [status for _, _, status in rows],
            "run": [f"runs/{number}" for _, number, _ in rows],
            "val.tar": 0.5,
        }
    )


def test_models_are_measured_on_confirm_in_the_order_of_the_settings(
    confirmed: tuple[Path, Sweep],
) -> None:
    folder, sweep = confirmed
    shards = Shards(folder / "shards")
    rows = table(("1", 0, "completed"), ("2", 7, "diverged"), ("defaults", 1, "completed"))
    found = measured.measure(sweep, folder, rows, gpus=False)
    assert (found.split, found.metric, found.people) == ("confirm", "confirm.tar", 20)
    assert found.models == (1, 0)
    tables = []
    for number in (1, 0):
        _, backbone = checkpoint.load_backbone(folder / f"runs/{number}")
        exact = EvaluationSet("confirm", shards, "confirm").measure(backbone).metrics
        assert found.scores[number] == pytest.approx(exact)
        tables.append(EvaluationSet("confirm", shards, "confirm").embed(backbone)[0])
    labels = EvaluationSet("confirm", shards, "confirm").embed(backbone)[1]
    rates, drawn = resample_all_pairs(tables, labels)
    assert found.identities is not None
    assert found.identities.values.tolist() == [found.scores[n]["confirm.tar"] for n in (1, 0)]
    np.testing.assert_array_equal(found.identities.draws, drawn.draws[:, :: len(rates) + 1])
    assert found.identities.noise.shape == (2, 2)


def test_a_sweep_for_one_rate_is_judged_by_that_rate(confirmed: tuple[Path, Sweep]) -> None:
    folder, sweep = confirmed
    one = small_sweep(sweep.base, metric="val.tar@far=1e-2")
    found = measured.measure(one, folder, table(("1", 0, "completed")), gpus=False)
    assert found.metric == "confirm.tar@far=1e-2"
    assert found.identities is not None
    assert found.identities.values.tolist() == [found.scores[0]["confirm.tar@far=1e-2"]]


def test_without_people_enough_the_search_judges_itself(tmp_path: Path, toy_shards: Path) -> None:
    assert measured.judged_by("val.tar", Shards(toy_shards)) == ("val", "val.tar")
    assert measured.judged_by("lfw.accuracy", Shards(toy_shards)) == ("val", "val.tar")
    few = Shards(write_toy_shards(tmp_path / "few", identities=2, images=2, val=3))
    assert measured.judged_by("lfw.accuracy", few) == ("", "lfw.accuracy")
    split = with_confirm(toy_shards, tmp_path / "both")
    assert measured.judged_by("lfw.accuracy", Shards(split)) == ("confirm", "confirm.tar")


def test_where_nothing_can_be_drawn_the_scores_are_the_searchs(
    confirmed: tuple[Path, Sweep], tmp_path: Path
) -> None:
    few = write_toy_shards(tmp_path / "few", identities=2, images=2, val=0)
    sweep = small_sweep(small_base(few), metric="lfw.accuracy")
    rows = table(("defaults", 0, "completed"), ("1", 1, "failed"))
    found = measured.measure(sweep, tmp_path, rows.assign(**{"lfw.accuracy": 0.75}), gpus=False)
    assert found.scores == {0: {"lfw.accuracy": 0.75}}
    assert found.identities is None
