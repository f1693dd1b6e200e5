"""A few training steps of a head, whole or on one worker of several: what `test_parallel` compares.

Run as `python -m tests.parallel_worker FOLDER RANK quick|slow`: three such processes form a group
of three (slow: then the first two a group of two), and each writes what it computed to FOLDER.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from facerec.checkpoint import Progress, Saver
from facerec.config import ConfigError, OptimizerConfig
from facerec.domains import Scalar
from facerec.head import ClassificationHead, Head, build_head
from facerec.losses import LOSSES, OBJECTIVES, REGULARIZERS
from facerec.optimizer import clip_gradients, make_optimizer
from facerec.parallel import ClassShard

ROWS, INPUTS, SIZE = 7, 5, 6  # 7 rows do not divide by 2 or 3


@dataclass(frozen=True)
class Case:
    """A head, and how long it trains."""

    loss: str
    args: dict[str, Scalar] = field(default_factory=dict)
    num_classes: int = 10
    sample_rate: float = 1.0
    center_storage: str = "free"
    queue_size: int = 0
    steps: int = 1
    one_class: bool = False
    optimizer: str = ""  # "": dense gradients; sgd, adamw: those of a run, and gradients clipped

    def __str__(self) -> str:
        words = [self.loss, *(f"{k}={v}" for k, v in self.args.items())]
        words += [f"C={self.num_classes}", f"r={self.sample_rate}", self.center_storage]
        words += [f"q={self.queue_size}", f"{self.steps}steps", *filter(None, [self.optimizer])]
        return "-".join([*words, *(["one_class"] if self.one_class else [])])


def margins() -> list[str]:
    """A loss of each margin."""
    first = {spec.margin: loss for loss, spec in reversed(LOSSES.items()) if spec.composable}
    return list(reversed(first.values()))


def quick_cases() -> list[Case]:
    """Every loss sampled for a few steps; queue, regularizers, starts and rules once each."""
    found = [Case(loss, sample_rate=0.5, steps=3) for loss in LOSSES]
    for objective in ("unified", "binary"):
        args: dict[str, Scalar] = {"objective": objective, "bias_init": "logsumexp"}
        found.append(Case("arcface", args, sample_rate=0.4, steps=2))
        found.append(Case("cosface", {"objective": objective, "logit_clip": "none", "scale": 8.0}))
        found.append(Case("arcface", {"objective": objective}, queue_size=9, steps=3))
    for regularizer in REGULARIZERS:
        args = {"objective": "binary", "regularizer": regularizer}
        found.append(Case("arcface", args, sample_rate=0.4, queue_size=9, steps=3))
        found.append(Case("cosface", {"regularizer": regularizer}, num_classes=2, steps=2))
    moved: dict[str, Scalar] = {"regularizer": "uniform", "beta": 0.1, "in_batch": False}
    found.append(Case("arcface", moved, steps=3))
    found.append(Case("cosface", {"regularizer": "exclusive", "in_batch": True}, steps=3))
    found.append(Case("cosface", {"regularizer": "contrast", "contrast_group": 3}, steps=3))
    clipped: dict[str, Scalar] = {"gradient": "detached", "past_pi": "clip", "cosine_eps": 0.01}
    found.append(Case("arcface", clipped))
    found.append(Case("arcface", {"margin_warmup": 0.9}, center_storage="unit", steps=3))
    for optimizer, storage in (("sgd", "unit"), ("adamw", "free")):
        args = {"regularizer": "uniform", "in_batch": False}
        kept: dict[str, Any] = {"sample_rate": 0.4, "queue_size": 9, "steps": 10}
        found.append(Case("cosface", args, center_storage=storage, optimizer=optimizer, **kept))
    found.append(Case("uniface_bce", sample_rate=0.4, steps=10, optimizer="sgd"))
    return found


def slow_cases() -> list[Case]:
    """Each margin with each objective; each loss for ten steps, with a queue, without classes."""
    found = [
        Case(loss, {"objective": objective}, sample_rate=rate)
        for loss in margins()
        for objective in OBJECTIVES
        for rate in (1.0, 0.4)
    ]
    for loss in LOSSES:
        found.append(Case(loss, sample_rate=0.5, steps=10, optimizer="sgd"))
        found.append(Case(loss, queue_size=16, steps=5))
        found.append(Case(loss, num_classes=2))  # fewer classes than workers
        found.append(Case(loss, sample_rate=0.1, one_class=True))  # workers without any
    return found


def run(
    case: Case, rank: int = 0, world_size: int = 1, penalise: Callable[..., Any] | None = None
) -> dict[str, Tensor]:
    """Trains on this worker's rows; returns the logical state, the same whatever the workers.

    The embeddings are x W, and W stands for a backbone: its gradient is averaged over the workers
    as `DistributedDataParallel` does it.
    """
    draw = torch.Generator().manual_seed(3)
    shard = ClassShard(case.num_classes, rank, world_size)
    component = SimpleNamespace(name=case.loss, args=case.args)
    head = build_head(
        component,
        shard,
        SIZE,
        sample_rate=case.sample_rate,
        center_storage=case.center_storage,
        queue_size=case.queue_size,
    ).double()
    if penalise is not None:
        assert isinstance(head, ClassificationHead)
        head.margin.penalty = penalise  # type: ignore[method-assign]
    backbone = torch.nn.Linear(INPUTS, SIZE, bias=False)
    weight = torch.randn(INPUTS, SIZE, generator=draw, dtype=torch.float64)
    weight = backbone.weight = torch.nn.Parameter(weight.T)
    config = OptimizerConfig(name=case.optimizer or "sgd", lr=0.01, clip_norm=0.5)
    if case.optimizer:
        optimizer = make_optimizer(config, backbone, head)
    else:
        groups = [{"params": [weight]}, *({"params": g["params"]} for g in head.parameter_groups())]
        optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    found: dict[str, Tensor] = {"start/centers": shard.collect(head.centers).clone()}
    for step in range(case.steps):
        inputs = torch.randn(ROWS, INPUTS, generator=draw, dtype=torch.float64)
        labels = torch.randint(case.num_classes, (ROWS,), generator=draw)
        masks = torch.rand(ROWS, SIZE, generator=draw, dtype=torch.float64)
        if case.one_class:
            labels[:] = labels[0]
        mine = ClassShard(ROWS, rank, world_size)  # the same division serves the rows
        head.progress = step / case.steps
        optimizer.zero_grad()
        x = backbone(mine.cut(inputs))
        views = x if head.views == 1 else torch.stack([x, x * mine.cut(masks)])
        output = head(views, mine.cut(labels))
        output.loss.backward()
        assert weight.grad is not None
        if world_size > 1:
            dist.all_reduce(weight.grad)
            weight.grad /= world_size
        found[f"{step}/loss"] = output.loss.detach()
        found |= {f"{step}/{k}": v.detach() for k, v in {**output.terms, **output.stats}.items()}
        found[f"{step}/grad/weight"] = weight.grad.clone()
        if case.optimizer:
            found[f"{step}/norm"] = clip_gradients(config, backbone, head)
        found |= {f"{step}/grad/{k}": v for k, v in gradients(head).items()}
        optimizer.step()
    found |= {f"end/{k}": v for k, v in state(head).items()}
    for name in sorted(head.class_axis & dict(head.named_parameters()).keys()):
        for key, value in sorted(optimizer.state.get(head.get_parameter(name), {}).items()):
            whole = value.dim() > 0
            found[f"end/{name}|{key}"] = head.shard.collect(value) if whole else value.clone()
    return found | {"end/weight": weight.detach()}


def gradients(head: Head) -> dict[str, Tensor]:
    found = {}
    for name, parameter in head.named_parameters():
        if parameter.grad is None:  # a part that is off, or not trained
            assert name != "centers" or not parameter.requires_grad
            continue
        gradient = parameter.grad.to_dense()
        found[name] = head.shard.collect(gradient) if name in head.class_axis else gradient.clone()
    return found


def state(head: Head) -> dict[str, Tensor]:
    return {
        name: head.shard.collect(tensor) if name in head.class_axis else tensor.clone()
        for name, tensor in head.state_dict().items()
    }


def counted() -> dict[str, Case]:
    """What the documentation counts the collectives of."""
    of_losses = {loss: Case(loss) for loss in LOSSES if loss != "broadface"}
    return {
        **of_losses,
        "sampled": Case("cosface", sample_rate=0.5),
        "with a queue": Case("cosface", queue_size=9),
        **{f"with {name}": Case("cosface", {"regularizer": name}) for name in REGULARIZERS},
    }


def collectives(case: Case, rank: int, world_size: int) -> dict[str, int]:
    """How often each collective runs in one step: the third one, when every bias has started."""
    counts: Counter[str] = Counter()
    originals = {name: getattr(dist, name) for name in ("all_reduce", "all_gather")}

    def counting(name: str) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            counts[name] += 1
            return originals[name](*args, **keywords)

        return call

    head = build_head(
        SimpleNamespace(name=case.loss, args=case.args),
        ClassShard(10, rank, world_size),
        SIZE,
        sample_rate=case.sample_rate,
        queue_size=case.queue_size,
    )
    try:
        for name in originals:
            setattr(dist, name, counting(name))
        for number in range(3):
            counts.clear()
            x = torch.ones(*((2,) if head.views == 2 else ()), 2, SIZE, requires_grad=True)
            head(x, torch.tensor([1 + number, 9])).loss.backward()
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return dict(counts)


def shared_gradients(rank: int, world_size: int) -> dict[str, Tensor]:
    """Gradients of a value that worker r uses r + 1 times, and of a term that all compute."""
    shard = ClassShard(10, rank, world_size)
    used, term = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    ((rank + 1) * shard.share(used).sum() + shard.once(term).sum()).backward()  # type: ignore[no-untyped-call]
    assert used.grad is not None
    assert term.grad is not None
    return {"share": used.grad, "once": term.grad}


def after_a_step(shard: ClassShard) -> tuple[Head, torch.optim.Optimizer]:
    """A head of 10 classes with momentum, a bias per class and a class memory."""
    loss = SimpleNamespace(name="uniface_bce", args={"regularizer": "sample_to_sample"})
    head = build_head(loss, shard, SIZE)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(5)
    head(torch.randn(10, SIZE), torch.arange(10)).loss.backward()
    optimizer.step()
    return head, optimizer


def saved(run: Path, rank: int, world_size: int) -> dict[str, Tensor]:
    """Save a head in pieces; the whole of what was saved."""
    head, optimizer = after_a_step(ClassShard(10, rank, world_size))
    backbone: Any = torch.nn.Linear(2, SIZE)
    with Saver(run, backbone, head, optimizer) as saver:
        folder = saver.save(Progress(step=1))
        saver.wait()
        assert folder.is_dir(), "every worker finds it when it has waited"
    momentum = optimizer.state[head.centers]["momentum_buffer"]
    said = ""
    try:
        Saver(run / f"of {rank}", backbone, head, optimizer)  # a folder that no other worker sees
    except ConfigError as error:
        said = str(error)
    assert f"{world_size - 1} of {world_size} workers do not see this run folder" in said
    return {**state(head), "momentum": head.shard.collect(momentum)}


def norm_penalty(norm: Tensor) -> Tensor:
    """A term on norms, as MagFace has one; it must count once, not once on each worker."""
    return 0.3 * norm + 1 / norm


def main(folder: Path, rank: int, cases: list[Case], sizes: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    for world_size in sizes:
        if rank >= world_size:
            continue
        store = f"file://{folder}/store{world_size}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
        found: dict[str, Any] = {str(case): run(case, rank, world_size) for case in cases}
        found["penalty"] = run(Case("cosface"), rank, world_size, norm_penalty)
        found |= shared_gradients(rank, world_size)
        found["saved"] = saved(folder / f"run{world_size}", rank, world_size)
        found["collectives"] = {
            name: collectives(case, rank, world_size) for name, case in counted().items()
        }
        torch.save(found, folder / f"{world_size}-{rank}.pt")
        dist.destroy_process_group()


if __name__ == "__main__":
    chosen = {"quick": (quick_cases(), (3,)), "slow": ([*quick_cases(), *slow_cases()], (3, 2))}
    main(Path(sys.argv[1]), int(sys.argv[2]), *chosen[sys.argv[3]])
