"""What a training is predicted to take, held against published trainings and our own tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from facerec.cli import main
from facerec.config import Component, TrainConfig, override
from facerec.head import build_head
from facerec.parallel import ClassShard
from facerec.planning import forecast, memory
from facerec.planning.cost import NetCost
from facerec.planning.devices import ACCELERATORS
from facerec.planning.forecast import Data, Forecast, sweep_epochs
from facerec.planning.memory import Factors, head_bytes
from facerec.planning.roofline import Step, bound

# insightface's arcface_torch, README.md: ResNet-50, fp16, on 8 V100 of 32 GB; the global batch of
# 1,024 is that of its docs/speed_benchmark.md. Identities, how, MB per GPU, images/s of all.
PUBLISHED = [
    (125_000, "data parallel", 7358, 4681),
    (1_400_000, "data parallel", 32252, 1672),
    (125_000, "model parallel", 5306, 4824),
    (1_400_000, "model parallel", 11178, 3043),
    (5_500_000, "model parallel", 32188, 1389),
    (125_000, "partial fc 0.1", 4868, 5004),
    (1_400_000, "partial fc 0.1", 6056, 4738),
    (5_500_000, "partial fc 0.1", 9854, 3975),
    (8_000_000, "partial fc 0.1", 12310, 3565),
    (16_000_000, "partial fc 0.1", 19950, 2679),
    (29_000_000, "partial fc 0.1", 32324, 1855),
]
GPUS, BATCH = 8, 1024
# Fitted to this table, but for PartialFC from 1.4 M identities on. BASE: bytes of all but the head.
THEIRS, THEIRS_SAMPLED, BASE = Factors(8.2, 0, 5.7), Factors(2, 6.2, 5.7), 4.7e9
RESNET50 = NetCost(6_309_330_944, 17_700_096, 43_590_848, 112)  # as test_roofline's counter counts
WEB = Data(93_431, 5_179_510)


@pytest.mark.parametrize(("classes", "how", "megabytes", "speed"), PUBLISHED)
def test_the_published_memory_is_met_with_their_factors(
    classes: int, how: str, megabytes: int, speed: int
) -> None:
    held = classes / GPUS if how != "data parallel" else classes
    rows = BATCH if how != "data parallel" else BATCH / GPUS
    sampled = how == "partial fc 0.1"
    head = head_bytes(
        THEIRS_SAMPLED if sampled else THEIRS,
        held=held,
        met=0.1 * held if sampled else held,
        rows=rows,
        embedding_size=512,
    )
    assert (BASE + sum(head)) / 1e6 == pytest.approx(megabytes, rel=0.1)


@pytest.mark.parametrize(
    ("classes", "how", "megabytes", "speed"), [row for row in PUBLISHED if row[1][0] != "d"]
)
def test_the_published_speed_is_met_with_one_share(
    classes: int, how: str, megabytes: int, speed: int
) -> None:
    sampled = how == "partial fc 0.1"
    step = Step(RESNET50, BATCH, GPUS, classes, 512, 2, sample_rate=0.1 if sampled else 1.0)
    least = bound(step, ACCELERATORS["v100"].rates(torch.float16))
    found = forecast.SHARE * least.images_per_second
    assert found == pytest.approx(speed, rel=0.12 if sampled else 0.25)


def kept_by(work: Callable[[], Tensor]) -> dict[int, int]:
    """Address -> bytes of what a forward pass keeps for the backward pass."""
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}


@pytest.mark.parametrize("loss", ["arcface", "uniface", "adaface", "curricularface"])
def test_our_head_holds_what_its_factors_say(loss: str) -> None:
    classes, rows, size = 3000, 32, 16
    head = build_head(Component(loss), ClassShard(classes), size)
    x = torch.randn(rows, size, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = torch.arange(rows)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    kept = kept_by(lambda: head(x, labels).loss)
    head(x, labels).loss.backward()
    optimizer.step()
    config = override(TrainConfig(), {"loss.name": loss, "head.embedding_size": size})
    step = Step.of(config, RESNET50, classes=classes, workers=1, number_bytes=4)
    factors = memory.factors_of(step)
    matrix = 4 * rows * classes
    matrices = sum(size for size in kept.values() if size >= matrix) / matrix
    assert matrices <= factors.matrices + 0.1
    assert factors.matrices <= 1 or matrices > 1  # more only where it needs more
    state = [head.centers, head.centers.grad, *optimizer.state[head.centers].values()]
    held = sum(t.numel() for t in state if isinstance(t, Tensor) and t.dim() == 2)
    assert held == 3 * classes * size
    assert factors.kept + factors.met == (7 if step.whole else 3)


def test_our_memory_is_the_sum_of_its_tensors() -> None:
    net = nn.Linear(10, 10)  # any weights: what counts is how often they are held
    parameters = sum(p.numel() for p in net.parameters())
    cost = NetCost(1, 7, parameters, 10)
    step = Step(cost, 64, 4, 1000, 8, number_bytes=2, sample_rate=0.1, parts=2, moments=2)
    found = memory.predict(step, set_bytes=11.0)
    # Weight, gradient, two moments, a bucket to send, two copies; and one in half precision.
    assert found.backbone == sum(4 * parameters for _ in range(7)) + 2 * parameters
    assert found.activations == pytest.approx(1.3 * 7 * 2 * 8)
    # All rows: weight, two moments; the sampled 25 of 250: themselves, their gradient as it comes
    # and in order, and that of the part before.
    assert found.centers == 4 * 8 * (3 * 250 + 4 * 25)
    assert found.logits == 4 * 32 * 25
    assert found.images == 9 * 300 * 8 + 11
    assert found.total == pytest.approx(sum(vars(found).values()))
    huge = replace(step, classes=10**9, sample_rate=1.0)
    assert memory.predict(huge).logits == 4 * 2**30  # beyond it, cosines are computed again
    assert memory.predict(replace(huge, whole=True)).logits == 5 * 4 * 32 * 25e7


def planned(changes: dict[str, object], **given: object) -> Forecast:
    config = override(TrainConfig(), {"loss.name": "arcface", "data.batch_size": 1024, **changes})
    values = {"workers": 1, "dtype": torch.bfloat16, "room": 16e9, "data": WEB} | given
    rates = ACCELERATORS["a100-40"].rates(torch.bfloat16)
    return forecast.forecast(config, rates=rates, **values)  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_does_not_fit_comes_with_changes_that_do() -> None:
    crowded = planned({"backbone.name": "mobilefacenet", "data.cache": "memory"}, room=20e9)
    assert crowded.memory.total > 18e9
    assert len(crowded.advice) == 2
    for line in crowded.advice:
        words = line.removeprefix("memory: ").partition(" ")[0]
        key, _, value = words.partition("=")
        changed = (
            planned({"backbone.name": "mobilefacenet"}, room=20e9, workers=int(value))
            if key == "--workers"
            else planned({"backbone.name": "mobilefacenet", key: value}, room=20e9)
        )
        assert changed.memory.total <= 18e9
        assert f"{changed.memory.total / 1e9:.1f} GB" in line
    assert "data.cache" not in str(crowded.advice)
    many = Data(2_000_000, 10**8)
    together = planned({"backbone.name": "mobilefacenet", "data.cache": "device"}, data=many)
    assert len(together.advice) == 1
    words = together.advice[0].removeprefix("memory: ").partition(" takes")[0].split()
    applied = dict(word.split("=") for word in words)
    assert applied.keys() == {"data.cache", "optimizer.accumulate", "head.sample_rate"}
    fitting = planned({"backbone.name": "mobilefacenet", **applied}, data=many)
    assert fitting.memory.total <= 0.9 * 16e9
    assert "smaller data.batch_size" in planned({"data.cache": "memory"}, room=1e9).advice[0]


def test_decoding_binds_where_it_is_the_slowest() -> None:
    found = planned({"backbone.name": "mobilefacenet"}, share=1.0, room=math.inf)
    assert found.bound_by == "decode"
    assert found.images_per_second == forecast.DECODED
    enough = re.search(r"data\.decoders=(\d+)", found.advice[0])
    assert enough is not None
    more = {"backbone.name": "mobilefacenet", "data.decoders": int(enough[1])}
    assert planned(more, share=1.0, room=math.inf).bound_by == "memory"
    kept = planned({"backbone.name": "mobilefacenet", "data.cache": "memory"}, share=0.5)
    assert kept.bound_by == "memory"
    assert kept.images_per_second == pytest.approx(kept.bound.images_per_second / 2)
    assert kept.hours == pytest.approx(20 * 5_179_510 / kept.images_per_second / 3600)


@pytest.mark.parametrize(
    ("trials", "epochs", "rungs"),
    [(8, 16, [4, 8]), (16, 28, [7, 14]), (4, 2, [1]), (4, 1, []), (8, 10, [3])],
)
def test_a_sweep_costs_what_its_rungs_leave(trials: int, epochs: int, rungs: list[int]) -> None:
    assert forecast.rungs(epochs) == rungs
    passed = 0
    for trial in range(trials):  # in the order of their scores, the worst first
        for epoch in range(1, epochs + 1):
            passed += 1
            worse = sum(epoch >= rung for rung in rungs)  # halvings that it had to get through
            if epoch in rungs and trial < trials * (1 - 0.5**worse):
                break
    assert sweep_epochs(trials, epochs) == pytest.approx(passed)
    assert sweep_epochs(trials, epochs, early_stop=False) == trials * epochs
    if epochs % 4 == 0:
        formula = trials * (epochs / 4) * (1 + math.log2(4) * (1 - 1 / 2))
        assert sweep_epochs(trials, epochs) == formula


def test_the_command_says_all_of_it(toy_shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["preset=laptop", f"data.train={toy_shards}", "--trials", "8"]
    assert main(["plan", *words]) == 0
    here = capsys.readouterr().out
    for said in ("12 classes, 120 images", "measured", "float32", "64 epochs of 128", "fits"):
        assert said in here
    data = ["--classes", "500", "--images", "100000"]
    words = ["preset=laptop", *data, "--gpu", "h200", "--workers", "8", "data.batch_size=512"]
    assert main(["plan", *words, "--share", "0.5"]) == 0
    there = capsys.readouterr().out
    for said in ("8 x h200", "NVIDIA H200 data sheet", "bfloat16", "100,000 images", "bound by"):
        assert said in there


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--gpu h20", ["--gpu h20", "a100-80", "Did you mean h200?"]),
        ("--gpu A100", ["--gpu A100", "Did you mean a100-40?"]),
        ("--gpu h200 --images 5", ["--classes N --images N", "data.train"]),
        ("--gpu h200 --images 0 --classes 9", ["--images 0", "1 or more"]),
        ("--workers 0", ["--workers 0", "1 or more"]),
        ("--workers 3 --classes 9 --images 9", ["data.batch_size = 512", "such as 513"]),
        ("--share 1.5", ["--share 1.5"]),
        ("--gpu t4 precision=bf16 --classes 9 --images 9", ["bf16", "t4", "precision=fp32"]),
        ("preset=lapto", ["lapto", "Did you mean laptop?"]),
        ("data.train=nowhere", ["nowhere", "no such folder"]),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(
    words: str, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(text in error for text in told), error
