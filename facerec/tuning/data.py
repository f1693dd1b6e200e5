"""What a sweep is run on: the user's shards, or synthetic ones drawn once into the cache."""

from __future__ import annotations

import difflib
import fcntl
import math
import os
import subprocess
import sys
from pathlib import Path

import torch

from facerec import backbones
from facerec.config import ConfigError, TrainConfig, override
from facerec.data.place import absolute
from facerec.data.shards import DataError, Shards
from facerec.evaluation import protocols
from facerec.evaluation.metrics import FARS, PAIRS_PER_ERROR

# What `data_prep synthetic` draws by default, and a small set for a try-out.
DEMO = {"identities": 400, "images": 10, "size": 112, "seed": 1}
SMOKE = {
    **{"identities": 80, "images": 8, "size": 112, "seed": 1},
    **{"val-identities": 20, "confirm-identities": 20},
}


def with_data(config: TrainConfig, *, smoke: bool = False) -> TrainConfig:
    """Give the config with its folders as absolute paths, and synthetic shards where it names none.

    Raises:
        DataError: Where they could not be drawn.
    """
    train = config.data.train or synthetic(SMOKE if smoke else DEMO)
    sets = ",".join(absolute(place) for place in config.data.eval_sets)
    cache = config.data.cache_dir and absolute(config.data.cache_dir)
    # Ray's processes run elsewhere.
    places = {"data.train": absolute(train), "data.eval": sets, "data.cache_dir": cache}
    return override(config, places)


def synthetic(options: dict[str, int]) -> Path:
    """Draw synthetic shards into the cache, or find them there.

    Sweeps that start at once wait for one another.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "facerec"
    named = "-".join(f"{key.split('-')[0]}{value}" for key, value in options.items())
    folder = cache / f"synthetic-{named}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"{cache}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder of "
            "yours, or give data.train=FOLDER"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "index.json").exists():
            print(f"drawing synthetic faces into {folder}, once", flush=True)
            words = [f"--{key}={value}" for key, value in options.items()]
            command = [sys.executable, "-m", "data_prep", "synthetic", str(folder), *words]
            if code := subprocess.run(command, check=False).returncode:
                raise DataError(
                    f"{' '.join(command[1:])} ended with status {code}; give data.train=FOLDER "
                    "of shards of your own, or mend what it says above"
                )
    return folder


def check(config: TrainConfig, metric: str) -> str:
    """Look at a sweep's data before anything is started.

    Args:
        config: Names the data.
        metric: What is maximised; the data has to give it.

    Returns:
        A line that describes the data.

    Raises:
        ConfigError: For a metric that these sets cannot give.
        DataError: For missing, half-written or unsuitable sets.
    """
    shards = Shards(config.data.train)
    with torch.device("meta"):
        backbone = backbones.build(
            config.backbone.name, config.backbone.args, embedding_size=config.head.embedding_size
        )
    try:
        backbones.check_image_size(backbone, *shards.image_size)
    except ValueError as error:
        raise DataError(f"{shards.place}: {error}") from None
    if metric.startswith("val."):
        _check_val(shards, metric)
    sets = [item.name for item in protocols.open_sets(shards, config.data.eval_sets, backbone)]
    if not any(metric.startswith(f"{name}.") for name in sets):
        near = difflib.get_close_matches(metric.rpartition(".")[0], sets, n=1) or sets[:1]
        raise ConfigError(
            f"metric = {metric}: is measured on none of the sets, {', '.join(sets) or 'none'}; "
            + (f"did you mean {near[0]}.…?" if near else "give data.eval=FOLDER")
        )
    train = shards.split("train")
    parts = [f"{train.rows:,} images of {train.classes:,} identities"]
    for name in ("val", "confirm"):
        if name in shards.index["splits"]:
            parts.append(f"{name} {shards.split(name).rows:,} images")
    others = [name for name in sets if name != "val"]
    return f"{shards.place} ({'; '.join([*parts, *others])})"


def _check_val(shards: Shards, metric: str) -> None:
    """Refuse a val split too small for the rate that is maximised."""
    far = metric.partition("@far=")[2] or max(FARS, key=float)
    found = protocols.impostor_pairs(shards.split("val"))
    needed = PAIRS_PER_ERROR * FARS.get(far, 0)
    if found < needed:
        raise DataError(
            f"{shards.place}: val has {found:,} impostor pairs, and {metric} needs {needed:,} "
            f"(100 / FAR {far}; {_identities(needed)} identities of 8 images); prepare the set "
            f"again into another folder with a larger --val-identities, or give a metric of a "
            "set in data.eval"
        )


def _identities(pairs: int) -> int:
    """Identities of eight images each that have so many impostor pairs."""
    return math.ceil((1 + math.sqrt(1 + 8 * pairs / protocols.IMAGES_PER_IDENTITY**2)) / 2)
