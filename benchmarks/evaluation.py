"""How fast the protocols are, as ratios within one run against the procedures of the field.

python benchmarks/evaluation.py [CASE ...] [--small]

- `folds`: 10-fold accuracy and VAL of 6,000 pairs, from the same squared distances, against loops
  over folds and thresholds (400 for accuracy, 4,000 for VAL) as insightface has them. VAL's
  interpolation is NumPy's there, SciPy's refusing equal rates today.
- `templates`: 23,124 templates, 15.66 million pairs, 512-d: scores and all TARs, against the scores
  alone from rows gathered and multiplied 100,000 pairs at a time, as insightface does. With pairs
  as IJB-C has them, between 3,531 templates and 19,593 others; then with pairs of any two; each in
  double and in single precision on both sides. The slow side gathers a fifth of its blocks in each
  turn, others each time, and is counted as five times that.
- `search`: the best 10 of 1,000,000 for each of 3,530, against faiss's `IndexFlatIP`, which
  `pip install facerec[bench]` brings.
- `sets`: five verification sets with 1,000 draws, from decoded images, against the bare forward
  passes of the same batches; and 1,000 draws of 6,000 pairs against the pass of 12,000 images.

Each case is a process of its own, with the threads that the libraries choose by themselves and then
with one. Both sides run in turns; written are the seconds of five turns, by the clock and of the
processor, the ratio of their medians, the memory of the process before ours and at most during it,
and the machine's load before and after, to docs/benchmarks/evaluation.json with hardware and
commit. Cases that are named alone
replace theirs in that file. `--small` runs at a reduced size and writes nothing; the full one takes
the better part of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from evaluation_folds import folds
from evaluation_scores import TemplateSizes, identification, templates
from evaluation_sets import small_sets
from evaluation_turns import TURNS, load
from hardware import ROOT, surroundings

from facerec.data.writer import write_json

OUT = ROOT / "docs" / "benchmarks" / "evaluation.json"
ONE, MANY = "one thread", "default threads"
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _templates(kind: type[np.floating[Any]], between: bool) -> Callable[[bool], dict[str, Any]]:
    small = TemplateSizes(700, 3900, 500_000)
    return lambda reduced: templates(small if reduced else TemplateSizes(), kind, between)


# What runs, given whether at a reduced size, and with which threads.
CASES: dict[str, tuple[Callable[[bool], dict[str, Any]], tuple[str, ...]]] = {
    "folds": (lambda reduced: folds(1200 if reduced else 6000), (ONE,)),
    "templates": (_templates(np.float64, True), (MANY, ONE)),
    "templates_single": (_templates(np.float32, True), (MANY, ONE)),
    "templates_any_two": (_templates(np.float64, False), (MANY, ONE)),
    "templates_any_two_single": (_templates(np.float32, False), (MANY, ONE)),
    "search": (
        lambda reduced: identification(*(350, 20_000) if reduced else (3530, 1_000_000)),
        (MANY, ONE),
    ),
    "sets_iresnet18": (
        lambda reduced: small_sets("iresnet18", 2000 if reduced else 400),
        (MANY, ONE),
    ),
    "sets_tiny": (lambda reduced: small_sets("tiny", 500 if reduced else 25), (MANY, ONE)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; else all")
    parser.add_argument("--small", action="store_true", help="reduced size; writes nothing")
    parser.add_argument("--here", action="store_true", help="one case, in this process")
    asked = parser.parse_args()
    for name in asked.cases:
        if name not in CASES:
            parser.error(f"no case {name!r}: takes {', '.join(CASES)}")
    if asked.here:
        print(json.dumps(CASES[asked.cases[0]][0](asked.small)))
        return
    results = {} if asked.small or not asked.cases else json.loads(OUT.read_text())["results"]
    for name in asked.cases or CASES:
        results[name] = {how: _child(name, how, asked.small) for how in CASES[name][1]}
        if not asked.small:
            _write({name: results[name] for name in CASES if name in results})


def _child(name: str, how: str, small: bool) -> dict[str, Any]:
    """One case in a process of its own: libraries read their number of threads when they load."""
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    if how == ONE:
        environment |= dict.fromkeys(VARIABLES, "1")
    command = [sys.executable, __file__, name, "--here", *(["--small"] if small else [])]
    before = load()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout) | {"load": [before, load()]}
    print(f"{name}, {how}: {json.dumps(result)}", flush=True)
    return result


def _write(results: dict[str, Any]) -> None:
    described = {
        "command": "python benchmarks/evaluation.py",
        **surroundings("numpy", "torch", "faiss-cpu"),
        "turns": TURNS,
        "results": results,
    }
    write_json(OUT, described)


if __name__ == "__main__":
    main()
