from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from facerec.config import (
    Component,
    ConfigError,
    TrainConfig,
    flatten,
    load,
    override,
    parse,
    save,
)
from facerec.domains import Scalar
from facerec.losses import LOSSES


def test_override_changes_one_key_and_nothing_else() -> None:
    base = TrainConfig()
    changed = override(base, {"loss.margin": 0.3, "data.augment.rotate": 0.1, "epochs": 3})
    before, after = flatten(base), flatten(changed)
    assert {k for k in after if after[k] != before.get(k)} == {
        "loss.margin",
        "data.augment.rotate",
        "epochs",
    }
    assert base == TrainConfig(), "the base is left alone"


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_flatten_and_override_are_inverse(name: str) -> None:
    changes: dict[str, Scalar] = {"loss.name": name, "optimizer.schedule": "one_cycle"}
    if name == "contraface":  # two views without dropout are one
        with pytest.raises(
            ConfigError, match=r"view_dropout = None.*give backbone\.view_dropout=0\.6"
        ):
            override(TrainConfig(), changes)
        changes["backbone.view_dropout"] = 0.6
    config = override(TrainConfig(), changes)
    flat = flatten(config)
    assert flatten(override(TrainConfig(), flat)) == flat


def test_text_is_read_by_the_type_of_the_key() -> None:
    words = ["loss.margin=0.25", "epochs=2", "data.batch_size=64", "data.train=2024", "seed=7"]
    config = override(TrainConfig(), parse(words))
    flat = flatten(config)
    assert flat["loss.margin"] == 0.25
    assert isinstance(flat["loss.margin"], float)
    assert flat["data.batch_size"] == 64
    assert flat["data.train"] == "2024"
    assert flat["epochs"] == 2.0


def test_new_loss_drops_the_keywords_of_the_old_one() -> None:
    base = override(TrainConfig(), {"loss.name": "uniface", "loss.bias_init": "zero"})
    changed = override(base, {"loss.name": "arcface", "loss.margin": 0.45})
    assert changed.loss == Component("arcface", {"margin": 0.45})
    same = override(base, {"loss.margin": 0.1})
    assert same.loss.args["bias_init"] == "zero"


def test_any_objective_goes_with_any_margin() -> None:
    config = override(
        TrainConfig(), parse(["loss.name=arcface", "loss.objective=unified", "loss.bias_init=zero"])
    )
    assert flatten(config)["loss.bias_init"] == "zero"


def test_a_keyword_that_may_be_none_takes_text_too() -> None:
    key = "loss.bias_weight_decay"
    assert flatten(override(TrainConfig(), {key: "0.001"}))[key] == 0.001
    assert flatten(override(TrainConfig(), {key: "none"}))[key] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss.margn": 0.3}, ["loss.margn", "margin"]),
        ({"margin": 0.3}, ["loss.margin"]),
        ({"optimizer.lr": "fast"}, ["optimizer.lr", "'fast'", "a number"]),
        ({"optimizer.lrr": 1}, ["optimizer.lrr", "optimizer.lr?"]),
        ({"optimiser.lr": 1}, ["optimiser.lr", "optimizer.lr?"]),
        ({"optimizer.schedule": "cosin"}, ["optimizer.schedule", "cosine"]),
        ({"optimizer": 3}, ["optimizer", "optimizer.lr"]),
        ({"data.batch_size": 2.5}, ["data.batch_size", "2.5", "whole"]),
        ({"data.batch_size": 0}, ["data.batch_size", "0", "1 or more"]),
        ({"data.augment.flip": 1.5}, ["data.augment.flip", "1.5", "1"]),
        ({"epochs": -1}, ["epochs", "-1"]),
        ({"epochs": float("nan")}, ["epochs", "NaN"]),
        ({"epochs.x": 1}, ["epochs.x"]),
        ({"loss": "arcface"}, ["loss.name=arcface"]),
        ({"loss.name": "arcfase"}, ["arcfase", "arcface"]),
        ({"loss.margin": 9}, ["loss.margin", "9"]),
        ({"loss.margin": "wide"}, ["loss.margin", "'wide'", "a number"]),
        ({"loss.margin": True}, ["loss.margin"]),
        ({"backbone.name": "iresnet51"}, ["iresnet51", "iresnet50"]),
        ({"precision": "fp8"}, ["precision", "fp8", "bf16"]),
        ({"seed": -3}, ["seed", "-3"]),
        (
            {"optimizer.schedule": "one_cycle", "optimizer.warmup_epochs": 2},
            ["optimizer.warmup_epochs"],
        ),
    ],
)
def test_errors_name_key_value_and_nearest_choice(
    changes: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        override(TrainConfig(), changes)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("item", ["loss.margin", "=3", "loss.margin 0.4"])
def test_a_word_without_key_or_value_is_refused(item: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse([item])


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        parse(["seed=1", "seed=2"])


def test_saved_config_trains_alike(tmp_path: Path) -> None:
    config = override(TrainConfig(), {"loss.name": "cosface", "loss.scale": 32, "epochs": 1.5})
    save(config, tmp_path / "config.json")
    assert flatten(load(tmp_path / "config.json")) == flatten(config)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_config_is_hashable_and_travels(tmp_path: Path) -> None:
    config = override(TrainConfig(), {"loss.margin": 0.3})
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert hash(copy) == hash(config)


@pytest.mark.parametrize("text", ["", "[1]", '{"loss.margn": 1}', "{"])
def test_damaged_config_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load(path)
