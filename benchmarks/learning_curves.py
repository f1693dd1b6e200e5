"""Records learning curves of real trainings, to replay searches on without training again.

python benchmarks/learning_curves.py SHARDS [--processes N] [--work DIR]

UniFace on a grid of 8 margins x 4 scales x 4 learning rates: 128 trainings of 8 epochs, measured on
`val` and `confirm` after each epoch, one process and one thread each. A training that is already in
the work folder is not run again; what ends in NaN is kept as diverged. The table goes to
docs/benchmarks/learning_curves.parquet; benchmarks/replay.py searches it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "benchmarks" / "learning_curves.parquet"
EPOCHS = 8
GRID: Mapping[str, tuple[float, ...]] = {
    "loss.margin": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "loss.scale": (12.0, 24.0, 40.0, 64.0),
    "optimizer.lr": (0.0125, 0.025, 0.05, 0.1),
}
SCHEMA = pa.schema(
    [
        ("candidate", pa.int32()),
        *((key, pa.float64()) for key in GRID),
        ("seed", pa.int32()),
        ("epoch", pa.int32()),
        ("val.tar", pa.float64()),  # a fraction; empty where the training diverged
        ("confirm.tar", pa.float64()),
        ("loss", pa.float64()),
        ("seconds", pa.float64()),  # of training since its start
    ]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path, help="with val and confirm cuts")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("learning_curves"))
    parser.add_argument("--one", type=int, help="train one candidate, in this process")
    given = parser.parse_args()
    candidates = [
        dict(zip(GRID, point, strict=True)) for point in itertools.product(*GRID.values())
    ]
    given.work.mkdir(parents=True, exist_ok=True)
    if given.one is not None:
        _train(given.shards, candidates[given.one], given.work / f"{given.one}.json")
        return
    with ThreadPoolExecutor(given.processes) as pool:
        missing = [n for n in range(len(candidates)) if not (given.work / f"{n}.json").exists()]
        for number, status in zip(missing, pool.map(_start, missing), strict=True):
            print(f"{number}: {candidates[number]} {status}", flush=True)
    rows = [
        {"candidate": number, **point, "seed": 1, **row}
        for number, point in enumerate(candidates)
        for row in json.loads((given.work / f"{number}.json").read_text(encoding="utf-8"))
    ]
    from facerec.data.writer import write_table

    write_table(OUT, SCHEMA, [pa.Table.from_pylist(rows, schema=SCHEMA)])
    print(f"{OUT}: {len(rows)} rows")


def _start(number: int) -> str:
    command = [sys.executable, *sys.argv, "--one", str(number)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    return "done" if done.returncode == 0 else f"ended with {done.returncode}"


def _train(shards: Path, point: Mapping[str, float], out: Path) -> None:
    import torch

    from facerec.config import override
    from facerec.data.shards import Shards
    from facerec.evaluation.protocols import EvaluationSet
    from facerec.presets import laptop
    from facerec.train import Diverged, train

    torch.set_num_threads(1)
    config = override(
        laptop(),
        {
            **point,
            "epochs": EPOCHS,
            "eval.every": 1,
            "eval.geometry": False,
            "data.train": str(shards),
        },
    )
    # The training measures `val` itself; `confirm` is measured on the weights that it hands out.
    unseen = EvaluationSet("confirm", Shards(shards), "confirm")
    rows: list[dict[str, Any]] = []
    run = out.with_suffix(".run")
    began = time.perf_counter()

    def report(metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        from facerec.checkpoint import load_backbone

        assert checkpoint is not None
        _, backbone = load_backbone(checkpoint)
        rows.append(
            {
                "epoch": round(metrics["epoch"]),
                "val.tar": metrics["val.tar"],
                "confirm.tar": unseen.measure(backbone.eval()).metrics["confirm.tar"],
                "loss": metrics["loss"],
                "seconds": metrics["seconds"],
            }
        )

    try:
        train(config, run=run, report=report)
    except Diverged as error:
        print(f"{point}: {error}", flush=True)
    for epoch in range(len(rows) + 1, EPOCHS + 1):
        nothing = {"val.tar": None, "confirm.tar": None, "loss": None}
        rows.append({"epoch": epoch, **nothing, "seconds": time.perf_counter() - began})
    aside = out.with_suffix(".part")
    aside.write_text(json.dumps(rows), encoding="utf-8")
    aside.replace(out)


if __name__ == "__main__":
    main()
