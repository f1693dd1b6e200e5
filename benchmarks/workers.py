"""Two processes on the cores of one machine: images per second, and bytes against the formula.

python benchmarks/workers.py

`torchrun` starts one worker and two in turns (5 each) on the same drawn faces, one thread each,
`tiny` and CosFace, with all classes and with a quarter of them sampled. Written to
docs/benchmarks/workers.json: the median of images per second over the second epoch and the ratio;
what a step hands to the collectives, counted there, against the formula of docs/architecture.md;
and what a worker's step writes to its sockets (Linux counts a process's bytes), against what a ring
sends: 2 (N - 1) / N of what is summed, (N - 1) / N of what is gathered.

Two processes on two cores say what gloo costs here. They say nothing about accelerators.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hardware import ROOT, surroundings
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from facerec import backbones, launch
from facerec import step as steps
from facerec.config import Component, override
from facerec.data.writer import write_json
from facerec.presets import laptop
from facerec.train import train

OUT = ROOT / "docs" / "benchmarks" / "workers.json"
TURNS = 5
IDENTITIES, IMAGES, BATCH, SIZE = 200, 12, 128, 128
CASES = {"all classes": 1.0, "a quarter sampled": 0.25}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        words = [*("synthetic", str(folder / "set"), "--val-identities", "0")]
        words += ["--confirm-identities", "0", "--identities", str(IDENTITIES)]
        words += ["--images", str(IMAGES)]
        subprocess.run([sys.executable, "-m", "data_prep", *words], cwd=ROOT, check=True)
        results = {name: case(folder, rate) for name, rate in CASES.items()}
    described = {
        "command": "python benchmarks/workers.py",
        **surroundings("torch", more="; a thread for each worker"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "backbone": "tiny",
        "loss": "cosface",
        "classes": IDENTITIES,
        "batch": BATCH,
        "embedding_size": SIZE,
        "turns": TURNS,
        "results": results,
    }
    write_json(OUT, described)
    print(json.dumps(results, indent=2))


def case(folder: Path, rate: float) -> dict[str, Any]:
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(TURNS):
        for workers, measured in found.items():
            measured.append(start(folder, workers, rate))
    speed = {
        workers: statistics.median(one["images_per_second"] for one in measured)
        for workers, measured in found.items()
    }
    summed, gathered = formula(workers=2)
    return {
        "images_per_second_1_worker": round(speed[1], 1),
        "images_per_second_2_workers": round(speed[2], 1),
        "ratio": round(speed[2] / speed[1], 3),
        "bytes_summed": {"counted": found[2][0]["summed"], "formula": summed},
        "bytes_gathered": {"counted": found[2][0]["gathered"], "formula": gathered},
        "bytes_sent_by_a_worker": {
            "counted": round(statistics.median(one["sent"] for one in found[2])),
            "ring": summed + gathered // 2,
        },
    }


def formula(workers: int) -> tuple[int, int]:
    """Bytes of one step that are summed and gathered, of a softmax loss in single precision."""
    net = backbones.build("tiny", {}, embedding_size=SIZE)
    weights = sum(parameter.numel() for parameter in net.parameters())
    rows = 4 * BATCH
    own_cosines, logits_and_ranks, norm_of_centers = rows, 2 * rows, 8
    embeddings = rows * SIZE  # forward gathered, backward summed
    summed = own_cosines + logits_and_ranks + norm_of_centers + embeddings + 4 * weights
    rows_per_worker, labels, sums_of_exponentials = 8 * workers, 2 * rows, workers * rows
    return summed, rows_per_worker + labels + sums_of_exponentials + embeddings


def start(folder: Path, workers: int, rate: float) -> dict[str, float]:
    out = folder / "measured.json"
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program += [f"--nproc-per-node={workers}", str(Path(__file__).resolve())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = ["worker", str(folder / "set"), str(out), str(rate)]
    subprocess.run([*program, *words], check=True, env=environment)
    measured: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    return measured


class Hooked(DistributedDataParallel):
    """Sums gradients by a call from Python, where it can be counted."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.register_comm_hook(None, allreduce_hook)


def worker(folder: Path, out: Path, rate: float) -> tuple[int, str]:
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    numbers: list[Counter[str]] = []
    summing, gathering, stepping = dist.all_reduce, dist.all_gather, steps.TrainingStep.__call__

    def all_reduce(tensor: torch.Tensor, *args: Any, **keywords: Any) -> Any:
        counts["summed"] += tensor.nbytes
        return summing(tensor, *args, **keywords)

    def all_gather(parts: list[torch.Tensor], *args: Any, **keywords: Any) -> Any:
        counts["gathered"] += sum(part.nbytes for part in parts)
        return gathering(parts, *args, **keywords)

    def step(self: Any, *args: Any) -> Any:
        counts.clear()
        before = written()
        measured = stepping(self, *args)
        numbers.append(Counter({**counts, "sent": written() - before}))
        return measured

    replaced: list[tuple[Any, str, Any]] = [
        *((dist, "all_reduce", all_reduce), (dist, "all_gather", all_gather)),
        *((steps.TrainingStep, "__call__", step), (steps, "DistributedDataParallel", Hooked)),
    ]
    for place, name, own in replaced:
        setattr(place, name, own)
    config = override(
        laptop(Component("cosface")),
        {
            **{"data.train": str(folder), "data.batch_size": BATCH, "epochs": 2.0},
            **{"head.embedding_size": SIZE, "head.sample_rate": rate, "eval.geometry": False},
        },
    )
    metrics = train(config, report=lambda row, where: None)
    last = numbers[-1]  # the first steps also build the buckets of gradients
    values: dict[str, float] = {name: last[name] for name in ("summed", "gathered")}
    values |= {"sent": statistics.median(one["sent"] for one in numbers)}
    if launch.is_first():
        values |= {"images_per_second": metrics["images_per_second"]}
        out.write_text(json.dumps(values), encoding="utf-8")
    return 0, ""


def written() -> int:
    """Bytes that this process has written, to files and sockets alike; 0 but on Linux."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        work: Callable[[], tuple[int, str]] = lambda: worker(  # noqa: E731
            Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
        )
        sys.exit(launch.together(work) if launch.started_together() else work()[0])
    main()
