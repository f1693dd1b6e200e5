"""Golden files of backbones: what the authors' code computes from weights that anyone can make.

A file is mapped by its reference and its tensors, never by its own name.
"""

from __future__ import annotations

import json
import os
import zlib
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facerec import backbones

ARCFACE_TORCH = "recognition/arcface_torch/backbones"
FAMILIES = {
    ("deepinsight/insightface", f"{ARCFACE_TORCH}/iresnet.py"): "iresnet",
    ("deepinsight/insightface", f"{ARCFACE_TORCH}/mobilefacenet.py"): "mobilefacenet",
    ("deepinsight/insightface", f"{ARCFACE_TORCH}/vit.py"): "vit",
    ("CVI-SZU/UniFace", "backbone.py"): "lresnet",
    ("ka-tsu-mo/pytorch-uniformface", "code/model.py"): "sphereface",
}


def folder() -> Path | None:
    named = os.environ.get("FACEREC_GOLDENS")
    return Path(named) / "backbones" if named else None


def files() -> list[Path]:
    place = folder()
    return sorted(place.glob("*.json")) if place else []


def read(path: Path) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return golden


def family(golden: dict[str, Any]) -> str | None:
    """What the names begin with of the backbones built here after the golden's reference."""
    reference = golden["reference"]
    return FAMILIES.get((reference["repository"], reference["file"]))


def built(path: Path) -> bool:
    """Whether the file's net is of a family built here; which one, `name` must then tell."""
    golden = read(path)
    if family(golden) == "sphereface":  # the file has torchvision's nets, too
        return any(key.startswith("model.layers.") for key in golden["state"])
    return family(golden) is not None


def shapes(golden: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes of the net's tensors: one reference keeps its loss among them."""
    return {k: v for k, v in golden["state"].items() if not k.startswith("loss.")}


def parameters(golden: dict[str, Any]) -> int:
    """How many parameters the net has, without those of a loss."""
    state = golden["state"]
    of_loss = sum(prod(state[key]) for key in ("loss.weight", "loss.bias") if key in state)
    return int(golden["parameters"]) - int(of_loss)


def name(golden: dict[str, Any]) -> str:
    """The backbone of the golden's family whose tensors are most like the golden's."""
    wanted = {(k, tuple(v)) for k, v in shapes(golden).items()}
    size = len(golden["output"][0])
    names = [key for key in backbones.BACKBONES if key.startswith(str(family(golden)))]
    return min(names, key=lambda key: len(wanted ^ tensors(key, size)))


@cache
def tensors(key: str, embedding_size: int) -> set[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        state = backbones.build(key, {}, embedding_size=embedding_size).state_dict()
    return {(k, tuple(v.shape)) for k, v in state.items()}


def weight(key: str, shape: list[int], dtype: torch.dtype) -> Tensor:
    """A tensor as a function of its original name."""
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    return torch.from_numpy(np.asarray(scaled(key, n))).to(dtype)


def scaled(key: str, n: NDArray[np.float64]) -> NDArray[np.float64]:
    if key.endswith("running_var"):
        return np.asarray(np.exp(0.2 * n))
    if key.endswith("running_mean"):
        return 0.1 * n
    if n.ndim > 1:
        return np.asarray(n / np.sqrt(np.prod(n.shape[1:])))
    if key.endswith("bias"):
        return 0.1 * n
    return (1 + 0.1 * n) * (0.25 if "prelu" in key else 1.0)


def images(shape: list[int]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).standard_normal(shape))
