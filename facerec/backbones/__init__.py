"""The table of backbones, and how a name with keywords becomes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

import torch

from facerec.backbones.base import Backbone, check_size
from facerec.backbones.ir import ir_18, ir_34, ir_50, ir_101
from facerec.backbones.iresnet import iresnet18, iresnet34, iresnet50, iresnet100, iresnet200
from facerec.backbones.lresnet import lresnet50e_ir, lresnet100e_ir
from facerec.backbones.mobilefacenet import MobileFaceNet
from facerec.backbones.sphereface import sphereface20, sphereface64
from facerec.backbones.tiny import Tiny
from facerec.backbones.vit import vit_b, vit_s, vit_t
from facerec.domains import Scalar

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "tiny": Tiny,
    "iresnet18": iresnet18,
    "iresnet34": iresnet34,
    "iresnet50": iresnet50,
    "iresnet100": iresnet100,
    "iresnet200": iresnet200,
    "ir_18": ir_18,
    "ir_34": ir_34,
    "ir_50": ir_50,
    "ir_101": ir_101,
    "lresnet50e_ir": lresnet50e_ir,
    "lresnet100e_ir": lresnet100e_ir,
    "sphereface20": sphereface20,
    "sphereface64": sphereface64,
    "mobilefacenet": MobileFaceNet,
    "vit_t": vit_t,
    "vit_s": vit_s,
    "vit_b": vit_b,
}

# Keywords that the builder or the name fixes.
_BUILDERS = {"embedding_size", "depths", "width", "depth"}


def keywords(name: str) -> Mapping[str, Scalar]:
    """The keywords that backbone `name` takes, with their defaults.

    Raises:
        ValueError: No backbone has that name; the nearest is named.
    """
    if name not in BACKBONES:
        near = get_close_matches(str(name), BACKBONES, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"no backbone is called {name!r}; there are {', '.join(BACKBONES)}. "
            f"Did you mean {near}?"
        )
    parameters = inspect.signature(BACKBONES[name]).parameters.values()
    return MappingProxyType({p.name: p.default for p in parameters if p.name not in _BUILDERS})


def check(name: str, args: Mapping[str, Scalar]) -> None:
    """Checks a backbone's name and keywords without building it.

    Raises:
        ValueError: An unknown name or keyword, a wrong type, a value out of its range.
    """
    known = keywords(name)
    for key, value in args.items():
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"{key}: {name} has no such keyword; it has {', '.join(known)}. "
                f"Did you mean {near}?"
            )
        if value is None and known[key] is None:
            continue
        if isinstance(known[key], bool):
            if not isinstance(value, bool):
                raise ValueError(f"{key} = {value!r}: {name} takes true or false")
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            or_none = " or none" if known[key] is None else ""
            raise ValueError(f"{key} = {value!r}: {name} takes a number, 0 to below 1{or_none}")
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{key} = {value}: {name} takes 0 to below 1")


def build(name: str, args: Mapping[str, Scalar], *, embedding_size: int) -> Backbone:
    """Makes a backbone with fresh weights, drawn from torch's global generator.

    Args:
        name: A key of `BACKBONES`.
        args: Its keywords; those left out keep their defaults.
        embedding_size: Length of an embedding, at least 1.

    Raises:
        ValueError: As `check`; and an `embedding_size` below 1.
    """
    check(name, args)
    if embedding_size < 1:
        raise ValueError(f"embedding_size = {embedding_size}: must be at least 1")
    backbone = BACKBONES[name](embedding_size, **args)
    # Convolutions run faster in this layout (docs/architecture.md has the measure).
    return backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def check_image_size(backbone: Backbone, width: int, height: int) -> None:
    """Refuses images that `backbone` does not take.

    Raises:
        ValueError: Images that are not square, or smaller than the size at which it runs.
    """
    check_size(backbone.input_size, width, height)
