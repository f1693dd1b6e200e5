"""The loops that `benchmarks/train.py` compares, each in a process of its own.

A process warms up, says `ready`, and for each line that it is told makes some steps and answers
with the seconds that they took.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from facerec import backbones, pages
from facerec.config import TrainConfig, override
from facerec.data.cache import cached
from facerec.data.feed import Sent, feed
from facerec.data.shards import Shards
from facerec.data.stream import Stream
from facerec.divergence import StepWatch
from facerec.head import build_head
from facerec.optimizer import make_optimizer
from facerec.parallel import ClassShard
from facerec.step import Sums, TrainingStep

WARM_UP = 3  # steps
SCALE, MARGIN, RATE, DECAY, CLIP = 64.0, 0.5, 0.01, 5e-4, 5.0


class Task(NamedTuple):
    """What a side is told.

    Attributes:
        side: `ours`, `plain` or `arcface_torch`.
        shards: A prepared set.
        net: An entry of `BACKBONES`.
        batch: Images per step.
        steps: Per turn.
        device: `cpu` or `cuda`.
        cache: `data.cache` of ours.
        workers: Of the plain loop's `DataLoader`; ours has as many decoders where it has none of
            the set in memory and runs on an accelerator.
        compiled: `compile` of ours.
        reference: A checkout of arcface_torch.
    """

    side: str
    shards: str
    net: str
    batch: int
    steps: int
    device: str = "cpu"
    cache: str = "none"
    workers: int = 0
    compiled: str = "auto"
    reference: str = ""


def ours(task: Task) -> Callable[[], None]:
    """The parts of `facerec.train`'s loop, with what it measures and watches."""
    device = torch.device(task.device)
    accelerator = device.type == "cuda"
    config = override(
        TrainConfig(),
        {
            "data.train": task.shards,
            "data.batch_size": task.batch,
            "data.cache": task.cache,
            "data.decoders": max(task.workers, 1) if accelerator else 1,
            "backbone.name": task.net,
            "loss.name": "arcface",
            "loss.scale": SCALE,
            "loss.margin": MARGIN,
            "head.embedding_size": size(task.net),
            "optimizer.lr": RATE,
            "optimizer.weight_decay": DECAY,
            "optimizer.clip_norm": CLIP,
            "optimizer.clip_scope": "backbone",
            "compile": task.compiled,
        },
    )
    shards = Shards(task.shards)
    split = shards.split("train")
    torch.manual_seed(1)
    backbone = backbones.build(task.net, {}, embedding_size=size(task.net)).to(device)
    whole = ClassShard(split.classes, 0, 1)
    head = build_head(config.loss, whole, **vars(config.head)).to(device)
    step = TrainingStep(
        config, backbone, head, make_optimizer(config.optimizer, backbone, head), device
    )
    kept = cached(shards, task.cache, device=device)

    def batches() -> Iterator[Sent]:
        epoch = 0
        while True:
            stream = Stream(
                shards,
                batch_size=task.batch,
                seed=1,
                epoch=epoch,
                augment=config.data.augment,
                decoders=config.data.decoders,
                cache=kept,
            )
            yield from feed(stream, device)
            epoch += 1

    source, sums, watch = batches(), Sums({}, device), StepWatch(whole, head.centers)
    made = [0]

    def one() -> None:
        made[0] += 1
        measured = step(next(source), made[0], RATE)
        sums.add(measured.shown, task.batch)
        watch.note(made[0], RATE, measured.shown | measured.watched)

    return one


class PillowRows(Dataset[tuple[Tensor, int]]):
    """Images in memory as they are stored, decoded, mirrored and normalised row by row.

    Args:
        shards: A prepared set.
    """

    def __init__(self, shards: Shards) -> None:
        split = shards.split("train")
        groups = [split.read(group) for group in range(len(split.group_rows))]
        self._images = [bytes(image) for group in groups for image in group.images]
        self._labels = [int(label) for group in groups for label in group.labels]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with Image.open(io.BytesIO(self._images[row])) as image:
            if random.random() < 0.5:
                pixels = np.asarray(image.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT))
            else:
                pixels = np.asarray(image.convert("RGB"))
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255.0)
        return x.sub_(0.5).div_(0.5), self._labels[row]


def plain(task: Task) -> Callable[[], None]:
    """The same net in the usual layout, one image at a time, one-hot angles, PyTorch's defaults."""
    shards = Shards(task.shards)
    rows, classes = PillowRows(shards), shards.split("train").classes
    torch.manual_seed(1)
    net = backbones.build(task.net, {}, embedding_size=size(task.net))
    net = net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    centers = nn.Parameter(0.01 * torch.randn(classes, size(task.net)))
    optimizer = torch.optim.SGD(
        [*net.parameters(), centers], lr=RATE, momentum=0.9, weight_decay=DECAY
    )
    loader = DataLoader(
        rows,
        task.batch,
        shuffle=True,
        drop_last=True,
        num_workers=task.workers,
        persistent_workers=task.workers > 0,
    )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    source = batches()

    def one() -> None:
        images, labels = next(source)
        cos = F.linear(F.normalize(net(images)), F.normalize(centers)).clamp(-1 + 1e-7, 1 - 1e-7)
        own = F.one_hot(labels, classes)
        logits = SCALE * torch.cos(torch.acos(cos) + MARGIN * own)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        loss.item()

    return one


def arcface_torch(task: Task) -> Callable[[], None]:
    """The steps of its `train_v2.py` in half precision, on batches that lie on the device."""
    sys.path.insert(0, task.reference)
    names = ("backbones", "losses", "partial_fc_v2")
    nets, losses, partial_fc = (importlib.import_module(name) for name in names)
    torch.backends.cudnn.benchmark = True
    meeting = Path(task.shards).with_name(f"meeting{os.getpid()}")
    torch.distributed.init_process_group(
        "nccl", init_method=f"file://{meeting}", rank=0, world_size=1
    )
    classes, name = Shards(task.shards).split("train").classes, task.net.replace("iresnet", "r")
    net: Any = (
        nets.get_model(name, dropout=0.0, fp16=True, num_features=size(task.net)).cuda().train()
    )
    net = nn.parallel.DistributedDataParallel(
        net, broadcast_buffers=False, bucket_cap_mb=16, find_unused_parameters=True
    )
    net._set_static_graph()
    head = partial_fc.PartialFC_V2(
        losses.CombinedMarginLoss(SCALE, 1.0, MARGIN, 0.0, 0), size(task.net), classes, 1.0, True
    )
    head.train().cuda()
    optimizer = torch.optim.SGD(
        [{"params": net.parameters()}, {"params": head.parameters()}],
        lr=RATE,
        momentum=0.9,
        weight_decay=DECAY,
    )
    scaler = torch.amp.GradScaler("cuda", growth_interval=100)
    images = torch.rand(task.batch, 3, 112, 112, device="cuda") * 2 - 1
    labels = torch.randint(classes, (task.batch,), device="cuda")

    def one() -> None:
        loss = head(net(images), labels.clone())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        loss.item()

    return one


def size(net: str) -> int:
    """Length of an embedding."""
    return 128 if net == "tiny" else 512


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print what they like
    sides: dict[str, Any] = {"ours": ours, "plain": plain, "arcface_torch": arcface_torch}
    one: Callable[[], None] = sides[task.side](task)

    def wait() -> None:
        if task.device == "cuda":
            torch.cuda.synchronize()

    with pages.kept(torch.device(task.device)) if task.side == "ours" else nullcontext():
        for _ in range(WARM_UP):
            one()
        wait()
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            for _ in range(task.steps):
                one()
            wait()
            print(time.perf_counter() - began, file=answers, flush=True)
    os._exit(0)  # threads that decode ahead are not waited for


if __name__ == "__main__":
    main()
