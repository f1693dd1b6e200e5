"""Forward and backward of the margin heads, against their matrix products and a naive form.

python benchmarks/heads.py [CASE ...] [--device cpu|cuda] [--small]

A case is a loss and a number of classes, as `arcface-10000`: ArcFace, CosFace, AdaFace and UniFace
(unified cross-entropy), of 10,000 and 100,000 classes, embeddings of 512 numbers, 128 rows, single
precision, on all cores. With `--device cuda` also 10,000 to 2,000,000 classes and 1,024 rows; where
there is no such device these cases stay empty.

- `ours / products`: our step over the three matrix products that any head needs: logits, gradient
  of the rows, gradient of the centers.
- `naive / ours`: the formula written with a one-hot matrix and the angles of all classes, as codes
  of the combined margin do, differentiated by autograd; `one-hot / ours` without the angles, for
  CosFace and UniFace, which need none.
- `megabytes`: growth of the process in one step beside centers and inputs, each form in a process
  of its own; the gradient of the centers, which all need, is within.
- `errors`: of loss and gradients in double precision, from those of the naive form.

All run in turns, 25 up to 10,000 classes and five above; written are the times, by the clock and of
the processor, and the ratios of their medians, to docs/benchmarks/heads.json with hardware, load
and commit. Cases that are named alone replace theirs in that file. `--small` runs at a reduced size
and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import torch
from evaluation_turns import load
from hardware import ROOT, surroundings
from heads_cases import LOSSES, SIZE, Case, errors, memory, naive, ours, times

from facerec.data.writer import write_json

OUT = ROOT / "docs" / "benchmarks" / "heads.json"
CPU = {f"{loss}-{classes}": Case(loss, classes) for classes in (10_000, 100_000) for loss in LOSSES}
CUDA = {
    f"cuda-{loss}-{classes}": Case(loss, classes, 1024, "cuda")
    for classes in (10_000, 100_000, 1_000_000, 2_000_000)
    for loss in LOSSES
}
FORMS = {"ours": ours, "naive": naive}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="as arcface-10000; else all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--small", action="store_true", help="reduced size; writes nothing")
    parser.add_argument("--memory", choices=FORMS, help="only the memory of one form, as JSON")
    asked = parser.parse_args()
    known = {**CPU, **CUDA} if asked.device == "cuda" else CPU
    for name in asked.cases:
        if name not in known:
            parser.error(f"no case {name!r}: takes {', '.join(known)}")
    if asked.memory:
        case = _sized(known[asked.cases[0]], asked.small)
        print(json.dumps(memory(FORMS[asked.memory], case)))
        return
    keep = asked.cases and not asked.small and OUT.exists()
    results = json.loads(OUT.read_text(encoding="utf-8"))["results"] if keep else {}
    for name in asked.cases or known:
        case = _sized(known[name], asked.small)
        if case.device == "cuda" and not torch.cuda.is_available():
            results[name] = None
            continue
        results[name] = _measured(name, case, asked.small)
        shown = ("ours / products", "naive / ours", "ours / naive, megabytes")
        print(name, *(f"{key}: {results[name][key]}" for key in shown), sep="  ", flush=True)
        if not asked.small:
            _write({**dict.fromkeys(CUDA), **results})


def _sized(case: Case, small: bool) -> Case:
    return Case(case.loss, case.classes // 50, 16, case.device) if small else case


def _measured(name: str, case: Case, small: bool) -> dict[str, Any]:
    before = load()
    result: dict[str, Any] = {"rows": case.rows, "classes": case.classes, **times(case)}
    result["megabytes"] = {form: _child(name, form, case.device, small) for form in FORMS}
    ours_mb, naive_mb = result["megabytes"].values()
    result["ours / naive, megabytes"] = round(ours_mb / max(naive_mb, 0.1), 3)
    if case.classes <= 10_000:
        result["errors"] = errors(case)
    return {**result, "load": [before, load()]}


def _child(name: str, form: str, device: str, small: bool) -> float:
    """The memory of one form, in a process of its own."""
    command = [sys.executable, __file__, name, f"--device={device}", f"--memory={form}"]
    command += ["--small"] if small else []
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def _write(results: dict[str, Any]) -> None:
    described = {
        "command": "python benchmarks/heads.py",
        **surroundings("torch", more=f", {torch.get_num_threads()} threads"),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "embedding_size": SIZE,
        "results": results,
    }
    write_json(OUT, described)


if __name__ == "__main__":
    main()
