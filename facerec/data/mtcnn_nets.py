"""The three networks of MTCNN, and where their weights come from.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks",
2016. The weights are those of facenet-pytorch 2.6.0 (MIT licence): three state dicts in its wheel,
which are read without importing the package.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from facerec.data.errors import DataError, first_line

WEIGHTS = "FACEREC_DETECTOR"  # names a folder of pnet.pt, rnet.pt and onet.pt
_PACKAGE = "facenet_pytorch"
_HOW = f"run `make detect`, or let {WEIGHTS} name a folder of pnet.pt, rnet.pt and onet.pt"


class Plan(NamedTuple):
    """What one network is made of.

    Attributes:
        side: of the square that it judges, in pixels.
        convolutions: output channels, kernel, and kernel and stride of the pooling after it or
            None; each convolution has a PReLU.
        dense: units of the layer between convolutions and outputs, or None: the network is
            convolutions throughout and takes images of any size from `side` up.
        outputs: face or not (2), corners of the box (4), places of the five points (10).
    """

    side: int
    convolutions: tuple[tuple[int, int, tuple[int, int] | None], ...]
    dense: int | None
    outputs: tuple[int, ...]


PLANS = {
    "pnet": Plan(12, ((10, 3, (2, 2)), (16, 3, None), (32, 3, None)), None, (2, 4)),
    "rnet": Plan(24, ((28, 3, (3, 2)), (48, 3, (3, 2)), (64, 2, None)), 128, (2, 4)),
    "onet": Plan(
        48, ((32, 3, (3, 2)), (64, 3, (3, 2)), (64, 3, (2, 2)), (128, 2, None)), 256, (2, 4, 10)
    ),
}


class CascadeNet(nn.Module):
    """One of the three networks. The layers have the names that the weight files give them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        trunk: list[nn.Module] = []
        channels, side = 3, plan.side
        for number, (width, kernel, pool) in enumerate(plan.convolutions, 1):
            trunk += [self._named(f"conv{number}", nn.Conv2d(channels, width, kernel))]
            trunk += [self._named(f"prelu{number}", nn.PReLU(width))]
            channels, side = width, side - kernel + 1
            if pool is not None:
                trunk.append(nn.MaxPool2d(*pool, ceil_mode=True))
                side = -((pool[0] - side) // pool[1]) + 1
        number = len(plan.convolutions) + 1
        if plan.dense is not None:
            trunk.append(_ByColumns())
            flat = nn.Linear(channels * side * side, plan.dense)
            trunk += [self._named(f"dense{number}", flat)]
            trunk += [self._named(f"prelu{number}", nn.PReLU(plan.dense))]
            number += 1
        self._trunk, self._outputs = trunk, list[nn.Module]()
        for which, width in enumerate(plan.outputs, 1):
            name = f"{'conv' if plan.dense is None else 'dense'}{number}_{which}"
            last = nn.Conv2d(channels, width, 1) if plan.dense is None else None
            self._outputs.append(self._named(name, last or nn.Linear(plan.dense or 0, width)))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Judges images, or with P-Net every square of them.

        Args:
            images: (b, 3, H, W), from -1 to 1.

        Returns:
            Probability of a face (b, ...); the corners' offsets (b, 4, ...) in widths of the
            square; with O-Net the points (b, 10), x before y, likewise. With P-Net all of them are
            maps, (..., rows, columns), of squares 2 pixels apart.
        """
        for layer in self._trunk:
            images = layer(images)
        score, *rest = (layer(images) for layer in self._outputs)
        return [score.softmax(dim=1)[:, 1], *rest]

    def _named(self, name: str, layer: nn.Module) -> nn.Module:
        self.add_module(name, layer)
        return layer


class _ByColumns(nn.Module):
    """Flattens (b, C, H, W) in the order W, H, C, that of the weights' columns."""

    def forward(self, features: Tensor) -> Tensor:
        return features.transpose(1, 3).flatten(1)


def load_nets(folder: Path | None = None) -> list[CascadeNet]:
    """P-Net, R-Net and O-Net with their weights, in evaluation mode.

    Args:
        folder: holds pnet.pt, rnet.pt and onet.pt; by default what `find_weights` finds.

    Raises:
        DataError: there are none, or a file is damaged or another network's.
    """
    folder = find_weights() if folder is None else folder
    nets = []
    for name, plan in PLANS.items():
        path, net = folder / f"{name}.pt", CascadeNet(plan)
        try:
            net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except OSError as error:
            reason = error.strerror or "no such file"
            raise DataError(f"{path}: cannot be read ({reason}): {_HOW}") from None
        except Exception as error:  # a damaged file can raise anything
            raise DataError(f"{path}: no weights of {name} ({first_line(error)}): {_HOW}") from None
        nets.append(net.eval().requires_grad_(False))
    return nets


def find_weights() -> Path:
    """The folder of the weight files: $FACEREC_DETECTOR, or else the package's.

    Raises:
        DataError: neither is there.
    """
    named = os.environ.get(WEIGHTS)
    if named:
        return Path(named)
    spec = importlib.util.find_spec(_PACKAGE)  # of a package's own name: imports nothing
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(place) / "data" / "pnet.pt").is_file():
            return Path(place) / "data"
    raise DataError(f"the face detector's weights are not installed: {_HOW}")
