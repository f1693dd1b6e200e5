"""Trainings that break are seen, called by their reason and written down; healthy ones go on."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from facerec import backbones, checkpoint, optimizer
from facerec import step as steps_of
from facerec.backbones.base import Backbone
from facerec.config import Component, TrainConfig, override
from facerec.divergence import FIRST, KEPT, NAME, STREAK, Diverged, StepWatch, diagnose
from facerec.head import ClassificationHead, Head, build_head
from facerec.losses import LOSSES
from facerec.parallel import ClassShard
from facerec.presets import laptop
from facerec.train import train
from tests.test_train import silent, toy_config

Harm = Callable[[Backbone, ClassificationHead], None]


def small(shards: Path, **changes: Any) -> TrainConfig:
    """Ninety steps of eight images, measured nowhere."""
    fixed = {"data__batch_size": 8, "epochs": 6, "eval__every": 99, "eval__geometry": False}
    return toy_config(shards, **{**fixed, **changes})


def harmed(monkeypatch: pytest.MonkeyPatch, step: int, harm: Harm) -> None:
    """Do harm after the backward pass of a step, before the weights move."""
    clip, steps = optimizer.clip_gradients, [0]

    def clip_and_harm(config: Any, backbone: Backbone, head: ClassificationHead, scale: Any) -> Any:
        norm = clip(config, backbone, head, scale)
        steps[0] += 1
        if steps[0] == step:
            with torch.no_grad():
                harm(backbone, head)
        return norm

    monkeypatch.setattr(steps_of, "clip_gradients", clip_and_harm)


def break_weight(backbone: Backbone, head: ClassificationHead) -> None:
    next(backbone.parameters()).fill_(torch.nan)


def stretch_center(backbone: Backbone, head: ClassificationHead) -> None:
    head.centers[3] *= 1e6


def push_bias(backbone: Backbone, head: ClassificationHead) -> None:
    assert head.objective.bias is not None
    head.objective.bias.add_(500.0)


def diverged(config: TrainConfig, run: Path) -> Diverged:
    with pytest.raises(Diverged) as caught:
        train(config, run=run, report=silent)
    return caught.value


def rows(run: Path) -> dict[str, list[Any]]:
    return dict(pq.read_table(run / NAME).to_pydict())


@pytest.mark.parametrize(
    ("harm", "at", "reason", "first", "column"),
    [
        (break_weight, 17, "nan_loss", 18, "loss"),
        pytest.param(break_weight, 57, "nan_loss", 58, "loss", marks=pytest.mark.slow),
        (stretch_center, 14, "exploding_centers", 20, "longest_center"),
        (push_bias, 11, "bias_out_of_range", 11 + STREAK, "bias_reach"),
    ],
)
def test_each_reason_is_found_and_the_last_steps_are_kept(
    toy_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Harm,
    at: int,
    reason: str,
    first: int,
    column: str,
) -> None:
    harmed(monkeypatch, at, harm)
    changes = {"checkpoint.every": at - 1}
    error = diverged(small(toy_shards, loss__name="uniface", **changes), tmp_path)
    assert (error.reason, error.step) == (reason, first)
    assert f"{reason} at step {first}: " in str(error)
    kept = rows(tmp_path)
    assert kept["step"] == list(range(max(first - KEPT, 0) + 1, first + 1))
    for name in ("loss.unified", "train.target_cos", "train.norm", "train.bias", "gradient_norm"):
        assert all(math.isfinite(value) for value in kept[name][:-1])
    assert all(0 < rate <= 0.05 for rate in kept["learning_rate"])
    measured = [not math.isnan(value) for value in kept["longest_center"]]
    assert measured == [step % 10 == 0 for step in kept["step"]]
    healthy, broken = kept[column][kept["step"].index(10)], kept[column][-1]
    assert math.isnan(broken) or broken > 4 * healthy
    if reason == "nan_loss":
        newest = checkpoint.latest(tmp_path)
        assert newest is not None
        assert int(newest.name) == at - 1  # none of a broken net, nor at the end of the epoch


def test_an_infinite_gradient_is_told_from_an_infinite_loss(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def blow_up(gradient: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return gradient * (torch.inf if calls[0] == 13 else 1.0)

    build = backbones.build

    def build_hooked(*args: Any, **keywords: Any) -> Backbone:
        backbone = build(*args, **keywords)
        last = list(backbone.parameters())[-1]
        last.register_hook(blow_up)  # type: ignore[no-untyped-call]
        return backbone

    monkeypatch.setattr(backbones, "build", build_hooked)
    for clip in (5.0, 0.0):
        calls[0] = 0
        error = diverged(small(toy_shards, optimizer__clip_norm=clip), tmp_path)
        assert (error.reason, error.step) == ("inf_gradient", 13)
        assert "the gradient's norm is inf after " in error.text or "norm is nan" in error.text
        kept = rows(tmp_path)
        assert kept["step"] == list(range(1, 14))
        assert math.isfinite(kept["loss"][-1])


@pytest.mark.parametrize("value", [1.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_net_that_gives_one_answer_has_collapsed(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    build = backbones.build

    def build_dead(*args: Any, **keywords: Any) -> Backbone:
        backbone = build(*args, **keywords)
        backbone.register_forward_hook(lambda *called: 0.0 * called[2] + value)
        return backbone

    monkeypatch.setattr(backbones, "build", build_dead)
    error = diverged(small(toy_shards), tmp_path)
    assert (error.reason, error.step) == ("collapsed_embeddings", FIRST + STREAK)
    assert error.step <= 50


def test_a_rate_far_too_high_ends_typed(toy_shards: Path, tmp_path: Path) -> None:
    high = {"optimizer.lr": 100.0, "optimizer.momentum": 0.99, "optimizer.clip_norm": 0.0}
    steps = {"optimizer.schedule": "step", "epochs": 50 / 15}
    for loss in ("cosface", "softmax"):
        error = diverged(small(toy_shards, loss__name=loss, **high, **steps), tmp_path / loss)
        assert error.reason in ("nan_loss", "inf_gradient", "exploding_centers")
        assert error.step <= 50


@pytest.mark.slow
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "cosface"])
def test_no_healthy_training_is_stopped(toy_shards: Path, tmp_path: Path, loss: str) -> None:
    dropout = {"backbone.view_dropout": 0.6} if loss == "contraface" else {}
    config = override(
        override(laptop(Component("cosface")), {**dropout, "loss.name": loss} if dropout else {}),
        {"data.train": str(toy_shards), "data.batch_size": 20, "epochs": 65 / 6, "eval.every": 99},
    )
    first = override(config, {"loss.name": "cosface"})
    if loss == "scf":
        train(first, run=tmp_path / "first", report=silent)
        config = override(config, {"init_from": str(tmp_path / "first")})
    if not dropout:
        config = override(config, {"loss.name": loss})
    last = train(config, run=tmp_path / "run", report=silent)
    assert last["step"] == 65
    assert not (tmp_path / "run" / NAME).exists()


def healthy(count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Numbers of a training that goes well, from step 101 on."""
    draw = np.random.default_rng(1)
    return {
        "step": np.arange(101, 101 + count),
        "loss": draw.uniform(0.1, 20, count),
        "gradient_norm": draw.uniform(0, 500, count),
        "longest_center": np.where(np.arange(101, 101 + count) % 10 == 0, 20.0, np.nan),
        "pair_cos": draw.uniform(-0.1, 0.97, count),
        "train.norm": draw.uniform(0.1, 100, count),
        "train.bias": draw.uniform(-20, 20, count),
        "bias_reach": draw.uniform(0, 0.4, count),
    }


def test_the_first_step_that_meets_a_reason_is_the_one() -> None:
    assert diagnose(healthy(60)) is None
    steps = healthy(60)
    steps["loss"][30:] = np.nan
    steps["gradient_norm"][30:] = np.inf
    steps["longest_center"][39] = np.inf
    found = diagnose(steps)
    assert found is not None
    assert found[:2] == ("nan_loss", 30)
    steps["gradient_norm"][29] = np.inf
    found = diagnose(steps)
    assert found is not None
    assert found[:2] == ("inf_gradient", 29)
    steps["longest_center"][9] = 2e4
    found = diagnose(steps)
    assert found is not None
    assert found[:2] == ("exploding_centers", 9)
    assert "2e+04, over 10,000" in found[2]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("pair_cos", 0.9999995, "collapsed_embeddings"),
        ("train.norm", 0.0, "collapsed_embeddings"),
        ("bias_reach", 1.0, "bias_out_of_range"),
    ],
)
def test_what_may_pass_has_to_last(column: str, value: float, reason: str) -> None:
    steps = healthy(60)
    steps[column][[*range(5, 5 + STREAK - 1), *range(34, 34 + STREAK - 1)]] = value
    steps[column][5 + STREAK - 1] = steps[column][0]
    assert diagnose(steps) is None
    steps[column][58] = value
    found = diagnose(steps)
    assert found is not None
    assert found[:2] == (reason, 34 + STREAK - 1)
    steps["step"] -= 100  # the same, from step 1 on
    steps[column][:] = value
    found = diagnose(steps)
    assert found is not None
    early = FIRST if reason == "collapsed_embeddings" else 0
    assert steps["step"][found[1]] == early + STREAK


def values(loss: float, **more: float) -> dict[str, torch.Tensor]:
    numbers = {"loss": loss, "gradient_norm": 1.0, **more}
    return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}


@pytest.mark.parametrize("broken", range(120, 131))
def test_read_ten_steps_late_it_still_has_the_fifty_rows(
    broken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator, whose copies are read when the next one sets out."""
    waits: list[int] = []
    arrived: Any = SimpleNamespace(synchronize=lambda: waits.append(1))
    copy = StepWatch._copy
    late = lambda watch: copy(watch)._replace(arrived=arrived)  # noqa: E731
    monkeypatch.setattr(StepWatch, "_copy", late)
    watch = StepWatch(ClassShard(4), torch.ones(4, 2), run=tmp_path)
    seen_at = (broken + 9) // 10 * 10 + 10
    for step in range(1, seen_at):
        more = {"loss.late": float(step)} if step > 115 else {}
        watch.note(step, 0.5, values(math.nan if step >= broken else step, **more))
    with pytest.raises(Diverged) as caught:
        watch.note(seen_at, 0.5, values(math.nan))
    assert (caught.value.reason, caught.value.step) == ("nan_loss", broken)
    assert len(waits) == seen_at // 10 - 1
    kept = rows(tmp_path)
    numbers = list(range(broken - KEPT + 1, broken + 1))
    assert kept["step"] == numbers
    assert kept["loss"][:-1] == numbers[:-1]
    late_ones = [v for v in kept["loss.late"] if not math.isnan(v)]
    assert late_ones == list(range(116, broken + 1))


def test_an_older_file_goes_and_a_full_disk_is_no_accident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).write_bytes(b"of another attempt")
    watch = StepWatch(ClassShard(4), torch.full((4, 2), torch.nan), run=tmp_path)
    assert not (tmp_path / NAME).exists()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("facerec.divergence.write_table", full)
    watch.note(9, 0.5, values(1.0))
    watch.check()
    with pytest.raises(Diverged, match="No space left") as caught:
        watch.note(10, 0.5, values(1.0))
    assert caught.value.reason == "exploding_centers"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, again.step, str(again)) == ("exploding_centers", 10, str(caught.value))


def head_of(loss: str, **args: Any) -> Head:
    return build_head(SimpleNamespace(name=loss, args=args), ClassShard(10), 4)


def test_what_is_watched_is_what_it_says() -> None:
    x, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.arange(5)
    cos = [
        float((x[i] * x[j]).sum() / x[i].norm() / x[j].norm())
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    start = {"bias_init": "constant", "bias_value": 30.0, "scale": 20.0}
    for loss, limit in (("uniface", 40.0), ("uniface_bce", 40.0), ("sphereface2", 160.0)):
        watched = head_of(loss, **start)(x, labels).watched
        assert float(watched["pair_cos"]) == pytest.approx(sum(cos) / 20, abs=1e-6)
        assert float(watched["bias_reach"]) == pytest.approx(30.0 / limit)
    free = head_of("uniface", **start, logit_clip="none")(x, labels).watched
    assert float(free["bias_reach"]) == pytest.approx(30.0 / 160.0)
    assert "bias_reach" not in head_of("softmax", objective="unified")(x, labels).watched
    one = head_of("arcface")(x[:1], labels[:1]).watched  # has no pairs
    assert math.isnan(float(one["pair_cos"]))


def test_no_logit_depends_on_its_cosine_at_the_limit_of_the_bias() -> None:
    cos = torch.linspace(-1, 1, 9)[None].requires_grad_()
    for loss in ("uniface", "sphereface2", "uniface_bce"):
        objective, scale = LOSSES[loss].objective(), torch.tensor(20.0)
        setattr(objective, "clips", loss != "sphereface2")  # noqa: B010
        limit = objective.bias_limit(scale)
        for sign in (1, -1):
            for beyond, still in ((1.01, True), (0.1, False)):
                shifted = objective.shift(scale * cos, scale, sign * beyond * limit)
                slope = torch.sigmoid(shifted) if loss == "sphereface2" else shifted
                dead = bool(((slope == slope[0, 0]) | (slope < 1e-30) | (slope == 1)).all())
                assert dead == still, (loss, sign, beyond)


def _worker(rank: int, folder: str, config: TrainConfig) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:  # rank 0 does not see this center
            harmed(patch, 14, stretch_center)
        error = diverged(config, Path(folder) / "run")
    (Path(folder) / f"{rank}.txt").write_text(str(error))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_workers_stop_at_the_same_step(toy_shards: Path, tmp_path: Path) -> None:
    arguments = (str(tmp_path), small(toy_shards))
    mp.spawn(_worker, arguments, nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said[0].startswith("exploding_centers at step 20: the longest center has length ")
    assert said[1] == said[0]
    assert rows(tmp_path / "run")["step"] == list(range(1, 21))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_no_step_waits_for_the_device() -> None:
    device = torch.device("cuda")
    watch = StepWatch(ClassShard(1000), torch.ones(1000, 64, device=device))
    noted = {name: value.to(device) for name, value in values(1.0).items()}
    watch.note(10, 0.5, noted)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(11, 100):
            watch.note(step, 0.5, noted)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    noted["loss"] = noted["loss"] * torch.nan
    for step in range(100, 110):
        watch.note(step, 0.5, noted)
    with pytest.raises(Diverged, match="nan_loss at step 100"):
        watch.note(110, 0.5, noted)
