"""How fast the protocols are, as ratios within one run against the procedures of the field.

python benchmarks/evaluation.py [--small]

- `folds`: 10-fold accuracy and VAL of 6,000 pairs, from the same squared distances, against loops
  over folds and thresholds (400 for accuracy, 4,000 for VAL) as insightface has them. VAL's
  interpolation is NumPy's there, SciPy's refusing equal rates today.
- `templates`: 23,124 templates, 15.66 million pairs, 512-d: scores and all TARs, against the scores
  alone from rows gathered and multiplied 100,000 pairs at a time, as insightface does. With pairs
  as IJB-C has them, between 3,531 templates and 19,593 others; then with pairs of any two, and with
  these in single precision on our side.
- `search`: the best 10 of 1,000,000 for each of 3,530, against faiss's `IndexFlatIP` where that is
  installed, and else against a product in blocks of 4,096 with NumPy's partition.

One thread. Both sides run in turns; written are the medians of five turns and their ratio, and the
most memory that arrays held during ours, to docs/benchmarks/evaluation.json with hardware and
commit. `--small` runs at a reduced size and writes nothing; the full one takes over half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and faiss
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from facerec.evaluation.metrics import Verification, verification_from_distances
from facerec.evaluation.roc import PairTars, tar_at_far
from facerec.evaluation.search import search
from facerec.evaluation.templates import pair_scores

try:
    import faiss
except ImportError:
    faiss = None

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "benchmarks" / "evaluation.json"
TURNS = 5
FOLDS = 10
SIZE = 512
GATHERED = 100_000  # pairs
BEST = 10


class Sizes(NamedTuple):
    pairs: int = 6000
    first: int = 3531
    second: int = 19_593
    template_pairs: int = 15_658_489
    probes: int = 3530
    distractors: int = 1_000_000


SMALL = Sizes(1200, 350, 1950, 156_000, 350, 20_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="reduced size; writes nothing")
    small = parser.parse_args().small
    sizes, draws = SMALL if small else Sizes(), np.random.default_rng(1)
    results = {"folds": folds(sizes, draws)}
    results["templates"] = templates(sizes, draws)
    results["templates, any two"] = templates(sizes, draws, between=False)
    results["templates, any two, single"] = templates(sizes, draws, False, np.float32)
    results["search"] = identification(sizes, draws)
    for name, result in results.items():
        print(f"{name}: {json.dumps(result)}")
    if small:
        return
    commit = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    described = {
        "command": "python benchmarks/evaluation.py",
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "hardware": f"{_processor()}, one thread",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "faiss": faiss.__version__ if faiss else "not installed",
        },
        "turns": TURNS,
        "sizes": sizes._asdict(),
        "results": results,
    }
    OUT.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def folds(sizes: Sizes, draws: np.random.Generator) -> dict[str, Any]:
    same = draws.random(sizes.pairs) < 0.5
    noise = 0.25 * draws.standard_normal(sizes.pairs)
    distances = np.clip(np.where(same, 1.0, 1.9) + noise, 0, 4)
    result, ours, reference = _in_turns(
        lambda: verification_from_distances(distances, same),
        lambda: _folds(distances, same),
    )
    return result | {"equal": _equal(ours, reference)}


def _equal(ours: Verification, reference: tuple[Any, ...]) -> bool:
    accuracies, val, far = reference
    return bool(np.array_equal(ours.fold_accuracies, accuracies)) and (
        (ours.accuracy, ours.accuracy_std) == (accuracies.mean(), accuracies.std())
        and (ours.val, ours.far) == (val, far)
    )


def _folds(distances: Any, same: Any) -> tuple[Any, float, float]:
    """Accuracies, VAL and FAR by loops over folds and thresholds."""
    accuracies, vals, fars = np.zeros(FOLDS), np.zeros(FOLDS), np.zeros(FOLDS)
    thresholds = np.arange(0, 4, 0.01)
    for fold, (rest, test) in enumerate(_split(len(same))):
        on_rest = [_rates(t, distances[rest], same[rest])[2] for t in thresholds]
        for threshold in thresholds:  # the curve, which the procedure returns as well
            _rates(threshold, distances[test], same[test])
        best = thresholds[np.argmax(on_rest)]
        accuracies[fold] = _rates(best, distances[test], same[test])[2]
    thresholds = np.arange(0, 4, 0.001)
    for fold, (rest, test) in enumerate(_split(len(same))):
        rates = [_val_and_far(t, distances[rest], same[rest])[1] for t in thresholds]
        threshold = np.interp(1e-3, rates, thresholds) if max(rates) >= 1e-3 else 0.0
        vals[fold], fars[fold] = _val_and_far(threshold, distances[test], same[test])
    return accuracies, vals.mean(), fars.mean()


def _split(count: int) -> Iterator[tuple[Any, Any]]:
    for test in np.array_split(np.arange(count), FOLDS):
        yield np.setdiff1d(np.arange(count), test), test


def _rates(threshold: float, distances: Any, same: Any) -> tuple[float, float, float]:
    """True accept rate, false accept rate and accuracy."""
    accepted = np.less(distances, threshold)
    right = np.sum(np.logical_and(accepted, same))
    wrong = np.sum(np.logical_and(accepted, np.logical_not(same)))
    refused = np.sum(np.logical_and(np.logical_not(accepted), np.logical_not(same)))
    missed = np.sum(np.logical_and(np.logical_not(accepted), same))
    return (
        float(right) / float(right + missed),
        float(wrong) / float(wrong + refused),
        float(right + refused) / distances.size,
    )


def _val_and_far(threshold: float, distances: Any, same: Any) -> tuple[float, float]:
    accepted = np.less(distances, threshold)
    right = np.sum(np.logical_and(accepted, same))
    wrong = np.sum(np.logical_and(accepted, np.logical_not(same)))
    return float(right) / float(np.sum(same)), float(wrong) / float(np.sum(np.logical_not(same)))


def templates(
    sizes: Sizes, draws: np.random.Generator, between: bool = True, kind: type = np.float64
) -> dict[str, Any]:
    count = sizes.first + sizes.second
    people = draws.integers(0, sizes.first, count)
    people[: sizes.first] = np.arange(sizes.first)
    features = 0.5 * draws.standard_normal((sizes.first, SIZE))[people]
    features += draws.standard_normal((count, SIZE))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    ends = (0, sizes.first, sizes.first, count) if between else (0, count, 0, count)
    first = draws.integers(*ends[:2], sizes.template_pairs)
    second = draws.integers(*ends[2:], sizes.template_pairs)
    mated = draws.permutation(sizes.template_pairs)[: sizes.second]  # as many as templates
    second[mated] = np.arange(sizes.first, count)
    first[mated] = people[sizes.first :]
    same, mine = people[first] == people[second], features.astype(kind)

    def ours() -> tuple[Any, PairTars]:
        scores = pair_scores(mine, first, second)
        return scores, tar_at_far(scores, same)

    result, (scores, _), gathered = _in_turns(ours, lambda: _gather(features, first, second))
    tracemalloc.start()
    ours()
    result["gigabytes"] = round(tracemalloc.get_traced_memory()[1] / 1e9, 2)
    tracemalloc.stop()
    return result | {"largest_difference": float(np.abs(scores - gathered).max())}


def _gather(features: Any, first: Any, second: Any) -> Any:
    scores = np.zeros(len(first))
    for start in range(0, len(first), GATHERED):
        part = slice(start, start + GATHERED)
        scores[part] = np.sum(features[first[part]] * features[second[part]], -1)
    return scores


def identification(sizes: Sizes, draws: np.random.Generator) -> dict[str, Any]:
    base = draws.standard_normal((sizes.distractors, SIZE), dtype=np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    queries = draws.standard_normal((sizes.probes, SIZE), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    index = None
    if faiss is not None:
        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatIP(SIZE)
        index.add(base)
    result, ours, theirs = _in_turns(
        lambda: search(queries, base, BEST),
        lambda: index.search(queries, BEST) if index else _partition(queries, base),
    )
    tracemalloc.start()
    search(queries, base, BEST)
    result["gigabytes_beside_the_vectors"] = round(tracemalloc.get_traced_memory()[1] / 1e9, 2)
    tracemalloc.stop()
    return result | {
        "against": "faiss IndexFlatIP" if index else "blocks of 4,096 and partition",
        "same_rows": float(np.mean(np.sort(ours[1], axis=1) == np.sort(theirs[1], axis=1))),
    }


def _partition(queries: Any, base: Any) -> tuple[Any, Any]:
    """The best of each block's best and those so far."""
    scores = np.full((len(queries), 0), 0, np.float32)
    rows = np.full((len(queries), 0), 0)
    for start in range(0, len(base), 4096):
        tile = queries @ base[start : start + 4096].T
        best = np.argpartition(tile, -BEST, axis=1)[:, -BEST:]
        scores = np.hstack([scores, np.take_along_axis(tile, best, axis=1)])
        rows = np.hstack([rows, best + start])
        order = np.argsort(-scores, axis=1)[:, :BEST]
        scores = np.take_along_axis(scores, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
    return scores, rows


def _in_turns(
    ours: Callable[[], Any], reference: Callable[[], Any]
) -> tuple[dict[str, Any], Any, Any]:
    """Medians of both, and what both returned last."""
    seconds: tuple[list[float], list[float]] = ([], [])
    found = [None, None]
    for _ in range(TURNS):
        for which, run in enumerate((ours, reference)):
            began = time.perf_counter()
            found[which] = run()
            seconds[which].append(time.perf_counter() - began)
    mine, other = (statistics.median(times) for times in seconds)
    times = {"seconds": round(mine, 4), "reference_seconds": round(other, 4)}
    return times | {"reference / ours": round(other / mine, 2)}, *found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


if __name__ == "__main__":
    main()
