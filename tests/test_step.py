"""One step: it waits for nothing, its numbers come in three precisions, and it may be compiled."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from facerec import backbones, checkpoint
from facerec.config import ConfigError, OptimizerConfig, TrainConfig, override
from facerec.data.feed import Sent, feed
from facerec.data.stream import Stream
from facerec.divergence import Diverged, StepWatch, diagnose
from facerec.head import ClassificationHead, build_head
from facerec.optimizer import clip_gradients, make_optimizer
from facerec.parallel import ClassShard
from facerec.precision import DOUBLED_AFTER, FIRST_SCALE, LARGEST_SCALE, LossScaler, compute_dtype
from facerec.step import Sums, TrainingStep, compiles
from facerec.train import train
from tests.test_train import assert_same_weights, silent, toy_config

CPU = torch.device("cpu")
WAITS = {  # what makes the host wait for an accelerator
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::equal",
}


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        assert name not in WAITS, f"{name} waits for the device"
        if name in ("aten::index", "aten::index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "a mask is counted"
        return func(*args, **(kwargs or {}))


def made(
    config: TrainConfig, classes: int = 12
) -> tuple[backbones.base.Backbone, ClassificationHead, torch.optim.Optimizer, TrainingStep]:
    torch.manual_seed(1)
    size = config.head.embedding_size
    backbone = backbones.build(config.backbone.name, config.backbone.args, embedding_size=size)
    head = build_head(config.loss, ClassShard(classes, 0, 1), **vars(config.head))
    assert isinstance(head, ClassificationHead)
    optimizer = make_optimizer(config.optimizer, backbone, head)
    return backbone, head, optimizer, TrainingStep(config, backbone, head, optimizer, CPU)


def batch(config: TrainConfig, shards: Path) -> Sent:
    stream = Stream(shards, batch_size=config.data.batch_size, seed=1, augment=config.data.augment)
    return next(iter(feed(stream, CPU)))


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp32"},
        {"precision": "fp16", "loss__name": "uniface", "optimizer__accumulate": 2},
        {
            "loss__name": "elasticface",
            "data__batch_size": 4,
            "head__sample_rate": 0.9,  # as many classes as a batch and the queue may hold
            "head__queue_size": 6,
            "data__augment.rotate": 0.1,
            "data__augment.low_res": 0.5,
            "data__augment.occlusion": 0.5,
        },
    ],
    ids=["plain", "fp16", "sampled"],
)
def test_no_step_waits_for_the_device(
    toy_shards: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(ClassificationHead, "_check", lambda *_: None)  # reads labels on CPUs alone
    config = toy_config(toy_shards, **changes)
    _, head, _, one = made(config)
    sent, watch = batch(config, toy_shards), StepWatch(head.shard, head.centers)
    sums = Sums({}, CPU)
    for number in range(1, 4):  # momentum, running means and the queue are there from the second
        with NoWaiting():
            measured = one(sent, number, 0.05)
            sums.add(measured.shown, config.data.batch_size)
            watch.note(number, 0.05, measured.shown | measured.watched)
    assert math.isfinite(sums.read()["loss"])
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        float(measured.shown["loss"])


def test_sums_add_up_and_grow(toy_shards: Path) -> None:
    sums = Sums({"loss": 3.0}, CPU)
    sums.add({"loss": torch.tensor(2.0, dtype=torch.float64)}, 10)
    late = {name: torch.tensor(v, dtype=torch.float64) for name, v in (("loss", 1.0), ("b", 0.5))}
    sums.add(late, 4)
    assert sums.read() == {"loss": 27.0, "b": 2.0}


def test_a_fused_step_is_plain_sgd_to_the_bit(toy_shards: Path) -> None:
    config = toy_config(toy_shards)
    backbone, head, _, one = made(config)
    sent = batch(config, toy_shards)
    parameters = [*backbone.parameters(), *head.parameters()]
    weights = [p.detach().clone() for p in parameters]
    momentum = [torch.zeros_like(p) for p in weights]
    for number in range(3):
        one(sent, number, 0.05)
        for weight, kept, parameter in zip(weights, momentum, parameters, strict=True):
            assert parameter.grad is not None
            kept.mul_(0.9).add_(parameter.grad + 5e-4 * weight)
            weight.sub_(0.05 * kept)
            torch.testing.assert_close(parameter.detach(), weight, rtol=1e-5, atol=1e-7)


class Tensors:
    """A net and a head of two parameters each, with gradients."""

    def __init__(self, loss_scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(3)
        self.net = torch.nn.Linear(4, 3).double()
        self.head = torch.nn.Linear(5, 2).double()
        for parameter in (*self.net.parameters(), *self.head.parameters()):
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = loss_scale * drawn
        self.head.centers = self.head.weight
        self.head.class_axis = frozenset()  # type: ignore[assignment]
        self.head.shard = ClassShard(2, 0, 1)  # type: ignore[assignment]

    def gradients(self) -> list[Tensor]:
        both = (*self.net.parameters(), *self.head.parameters())
        return [p.grad for p in both if p.grad is not None]


@pytest.mark.parametrize("scope", ["all", "backbone"])
@pytest.mark.parametrize("norm", [0.0, 0.5, 1e9])
def test_the_scale_of_the_loss_is_taken_out(scope: str, norm: float) -> None:
    config = OptimizerConfig(clip_norm=norm, clip_scope=scope)
    plain, scaled = Tensors(), Tensors(1024.0)
    found = [
        clip_gradients(config, side.net, side.head, scale)  # type: ignore[arg-type]
        for side, scale in ((plain, None), (scaled, torch.tensor(1024.0)))
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)
    for one, two in zip(plain.gradients(), scaled.gradients(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=0)


def test_the_scale_follows_what_it_sees() -> None:
    scaler = LossScaler(CPU)
    scaler.settle(torch.tensor(True))
    scaler.settle(torch.tensor(True))
    assert scaler.state_dict() == {"scale": FIRST_SCALE / 4, "good": 0}
    scaler.load_state_dict({"scale": 8.0, "good": DOUBLED_AFTER - 2})
    scaler.settle(torch.tensor(False))
    assert scaler.state_dict() == {"scale": 8.0, "good": DOUBLED_AFTER - 1}
    scaler.settle(torch.tensor(False))
    assert scaler.state_dict() == {"scale": 16.0, "good": 0}
    scaler.load_state_dict({"scale": LARGEST_SCALE, "good": DOUBLED_AFTER - 1})
    scaler.settle(torch.tensor(False))
    assert scaler.state_dict()["scale"] == LARGEST_SCALE


@pytest.mark.parametrize(("name", "rate"), [("sgd", 1.0), ("adamw", 1.0), ("sgd", 0.5)])
def test_an_infinite_gradient_in_half_precision_moves_nothing(
    toy_shards: Path, name: str, rate: float
) -> None:
    changes = {"optimizer__name": name, "head__sample_rate": rate}
    config = toy_config(toy_shards, precision="fp16", **changes)
    backbone, head, _, one = made(config)
    assert one.scaler is not None
    sent = batch(config, toy_shards)
    weights = [p.detach().clone() for p in (*backbone.parameters(), *head.parameters())]
    one.scaler.load_state_dict({"scale": 3e38, "good": 5})
    first = one(sent, 1, 0.05)
    assert not math.isfinite(first.watched["gradient_norm"])
    assert one.scaler.state_dict() == {"scale": pytest.approx(LARGEST_SCALE), "good": 0}
    for weight, p in zip(weights, (*backbone.parameters(), *head.parameters()), strict=True):
        assert torch.equal(weight, p)
    one.scaler.load_state_dict({"scale": 1024.0, "good": 5})
    second = one(sent, 2, 0.05)
    assert math.isfinite(second.watched["gradient_norm"])
    assert one.scaler.state_dict() == {"scale": 1024.0, "good": 6}
    # Nor did the first step leave a momentum behind: the second moves as a first one does.
    for weight, p in zip(weights, (*backbone.parameters(), *head.parameters()), strict=True):
        if name == "sgd" and rate == 1 and p.grad is not None:
            expected = weight - 0.05 * (p.grad + 5e-4 * weight)
            torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights[0], next(backbone.parameters()))


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.03), ("fp16", 0.02)])
def test_half_precision_is_near_single(toy_shards: Path, precision: str, most: float) -> None:
    losses = {}
    for kind in ("fp32", precision):
        config = toy_config(toy_shards, precision=kind)
        backbone, _, _, one = made(config)
        if one.scaler is not None:
            one.scaler.load_state_dict({"scale": 1024.0, "good": 0})
        sent = batch(config, toy_shards)
        losses[kind] = [float(one(sent, n, 0.05).shown["loss"]) for n in range(3)]
        assert all(p.dtype == torch.float32 for p in backbone.parameters())
    assert losses["fp32"] != losses[precision]
    np.testing.assert_allclose(losses["fp32"], losses[precision], rtol=most)


@pytest.mark.slow
def test_half_precision_resumes_with_its_scale(toy_shards: Path, tmp_path: Path) -> None:
    config = toy_config(toy_shards, precision="fp16", epochs=2)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    train(config, run=tmp_path / "whole", report=silent)
    with pytest.raises(KeyboardInterrupt):
        train(config, run=tmp_path / "cut", report=stop)
    train(config, run=tmp_path / "cut", report=silent, resume_from=tmp_path / "cut")
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    states = [
        checkpoint.files.read_state(checkpoint.find(tmp_path / run)).parts
        for run in ("whole", "cut")
    ]
    assert states[0] == states[1]
    scaler = states[0]["scaler"]
    steps_lost = math.log2(FIRST_SCALE / scaler["scale"])  # it was halved until gradients fitted
    assert scaler["good"] == 12 - steps_lost > 6
    single = override(config, {"precision": "fp32"})
    train(single, run=tmp_path / "none", report=silent)
    again = override(config, {"epochs": 3.0})
    with pytest.raises(ConfigError, match="scaler"):
        train(again, run=tmp_path / "none", report=silent, resume_from=tmp_path / "none")


def test_a_scale_that_collapses_is_typed() -> None:
    scaler, watch = LossScaler(CPU), StepWatch(ClassShard(2, 0, 1), torch.ones(2, 3))
    infinite = {"loss": torch.tensor(8.0), "gradient_norm": torch.tensor(torch.inf)}

    def fifty_steps() -> None:
        for number in range(1, 51):
            watch.note(number, 0.1, {**infinite, "loss_scale": scaler.scale.double()})
            scaler.settle(torch.tensor(True))

    with pytest.raises(Diverged) as caught:
        fifty_steps()
    assert (caught.value.reason, caught.value.step) == ("scaler_collapse", 18)
    assert "scale is 0.5" in caught.value.text


def test_infinities_that_the_scaler_met_are_no_divergence() -> None:
    steps = {
        "step": np.arange(1, 31),
        "learning_rate": np.full(30, 0.1),
        "loss": np.full(30, 8.0),
        "gradient_norm": np.where(np.arange(30) % 3, 1.0, np.inf),
        "loss_scale": np.full(30, 512.0),
    }
    assert diagnose(steps) is None
    del steps["loss_scale"]
    found = diagnose(steps)
    assert found is not None
    assert found[:2] == ("inf_gradient", 0)


def test_what_a_device_computes_in() -> None:
    assert compute_dtype("auto", CPU) == torch.float32
    assert compute_dtype("bf16", CPU) == torch.bfloat16
    assert compute_dtype("fp16", torch.device("cuda")) == torch.float16
    assert [compiles(word, CPU) for word in ("auto", "off")] == [False, False]


def test_compiling_without_a_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"compile = on: needs a C\+\+ compiler.*compile=off"):
        compiles("on", CPU)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX") or "g++") is None, reason="no compiler")
def test_a_compiled_run_is_the_same_run(toy_shards: Path, tmp_path: Path) -> None:
    runs = {}
    for word in ("off", "on"):
        config = toy_config(toy_shards, compile=word, epochs=2)
        runs[word] = train(config, run=tmp_path / word, report=silent)
    assert runs["on"]["loss"] == pytest.approx(runs["off"]["loss"], rel=1e-3)
    assert runs["on"]["val.tar"] == pytest.approx(runs["off"]["val.tar"], abs=0.1)
    _, backbone = checkpoint.load_backbone(tmp_path / "on")
    assert not any("_orig_mod" in name for name in backbone.state_dict())

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    config = toy_config(toy_shards, compile="on", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, run=tmp_path / "cut", report=stopped)
    train(config, run=tmp_path / "cut", report=silent, resume_from=tmp_path / "cut")
    assert_same_weights(tmp_path / "on", tmp_path / "cut")
