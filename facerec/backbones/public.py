"""Checkpoints that others have published: read without running their code, and built.

Files are never unpickled: they are read as safetensors, or by torch with `weights_only=True`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from facerec.backbones import build
from facerec.backbones.base import Backbone
from facerec.backbones.families import Family
from facerec.backbones.recognise import Recognised, recognise


class PublicBackbone(Backbone):
    """A net behind the pixels that its authors fed: takes RGB in [-1, 1] as all backbones do.

    Args:
        net: Takes channels in the family's order, normalised as the family's.
        family: Says how.
    """

    def __init__(self, net: Backbone, family: Family) -> None:
        super().__init__(net.input_size, net.embedding_size)
        self.net = net
        self.reverses = family.colours == "BGR"
        self.scale = 127.5 / family.std
        self.shift = (127.5 - family.mean) / family.std

    def feature_map(self, images: Tensor) -> Tensor:
        """(b, 3, H, W) RGB in [-1, 1], H = W = `input_size`, to what `embed` takes."""
        channels = images.flip(1) if self.reverses else images
        return self.net.feature_map(channels * self.scale + self.shift)

    def embed(self, features: Tensor) -> Tensor:
        """Give (b, embedding_size)."""
        return self.net.embed(features)


def load_public(path: str, family: str | None = None) -> tuple[Backbone, Recognised]:
    """Builds the net of a public checkpoint, on the CPU, in evaluation mode.

    It takes RGB images in [-1, 1], whatever its authors fed (`PublicBackbone` where that differs),
    and embeds one image: where authors add the mirror image's embedding, as UniFace's net does,
    that is left to the evaluation.

    Args:
        path: A `.pth`, `.pt`, `.ckpt`, `.tar` or `.safetensors` file.
        family: Key of `FAMILIES`, where the file's own tensors do not tell: MagFace's nets cut out
            of its checkpoints look like arcface_torch's.

    Raises:
        ValueError: A file that cannot be read, or that no net here fits.
    """
    tensors = read(path)
    try:
        found = recognise(tensors, family)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    with torch.device("meta"):
        net = build(found.backbone, found.args, embedding_size=found.embedding_size)
    net.load_state_dict(found.state, assign=True)
    net = net.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    facts = found.facts
    if (facts.colours, facts.mean, facts.std) == ("RGB", 127.5, 127.5):
        return net, found
    return PublicBackbone(net, facts).eval(), found


def read(path: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    Of a checkpoint that holds several dictionaries of tensors, the one that has most.

    Raises:
        ValueError: A file that is missing, damaged, or that holds more than tensors and numbers.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        # A safetensors file begins with the length of its header in 8 bytes, and a brace.
        if start[8:] == b"{":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except SafetensorError as error:
        raise ValueError(f"{path}: a damaged safetensors file ({error})") from None
    except Exception as error:  # bytes that are no pickle may stop its reader anywhere
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, UnpicklingError) and wanted:
            raise ValueError(
                f"{path}: holds a {wanted[1]}, which only running the file's own code could read; "
                "save the net's state_dict() alone where the file was made"
            ) from None
        # torch's own words advise to run the file's code.
        raise ValueError(
            f"{path}: no file of tensors: damaged, a program (TorchScript), or written by neither "
            "torch nor safetensors"
        ) from None
    inner = content.values() if isinstance(content, Mapping) else ()
    found = max(map(_tensors_of, (content, *inner)), key=len)
    if not found:
        raise ValueError(f"{path}: holds no tensors by name")
    return found


def _tensors_of(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
