"""The least time of a step, re-derived; what a net costs, by other counters; the meter."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from facerec import backbones, history
from facerec.config import TrainConfig, override
from facerec.planning import devices, meter, roofline
from facerec.planning.cost import NetCost, count
from facerec.planning.devices import ACCELERATORS, Rates
from facerec.planning.roofline import Bound, Step, bound
from facerec.train import log_report, train
from tests.backbones.cost import multiply_adds
from tests.backbones.nets import on_meta
from tests.test_train import silent, toy_config

NET = NetCost(multiply_adds=1000, saved=50, parameters=300, input_size=64)
RATES = Rates(matrix=1e6, single=1e5, bandwidth=1e4, link=1e3)


def test_tiny_s_multiply_adds_are_those_of_its_drawing() -> None:
    convolutions = zip((32, 16, 8, 4), pairwise((3, 16, 32, 64, 128)), strict=True)
    expected = sum(side**2 * 9 * before * after for side, (before, after) in convolutions)
    net = backbones.build("tiny", {}, embedding_size=32)
    linear = [module.weight.numel() for module in net.modules() if isinstance(module, nn.Linear)]
    assert count(net).multiply_adds == expected + sum(linear)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iresnet18", "sphereface20", "ir_50", "mobilefacenet"])
def test_multiply_adds_are_those_of_another_counter(name: str) -> None:
    found = count(backbones.build(name, {}, embedding_size=512))
    other = on_meta(name)
    assert found.multiply_adds == multiply_adds(other)
    assert found.parameters == sum(p.numel() for p in other.parameters())


@pytest.mark.slow
def test_a_transformer_s_left_out_patches_cost_nothing() -> None:
    whole = count(backbones.build("vit_t", {"mask_ratio": 0.0}, embedding_size=512))
    assert whole.multiply_adds == multiply_adds(on_meta("vit_t"))
    cut = count(backbones.build("vit_t", {"mask_ratio": 0.5}, embedding_size=512))
    assert 0.45 < cut.multiply_adds / whole.multiply_adds < 0.6


def test_what_tiny_saves_is_the_sum_over_its_layers() -> None:
    # Each block: what enters the convolution, the normalisation and the slopes; then the linear
    # layer's input and what the last normalisation sees. The image itself is kept too.
    net = backbones.build("tiny", {}, embedding_size=32)
    seen: dict[int, int] = {}

    def note(module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        if not list(module.children()) and list(module.parameters()):
            seen[given[0].data_ptr()] = given[0].numel()
            alive.append(given[0])

    alive: list[torch.Tensor] = []
    hooks = [module.register_forward_hook(note) for module in net.modules()]
    net.eval()(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    assert count(net).saved == sum(seen.values())


def test_counting_changes_nothing() -> None:
    net = backbones.build("tiny", {"dropout": 0.5}, embedding_size=32)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.random.get_rng_state()
    net.eval()
    count(net)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(not module._forward_hooks for module in net.modules())


def slow_bound(step: Step, rates: Rates) -> tuple[float, float, float]:
    """Compute, memory and communication by counting each product and pass on its own."""
    compute = memory = 0.0

    def spend(flops: float, moved: float, rate: float) -> None:
        nonlocal compute, memory
        if flops / rate >= moved / rates.bandwidth:
            compute += flops / rate
        else:
            memory += moved / rates.bandwidth

    own = step.images / step.workers
    directions = 3 if step.trains_backbone else 1  # forward, gradients of inputs, of weights
    work = sum(2 * step.net.multiply_adds for _ in range(directions)) * own
    spend(work, 5 * step.net.saved * step.number_bytes * own, rates.matrix)
    met = min(
        max(step.sample_rate * step.classes, min(step.images, step.classes)) / step.workers,
        step.classes / step.workers,
    )
    rows, d = step.views * step.images, step.embedding_size
    # With a queue: rows against centers and back to the rows; all rows against centers and back.
    again = (rows + step.queue) * met
    products = 2 * rows * met + 2 * again if step.queue else 3 * rows * met
    spend(2 * products * d, 6 * 4 * products / 3, rates.single)
    passes = 8 + (3 if step.clips else 0) + 2 * (step.moments - 1)
    trained = met * d + (step.net.parameters if step.trains_backbone else 0)
    memory += passes * 4 * trained / rates.bandwidth
    if step.workers == 1:
        return compute, memory, 0.0
    # A ring sends a part of the buffer on in each of its N - 1 turns, twice for a sum.
    part = 4 * rows * d / step.workers
    sent = sum(part for _ in range(step.workers - 1))
    sent += 2 * sum(part + 16 * rows / step.workers for _ in range(step.workers - 1))
    gradients = 2 * (step.workers - 1) * 4 * step.net.parameters / step.workers
    backward = (
        2
        / 3
        * max(work / rates.matrix, 5 * step.net.saved * step.number_bytes * own / rates.bandwidth)
    )
    late = max(gradients / rates.link - backward, 0.0) if step.trains_backbone else 0.0
    return compute, memory, sent / rates.link + late


STEPS = [
    Step(NET, 64, 1, 1000, 16),
    Step(NET, 64, 4, 1000, 16, number_bytes=2, sample_rate=0.1, clips=False),
    Step(NET, 64, 4, 1000, 16, sample_rate=0.01, moments=2),
    Step(NET, 64, 2, 10, 16, views=2),
    Step(NET, 64, 1, 1000, 16, queue=320),
    Step(NET, 64, 2, 1000, 16, trains_backbone=False),
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("bandwidth", [1e4, 1e7])
def test_the_least_time_is_that_of_a_plain_count(step: Step, bandwidth: float) -> None:
    rates = replace(RATES, bandwidth=bandwidth)
    found = bound(step, rates)
    expected = slow_bound(step, rates)
    assert (found.compute, found.memory, found.communication) == pytest.approx(expected)
    assert found.seconds == pytest.approx(sum(expected))
    assert found.images_per_second == pytest.approx(step.images / sum(expected))


def test_a_device_twice_as_fast_halves_what_it_binds() -> None:
    step = STEPS[0]
    slow, quick = bound(step, Rates(1e6, 1e5, 1e9)), bound(step, Rates(2e6, 2e5, 2e9))
    assert slow.by == "compute"
    assert quick.seconds == pytest.approx(slow.seconds / 2)
    assert bound(step, replace(RATES, bandwidth=1.0)).by == "memory"
    assert bound(STEPS[1], Rates(1e12, 1e12, 1e12, link=1.0)).by == "communication"


def test_a_step_is_read_from_the_config() -> None:
    config = override(
        TrainConfig(),
        {
            "loss.name": "broadface",
            "optimizer.name": "adamw",
            "optimizer.clip_norm": 0,
            "optimizer.accumulate": 2,
            "head.sample_rate": 0.5,
        },
    )
    step = Step.of(config, NET, classes=100, workers=2, number_bytes=2)
    assert step == Step(
        NET, 512, 2, 100, 512, 2, 0.5, queue=32_000, moments=2, clips=False, parts=2
    )
    for loss, views, whole in (("contraface", 2, False), ("curricularface", 1, True)):
        config = override(TrainConfig(), {"loss.name": loss, "backbone.view_dropout": 0.5})
        found = Step.of(config, NET, classes=100, workers=1, number_bytes=4)
        assert (found.views, found.whole) == (views, whole)
    confident = override(TrainConfig(), {"loss.name": "scf"})
    assert not Step.of(confident, NET, classes=9, workers=1, number_bytes=4).trains_backbone


def test_the_device_is_measured_once_and_plausibly(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    rates = devices.measure(cpu, torch.float32)
    assert 1e8 < rates.matrix == rates.single < 1e15
    assert 1e7 < rates.bandwidth < 1e14
    monkeypatch.setattr(torch, "mm", None)
    assert devices.measure(cpu, torch.float32) is rates
    assert devices.measure_link(cpu) == math.inf


def test_a_data_sheet_s_rates_follow_the_type() -> None:
    card = ACCELERATORS["h200"]
    half, single = card.rates(torch.bfloat16), card.rates(torch.float32)
    assert half.matrix == pytest.approx(0.8 * 989e12)
    assert single.matrix == single.single == half.single == pytest.approx(0.8 * 67e12)
    assert half.bandwidth == pytest.approx(0.9 * 4.8e12)
    for name, other in ACCELERATORS.items():
        assert other.bandwidth < other.single < max(other.half, other.single) * 1.01, name
        assert not other.bf16 or other.bf16 == other.half, name


def test_the_meter_counts_waiting_and_names_what_binds() -> None:
    seen = meter.Meter(Bound(10, compute=0.2, memory=0.1, communication=0.05))

    def slow() -> object:
        for number in range(3):
            time.sleep(0.02)
            yield number

    assert list(seen.waiting(slow())) == [0, 1, 2]
    row = seen.row(20.0)
    assert row["possible_images_per_second"] == pytest.approx(10 / 0.35)
    assert [row[f"bound.{n}"] for n in ("compute", "memory", "communication")] == pytest.approx(
        [0.4, 0.2, 0.1]
    )
    assert row["bound.decode"] > 0.9
    assert meter.bound_by(row) == "decode"
    for _ in seen.waiting(iter(range(3))):
        time.sleep(0.02)
        break  # as at the end of an epoch
    row = seen.row(20.0) | {"images_per_second": 20.0}
    assert row["bound.decode"] < 0.1
    assert meter.bound_by(row) == "compute"
    assert meter.said(row) == "70% of possible, bound by compute"
    assert meter.said({"images_per_second": 20.0}) == ""


def test_an_epoch_s_row_has_the_columns_and_says_them(
    toy_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy_config(toy_shards, epochs=1)
    last = train(config, run=tmp_path / "run", report=silent)
    (row,) = history.read(tmp_path / "run")
    assert row["bound_by"] == meter.bound_by(last)
    assert last == {name: value for name, value in row.items() if name != "bound_by"}
    share = sum(row[f"bound.{name}"] for name in roofline.BOUNDS)
    achieved = row["images_per_second"] / row["possible_images_per_second"]
    assert share == pytest.approx(achieved)
    assert not dist.is_initialized()
    assert row["bound.communication"] == 0.0
    log_report(last, None)
    assert f"of possible, bound by {row['bound_by']}" in capsys.readouterr().out
