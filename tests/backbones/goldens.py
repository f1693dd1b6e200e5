"""Golden files of backbones: what the authors' code computes from weights that anyone can make.

A file is mapped by its reference and its tensors, never by its own name.
"""

from __future__ import annotations

import json
import os
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

INSIGHTFACE = "deepinsight/insightface"
NETS = "recognition/arcface_torch/backbones"
UNIFORMFACE = ("ka-tsu-mo/pytorch-uniformface", "code/model.py")
ADAFACE = ("mk-minchul/AdaFace", "net.py")
# By repository and file: the family of public checkpoints, how its backbones' names begin here, and
# what stands before a tensor's name in the authors' own files.
SOURCES = {
    (INSIGHTFACE, f"{NETS}/iresnet.py"): ("arcface_torch", "iresnet", ""),
    (INSIGHTFACE, f"{NETS}/mobilefacenet.py"): ("arcface_torch", "mobilefacenet", ""),
    (INSIGHTFACE, f"{NETS}/vit.py"): ("arcface_torch", "vit", ""),
    ("IrvingMeng/MagFace", "models/iresnet.py"): ("magface", "iresnet", "features.module."),
    ADAFACE: ("adaface", "ir_", "model."),
    ("CVI-SZU/UniFace", "backbone.py"): ("uniface", "lresnet", ""),
    UNIFORMFACE: ("uniformface", "sphereface", ""),
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


def reference(golden: dict[str, Any]) -> tuple[str, str]:
    return golden["reference"]["repository"], golden["reference"]["file"]


def source(golden: dict[str, Any]) -> tuple[str, str, str]:
    return SOURCES[reference(golden)]


def built(path: Path) -> bool:
    """Whether the file's net is of a family built here; which one, its tensors must then tell."""
    golden = read(path)
    if reference(golden) == UNIFORMFACE:  # the file has torchvision's nets, too
        return any(key.startswith("model.layers.") for key in golden["state"])
    if reference(golden) == ADAFACE:  # the file has squeeze and excitation, and bottlenecks, too
        return not any(".res_layer.se_block" in k or ".res_layer.6" in k for k in golden["state"])
    return reference(golden) in SOURCES


def shapes(golden: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes of the net's tensors: one reference keeps its loss among them."""
    return {k: v for k, v in golden["state"].items() if not k.startswith("loss.")}


def parameters(golden: dict[str, Any]) -> int:
    """How many parameters the net has, without those of a loss."""
    state = golden["state"]
    of_loss = sum(prod(state[key]) for key in ("loss.weight", "loss.bias") if key in state)
    return int(golden["parameters"]) - int(of_loss)


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
