"""Golden files of backbones: what the authors' code computes from weights that anyone can make.

A file is mapped by its reference and its tensors, never by its own name.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facerec import backbones


def folder() -> Path | None:
    named = os.environ.get("FACEREC_GOLDENS")
    return Path(named) / "backbones" if named else None


def files() -> list[Path]:
    place = folder()
    return sorted(place.glob("*.json")) if place else []


def read(path: Path) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return golden


def built(path: Path) -> bool:
    """Whether the file's net is one that is built here; which one, `name` must then tell."""
    reference = read(path)["reference"]
    return bool(
        reference["repository"] == "deepinsight/insightface"
        and reference["file"].endswith("arcface_torch/backbones/iresnet.py")
    )


def name(golden: dict[str, Any]) -> str:
    """The backbone with as many blocks in each stage as the golden's tensors tell."""
    depths = blocks(golden["state"])
    assert depths in depths_built(), f"no iresnet of {depths} blocks is built here"
    return depths_built()[depths]


@cache
def depths_built() -> dict[tuple[int, ...], str]:
    found = {}
    with torch.device("meta"):
        for key in backbones.BACKBONES:
            if key.startswith("iresnet"):
                found[blocks(backbones.build(key, {}, embedding_size=2).state_dict())] = key
    return found


def blocks(names: dict[str, Any]) -> tuple[int, ...]:
    """How many blocks each stage has."""
    found = {m.groups() for key in names if (m := re.match(r"layer(\d)\.(\d+)\.", key))}
    return tuple(sum(stage == str(number) for stage, _ in found) for number in range(1, 5))


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
