"""What the papers claim, tried small: one part per claim, on prepared shards.

python benchmarks/reproductions.py SHARDS EVAL_SET [part ...]

Parts: unified_threshold, bias_start, uniform_centers, norm_and_quality, view_contrast. Without a
name, those that are not yet in docs/benchmarks/reproductions.json. Each part trains in this process
(the `laptop` preset, 8 epochs, seeds 1 to 3), then writes every run, and the mean and deviation of
each setting, into that file, with hardware and commit, beside the other parts.

More than 300 lines, so that each claim, its settings and its measure stand in one place.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from hardware import ROOT, surroundings
from scipy.stats import spearmanr
from torch import Tensor

from facerec import checkpoint
from facerec.backbones.base import Backbone
from facerec.config import TrainConfig, flatten, override
from facerec.data.augment import normalise
from facerec.data.images import decode
from facerec.data.shards import Shards
from facerec.data.writer import write_json
from facerec.domains import Scalar
from facerec.losses.uniface import BiasInit
from facerec.presets import laptop
from facerec.train import Diverged, train

OUT = ROOT / "docs" / "benchmarks" / "reproductions.json"

SMALL = {"loss.margin": 0.2, "loss.scale": 24.0}  # a good start for few identities
# The authors' advice for models of short embeddings, with margins as small as those of SMALL.
SHORT = {
    "loss.norm_low": 1.0,
    "loss.norm_high": 51.0,
    "loss.margin_low": 0.1,
    "loss.margin_high": 0.4,
    "loss.scale": 24.0,
}
PUBLISHED_ROWS = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.001), (1.0, 0.01), (1.0, 0.1))  # alpha, beta
SIGMAS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)  # of the blur, in pixels of the 112
BLURRED = 600  # images of the evaluation set

Setting = Mapping[str, Scalar]
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What every part needs: where the images are and how long to train."""

    shards: Path
    eval_set: Path
    epochs: float
    seeds: tuple[int, ...]

    def config(self, loss: str, changes: Setting, seed: int = 1) -> TrainConfig:
        base: Setting = {
            "data.train": str(self.shards),
            "data.eval": str(self.eval_set),
            "eval.every": 1000,  # at the end only
            "epochs": self.epochs,
            "seed": seed,
        }
        return override(laptop(), {**base, "loss.name": loss, **changes})

    def run(
        self, loss: str, changes: Setting, seed: int = 1, folder: Path | None = None
    ) -> tuple[Row, list[Row]]:
        """One training: its description and last row, and the rows that it reported.

        A training that breaks down is a row too: `diverged` holds the step.
        """
        reported: list[Row] = []
        began = time.process_time()
        row: Row = {"loss.name": loss, **changes, "seed": seed, "diverged": None}
        try:
            row |= train(
                self.config(loss, changes, seed),
                run=folder,
                report=lambda metrics, _: reported.append(dict(metrics)),
            )
        except Diverged as error:
            row["diverged"] = error.step
        row["cpu_seconds"] = time.process_time() - began
        print(json.dumps(_rounded(row)), flush=True)
        return row, reported


def unified_threshold(bench: Bench) -> Row:
    """Does UniFace's loss let one threshold part own from other classes, where a softmax does not?

    Source: UniFace, ICCV 2023: same margin and scale, the objective alone differs.
    """
    runs = [
        bench.run(loss, SMALL, seed)[0]
        for loss in ("uniface", "uniface_softmax")
        for seed in bench.seeds
    ]
    return _part(runs, ("loss.name",))


def bias_start(bench: Bench) -> Row:
    """Where does the bias start best?

    One seed: the arms differ by their start alone, and all see the same batches. `first.loss` is
    that of the first batch, `second_epoch.loss` of the first batch after one epoch; `epoch.loss` is
    the mean of the epoch between, over which the rate rises and falls. At the paper's margin and
    scale, and at the small ones.
    """
    config = bench.config("uniface", {})
    steps = max(Shards(bench.shards).split().rows // config.data.batch_size, 1)
    runs = []
    for own in ({"loss.margin": 0.4, "loss.scale": 64.0}, SMALL):
        for arm in get_args(BiasInit):
            changes = {**own, "loss.bias_init": arm, "eval.every": 1, "data.eval": ""}
            first, _ = bench.run("uniface", {**changes, "epochs": 1 / steps})
            run, rows = bench.run("uniface", {**changes, "epochs": 1 + 1 / steps})
            run |= {f"first.{k}": first.get(k, math.nan) for k in ("loss", "train.bias")}
            if len(rows) == 2:
                epoch, after = rows
                run |= {f"epoch.{k}": epoch[k] for k in ("loss", "train.bias", "train.accuracy")}
                run |= {f"second_epoch.{k}": after[k] for k in ("loss", "train.bias")}
            runs.append(run)
    return _part(runs, ("loss.scale", "loss.bias_init"))


def uniform_centers(bench: Bench) -> Row:
    """What do UniformFace's two weights do to accuracy and to the centers?

    Source: the five rows of the public implementation, ka-tsu-mo/pytorch-uniformface, where a beta
    of 0.01 or 0.1 ended in NaN.
    """
    runs = [
        bench.run("uniformface", {"loss.alpha": alpha, "loss.beta": beta}, seed)[0]
        for alpha, beta in PUBLISHED_ROWS
        for seed in bench.seeds
    ]
    return _part(runs, ("loss.alpha", "loss.beta"))


def norm_and_quality(bench: Bench) -> Row:
    """Does MagFace's norm tell how sharp an image is, and ArcFace's less so?

    `rank_correlation` is Spearman's, between sharpness (the blur's sigma, negated) and the norm,
    over all copies of all images; `within_image` is the mean over the images of the same among the
    copies of one image. The norm is that of the image alone, without its mirror.

    Source: MagFace, CVPR 2021.
    """
    images = _images(Shards(bench.eval_set), BLURRED)
    runs = []
    for loss, changes in (("magface", SHORT), ("arcface", SMALL)):
        for seed in bench.seeds:
            with tempfile.TemporaryDirectory() as folder:
                run, _ = bench.run(loss, changes, seed, Path(folder))
                if run["diverged"] is None:
                    backbone = checkpoint.load_backbone(Path(folder))[1]
                    run |= _norms(backbone, images)
            runs.append(run)
    return _part(runs, ("loss.name",))


def view_contrast(bench: Bench) -> Row:
    """What does ContraFace's second view gain over the ArcFace it is added to?

    Both nets drop 0.2 of their last features; the contrast lives on what is dropped.

    Source: ContraFace (CoReFace, arXiv 2304.11668): +0.47 points of mean accuracy over ArcFace.
    """
    changes = {**SMALL, "backbone.dropout": 0.2}
    runs = [
        bench.run(loss, changes, seed)[0]
        for loss in ("arcface", "contraface")
        for seed in bench.seeds
    ]
    return _part(runs, ("loss.name",))


PARTS: dict[str, Callable[[Bench], Row]] = {
    part.__name__: part
    for part in (unified_threshold, bias_start, uniform_centers, norm_and_quality, view_contrast)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path, help="folder of training shards")
    parser.add_argument("eval_set", type=Path, help="folder of a prepared set of pairs")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]}: no such part; takes {', '.join(PARTS)}")
    torch.set_num_threads(1)
    bench = Bench(given.shards, given.eval_set, given.epochs, tuple(range(1, given.seeds + 1)))
    for name in given.parts or [part for part in PARTS if part not in _read(given.out)]:
        began = time.perf_counter()
        found = PARTS[name](bench)
        stamp = {
            "question": (PARTS[name].__doc__ or "").splitlines()[0],
            "command": f"python benchmarks/reproductions.py SHARDS EVAL_SET {name}"
            f" --epochs {given.epochs:g} --seeds {given.seeds}",
            **surroundings("torch", more=", one thread"),
            "data": [Shards(folder).index["source"] for folder in (bench.shards, bench.eval_set)],
            "config": {
                key: value
                for key, value in flatten(bench.config("uniface", {})).items()
                if not key.startswith("loss.") and key not in ("data.train", "data.eval", "seed")
            },
            "seconds": time.perf_counter() - began,
        }
        parts = {**_read(given.out), name: _rounded(stamp | found)}  # read again: another may run
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.out, parts)
        print(*(json.dumps(row) for row in parts[name]["settings"]), sep="\n")


def _part(runs: list[Row], by: tuple[str, ...]) -> Row:
    """All runs, and for each setting of the keys `by` the mean and deviation over its seeds."""
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for run in runs:
        settings.setdefault(tuple(run[key] for key in by), []).append(run)
    means = []
    for setting, group in settings.items():
        whole = [run for run in group if run["diverged"] is None]
        row: Row = dict(zip(by, setting, strict=True))
        row |= {"runs": len(group), "diverged": len(group) - len(whole)}
        for name, value in whole[0].items() if whole else ():
            if name not in by and isinstance(value, float):
                values = [float(run[name]) for run in whole]
                row[name] = statistics.mean(values)
                if len(values) > 1:
                    row[f"{name} (deviation)"] = statistics.stdev(values)
        means.append(row)
    return {"by": list(by), "settings": means, "runs": runs}


def _images(shards: Shards, count: int) -> Tensor:
    """The first images of a set, normalised (n, 3, H, W)."""
    split = shards.split()
    pixels: list[np.ndarray] = []
    for group in range(len(split.group_rows)):
        if len(pixels) < count:
            pixels += [decode(image) for image in split.read(group).images]
    return normalise(torch.from_numpy(np.stack(pixels[:count])))


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Images under a Gaussian of `sigma` pixels, the border mirrored."""
    if sigma == 0:
        return images
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    padded = torch.nn.functional.pad(images, (reach,) * 4, mode="reflect")
    rows = torch.nn.functional.conv2d(padded, weights, groups=3)
    return torch.nn.functional.conv2d(rows, weights.transpose(2, 3), groups=3)


@torch.inference_mode()
def _norms(backbone: Backbone, images: Tensor) -> Row:
    """Mean norm at each blur, and how well the norm ranks the blurs."""
    backbone.eval()
    norms = np.stack(
        [
            torch.cat(
                [backbone(_blurred(part, sigma)).norm(dim=1) for part in torch.split(images, 64)]
            )
            for sigma in SIGMAS
        ]
    )
    sharpness = -np.repeat(SIGMAS, norms.shape[1])
    within = [spearmanr([-sigma for sigma in SIGMAS], column).statistic for column in norms.T]
    means = {
        f"norm@sigma={sigma:g}": float(row.mean()) for sigma, row in zip(SIGMAS, norms, strict=True)
    }
    whole = float(spearmanr(sharpness, norms.ravel()).statistic)
    return {**means, "rank_correlation": whole, "within_image": float(np.mean(within))}


def _read(out: Path) -> Row:
    parts: Row = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    return parts


def _rounded(value: Any) -> Any:
    """Six digits; what is not finite becomes null, since JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    main()
