"""The cases of `benchmarks/heads.py`: our heads, the same written plainly, bare products."""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from evaluation_turns import TURNS
from torch import Tensor

from facerec.config import Component
from facerec.head import ClassificationHead, build_head
from facerec.losses.adaface import AdaFace
from facerec.losses.arcface import ArcFace
from facerec.losses.cosface import CosFace
from facerec.output import HeadOutput
from facerec.parallel import ClassShard

SIZE = 512  # numbers of an embedding
LOSSES = ("arcface", "cosface", "adaface", "uniface")


@dataclass(frozen=True)
class Case:
    """A loss at one size."""

    loss: str
    classes: int
    rows: int = 128
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def inputs(self) -> tuple[ClassificationHead, Tensor, Tensor]:
        """A head, embeddings as long as trained ones, and their classes."""
        draw = torch.Generator().manual_seed(self.classes)
        component = Component(self.loss, {})
        head = build_head(component, ClassShard(self.classes), SIZE).to(self.device, self.dtype)
        assert isinstance(head, ClassificationHead)
        x = torch.randn(self.rows, SIZE, generator=draw, dtype=self.dtype)
        labels = torch.randint(self.classes, (self.rows,), generator=draw)
        return head, x.to(self.device).requires_grad_(), labels.to(self.device)


def ours(head: ClassificationHead, x: Tensor, labels: Tensor) -> Tensor:
    """The loss of the head."""
    output: HeadOutput = head(x, labels)
    return output.loss


def naive(head: ClassificationHead, x: Tensor, labels: Tensor) -> Tensor:
    """The loss written with a one-hot matrix and the angles of all classes."""
    margin = head.margin
    cos = F.linear(F.normalize(x), F.normalize(head.centers))
    smallest = 1e-7 if cos.dtype == torch.float32 else 1e-12
    eps: float = getattr(margin, "cosine_eps", 0.0) or smallest
    cos = cos.clamp(-1 + eps, 1 - eps)
    theta = torch.acos(cos)
    if isinstance(margin, ArcFace):
        hard = torch.cos(theta + margin.margin)
        drop = margin.margin * math.sin(margin.margin)
        hard = torch.where(theta + margin.margin < math.pi, hard, cos - drop)
    elif isinstance(margin, AdaFace):
        quality = margin.quality(x.norm(dim=1))[:, None]
        turned = (theta - margin.margin * quality).clamp(eps, math.pi - eps)
        hard = torch.cos(turned) - margin.margin * (1 + quality)
    else:
        assert isinstance(margin, CosFace)
        cos = torch.cos(theta)
        hard = cos - margin.margin
    return _rows(head, _chosen(hard, cos, labels), labels)


def one_hot(head: ClassificationHead, x: Tensor, labels: Tensor) -> Tensor:
    """The same without angles, for `CosFace`."""
    assert isinstance(head.margin, CosFace)
    cos = F.linear(F.normalize(x), F.normalize(head.centers))
    return _rows(head, _chosen(cos - head.margin.margin, cos, labels), labels)


def _chosen(target: Tensor, others: Tensor, labels: Tensor) -> Tensor:
    own = torch.zeros_like(others).scatter_(1, labels[:, None], 1.0)
    return own * target + (1 - own) * others


def _rows(head: ClassificationHead, cos: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of margined cosines (B, C)."""
    scale, bias = head.margin.fixed_scale, head.objective.bias
    assert scale is not None
    if bias is None:
        return F.cross_entropy(scale * cos, labels)
    logits = (scale * cos - bias).clamp(-scale, scale)
    own = torch.zeros_like(cos).scatter_(1, labels[:, None], 1.0)
    rows = own * F.softplus(-logits) + (1 - own) * F.softplus(logits)
    return rows.sum(dim=1).mean()


def products(head: ClassificationHead, x: Tensor) -> None:
    """The three matrix products of any head: logits, and the gradients of rows and centers."""
    with torch.no_grad():
        logits = x @ head.centers.T
        logits @ head.centers
        logits.T @ x


def step(form: Callable[..., Tensor], case: Case) -> Callable[[], None]:
    """Forward and backward of a form."""
    head, x, labels = case.inputs()

    def run() -> None:
        x.grad = None
        head.zero_grad()
        form(head, x, labels).backward()  # type: ignore[no-untyped-call]

    return run


def turns(case: Case) -> int:
    """More where a step is short, since memory that is handed back now and then weighs there."""
    return TURNS if case.classes > 10_000 else 5 * TURNS


def times(case: Case) -> dict[str, Any]:
    """Milliseconds of all forms in turns, and the ratios of their medians.

    By the clock and, on a processor, of all threads: these count no waiting for a core that others
    use.
    """
    head, x, _ = case.inputs()
    sides: dict[str, Callable[[], None]] = {
        "products": lambda: products(head, x),
        "ours": step(ours, case),
        "naive": step(naive, case),
    }
    if isinstance(head.margin, CosFace):
        sides["one-hot"] = step(one_hot, case)
    clocks: dict[str, Callable[[], float]] = {"clock": time.perf_counter}
    if case.device == "cpu":
        clocks["processor"] = time.process_time
    taken = {name: {side: [] for side in sides} for name in clocks}  # type: dict[str, Any]
    for turn in range(turns(case) + 1):
        for side, run in sides.items():
            found = _milliseconds(run, case.device, clocks)
            for name, spent in found.items():
                if turn:  # the first one warms up
                    taken[name][side].append(round(spent, 2))
    middle = {
        name: {side: statistics.median(spent) for side, spent in of.items()}
        for name, of in taken.items()
    }
    pairs = [("ours", "products"), *((side, "ours") for side in list(sides)[2:])]
    ratios = {
        f"{one} / {other}": {clock: round(of[one] / of[other], 3) for clock, of in middle.items()}
        for one, other in pairs
    }
    return {**ratios, "milliseconds": taken}


def _milliseconds(
    run: Callable[[], None], device: str, clocks: dict[str, Callable[[], float]]
) -> dict[str, float]:
    """Of one call, or on an accelerator of the mean of ten, which it is given at once."""
    calls = 1 if device == "cpu" else 10
    if device != "cpu":
        torch.cuda.synchronize()
    began = [clock() for clock in clocks.values()]
    for _ in range(calls):
        run()
    if device != "cpu":
        torch.cuda.synchronize()
    ends = [clock() for clock in clocks.values()]
    return {
        name: 1000 * (end - start) / calls
        for name, end, start in zip(clocks, ends, began, strict=True)
    }


def memory(form: Callable[..., Tensor], case: Case) -> float:
    """Megabytes that one step needs at most beside centers and inputs; for a fresh process."""
    step(form, Case(case.loss, 64, case.rows, case.device, case.dtype))()  # starts the threads
    run = step(form, case)
    if case.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return round((torch.cuda.max_memory_allocated() - held) / 1e6, 1)
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would not count
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the highest so far
    before = _status("VmRSS")
    run()
    return round(_status("VmHWM") - before, 1)


def _status(name: str) -> float:
    """Megabytes of this process (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(name)


def errors(case: Case) -> dict[str, float]:
    """Largest difference of loss and gradients from the naive form, over the largest entry."""
    exact = Case(case.loss, case.classes, case.rows, case.device, torch.float64)
    found: list[dict[str, Tensor]] = []
    for form in (ours, naive):
        head, x, labels = exact.inputs()
        head.eval()  # what a batch teaches the margin is the same for both
        loss = form(head, x, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        parts = head.named_parameters()
        gradients = {name: part.grad for name, part in parts if part.grad is not None}
        found.append({"loss": loss.detach(), "embeddings": x.grad, **gradients})
    return {
        name: float((found[0][name] - plain).abs().max() / plain.abs().max())
        for name, plain in found[1].items()
    }
