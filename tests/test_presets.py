"""Every preset against what its repository publishes; and docs/presets.md against the presets."""

from __future__ import annotations

import inspect
import re
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from facerec import backbones
from facerec.backbones.base import Backbone
from facerec.config import Component, TrainConfig, flatten, override
from facerec.head import build_head
from facerec.optimizer import make_optimizer, rate_at
from facerec.parallel import ClassShard
from facerec.presets import PRESETS, laptop
from tests.published import GIGA, PARAMETERS, PUBLISHED, SPECIAL, SPHEREFACE20

PAGE = Path(__file__).parent.parent / "docs" / "presets.md"


@cache
def on_meta(backbone: str, embedding_size: int) -> Backbone:
    """A net without numbers; keywords, all of them rates of dropout, are checked by the config."""
    with torch.device("meta"):
        return backbones.build(backbone, {}, embedding_size=embedding_size)


@cache
def multiply_adds(backbone: str, embedding_size: int) -> int:
    """Of one image, in convolutions and products of matrices."""
    net = on_meta(backbone, embedding_size).eval()
    image = torch.empty(1, 3, net.input_size, net.input_size, device="meta")
    # Autocast refuses the meta device, where there is nothing to cast.
    without = patch.object(torch, "autocast", lambda *_, **__: nullcontext())
    with without, FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    return int(counter.get_total_flops()) // 2


def test_every_published_preset_has_its_facts() -> None:
    assert set(PRESETS) == {"laptop", *PUBLISHED}
    assert set(PUBLISHED) >= set(SPECIAL)


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedule_batch_and_optimizer_are_the_published_ones(name: str) -> None:
    config, facts = PRESETS[name](), PUBLISHED[name]
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum) == ("sgd", 0.1, 0.9)
    assert optimizer.warmup_epochs == 0
    assert (config.data.batch_size, optimizer.weight_decay) == (facts.batch, facts.decay)
    assert optimizer.clip_norm == facts.clip[0]
    assert facts.clip[0] == 0 or optimizer.clip_scope == facts.clip[1]
    assert config.head.embedding_size == 512
    assert config.data.augment.flip == 0.5
    assert config.epochs == facts.epochs


@pytest.mark.parametrize("name", PUBLISHED)
def test_learning_rate_at_and_around_each_milestone(name: str) -> None:
    config, facts = PRESETS[name](), PUBLISHED[name]
    per_epoch = facts.images // config.data.batch_size
    total = round(config.epochs * per_epoch)  # as the training loop counts

    def rate(step: int) -> float:
        return rate_at(config.optimizer, step, total, config.epochs)

    assert rate(0) == pytest.approx(0.1)
    if facts.drops is None:
        for step in (1, total // 3, total - 1):
            assert rate(step) == pytest.approx(0.1 * (total - step) / total)
        return
    before = 0.1
    for drop in facts.drops:
        step = round(drop * per_epoch)
        assert rate(step - 1) == pytest.approx(before)
        assert rate(step) == rate(step + 1) == pytest.approx(before / 10)
        before /= 10
    assert rate(total - 1) == pytest.approx(before)


@pytest.mark.parametrize("name", SPECIAL)
def test_what_only_this_recipe_says(name: str) -> None:
    flat = flatten(PRESETS[name]())
    assert {key: flat[key] for key in SPECIAL[name]} == SPECIAL[name]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.slow
def test_backbone_is_the_published_one(name: str) -> None:
    config, facts = PRESETS[name](), PUBLISHED[name]
    assert config.backbone.name == facts.net[0]
    assert config.backbone.args.get("dropout", 0.0) == facts.net[1]
    net = on_meta(config.backbone.name, 512)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[facts.net[0]]
    if facts.net[0] in GIGA:
        assert round(multiply_adds(config.backbone.name, 512) / 1e9, 1) == GIGA[facts.net[0]]


def test_sphereface20_has_the_multiply_adds_of_its_table() -> None:
    expected, channels, side = 0, 3, 112
    for width, units in SPHEREFACE20:
        side //= 2
        expected += side * side * 9 * width * (channels + 2 * units * width)
        channels = width
    expected += side * side * channels * 512  # the layer that makes the embedding
    config = PRESETS["uniformface_casia_sphereface20"]()
    assert multiply_adds(config.backbone.name, 512) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_head_and_optimizer_can_be_made(name: str) -> None:
    config = PRESETS[name]()
    size = config.head.embedding_size
    head = build_head(config.loss, ClassShard(11, 0, 1), size)
    optimizer = make_optimizer(config.optimizer, on_meta(config.backbone.name, size), head)
    trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    own = sum(p.numel() for p in on_meta(config.backbone.name, size).parameters())
    assert trained - own == sum(p.numel() for p in head.parameters()) >= 11 * size


@pytest.mark.parametrize("name", PRESETS)
def test_other_keys_change_a_preset_and_it_survives_being_saved(name: str) -> None:
    config = override(PRESETS[name](), {"epochs": 2.0, "data.train": "shards"})
    flat = flatten(config)
    assert (flat["epochs"], flat["data.train"]) == (2.0, "shards")
    assert flatten(override(TrainConfig(), flat)) == flat


def test_laptop_takes_any_loss() -> None:
    assert laptop(Component("arcface")).loss == Component("arcface")
    assert laptop().loss == TrainConfig().loss


def paragraph(name: str, title: str) -> str:
    """A paragraph of the docstring on one line, without its title and full stop."""
    text = inspect.getdoc(PRESETS[name]) or ""
    found = re.search(rf"^{title}: (.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"{name}'s docstring has no paragraph {title}: ..."
    return " ".join(found[1].split()).removesuffix(".")


def schedule(config: TrainConfig) -> str:
    optimizer = config.optimizer
    if optimizer.schedule == "step":
        drops = ", ".join(f"{f * config.epochs:.4g}" for f in optimizer.milestone_fractions)
        return f"{optimizer.lr:g}, tenth after {drops}"
    if optimizer.schedule == "poly":
        power = f"^{optimizer.power:g}" if optimizer.power != 1 else ""
        return f"{optimizer.lr:g} (1 - t){power}"
    return f"{optimizer.lr:g}, {optimizer.schedule}"


def row(name: str) -> str:
    config = PRESETS[name]()
    size = config.head.embedding_size
    parameters = sum(p.numel() for p in on_meta(config.backbone.name, size).parameters()) / 1e6
    giga = multiply_adds(config.backbone.name, size) / 1e9
    cells = [
        f"`{name}`",
        paragraph(name, "Data"),
        f"`{config.backbone.name}`",
        f"{parameters:.2f} M",
        f"{giga:.3g} G",
        str(config.data.batch_size),
        f"{config.epochs:.4g}",
        schedule(config),
        re.sub(r" \([^)]*\)", "", paragraph(name, "Source")),  # without what each file says
    ]
    return f"| {' | '.join(cells)} |"


def test_the_page_of_presets_is_current() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    missing = [line for line in map(row, PRESETS) if line not in lines]
    assert not missing, "docs/presets.md lacks these lines:\n" + "\n".join(missing)
    named = {line.split("`")[1] for line in lines if line.startswith("| `")}
    assert named == set(PRESETS), "docs/presets.md names other presets than there are"
