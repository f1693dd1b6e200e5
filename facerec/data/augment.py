"""From uint8 images to the network's input: normalisation, and mild augmentation on the device.

What is drawn for an image is a function of (seed, epoch, position) alone: `facerec.data.stream`
hands over `DRAWS` uniform numbers per image, and `Augment` turns them into a flip, a similarity
transform and a change of light. So the pixels that a step sees depend neither on the number of
workers nor on where a run was interrupted. It works at the resolution at which the network runs:
images are shrunk first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 8  # uniform numbers per image: flip, angle, scale, shift x, shift y, light, contrast, grey

_LIMITS = {
    "flip": 1.0,
    "rotate": math.pi,
    "scale": 0.5,
    "shift": 0.5,
    "brightness": 1.0,
    "contrast": 1.0,
    "grey": 1.0,
}


def normalise(images: Tensor) -> Tensor:
    """Map uint8 RGB (b, H, W, 3) to float32 (b, 3, H, W) in [-1, 1]: (x - 127.5) / 127.5."""
    return images.permute(0, 3, 1, 2).contiguous().float().sub_(127.5).div_(127.5)


@dataclass(frozen=True)
class Augment:
    """Mild augmentation; every amount is a maximum, 0 turns it off.

    Attributes:
        flip: Probability of the mirror image.
        rotate: Largest rotation to either side, in radians.
        scale: Largest relative change of size, either way.
        shift: Largest shift along each axis, as a fraction of the image's side.
        brightness: Largest addition to the pixels, where black is -1 and white is 1.
        contrast: Largest relative change of the distance from the image's mean.
        grey: Probability of a grey image.
    """

    flip: float = 0.5
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    grey: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= _LIMITS[field.name]:
                raise ValueError(
                    f"{field.name} = {value}: takes 0 (off) to {_LIMITS[field.name]:.4g}"
                )

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Change a batch, at the resolution at which it is given.

        Args:
            x: Normalised images, float (b, 3, H, W).
            draws: Uniform numbers in [0, 1), (b, DRAWS), on the same device.

        Returns:
            The changed images, (b, 3, H, W); `x` is left as it was.
        """
        flip, angle, scale, dx, dy, light, contrast, grey = draws.to(x.dtype)[
            :, :, None, None, None
        ].unbind(1)  # each (b, 1, 1, 1)
        mirror = flip < self.flip
        if self.rotate or self.scale or self.shift:
            x = self._warp(x, mirror, angle, scale, dx, dy)
        elif self.flip:
            x = torch.where(mirror, x.flip(3), x)
        if self.grey:
            red, green, blue = x.unbind(1)
            luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601, as JPEG has it
            x = torch.where(grey < self.grey, luma[:, None], x)
        if self.brightness or self.contrast:
            gain = 1 + self.contrast * (2 * contrast - 1)
            mean = x.mean(dim=(1, 2, 3), keepdim=True)
            x = torch.addcmul(mean * (1 - gain) + self.brightness * (2 * light - 1), x, gain)
        return x

    def _warp(
        self, x: Tensor, mirror: Tensor, angle: Tensor, scale: Tensor, dx: Tensor, dy: Tensor
    ) -> Tensor:
        """Flip, rotate, scale and shift in one bilinear sampling; edges are repeated."""
        turn = self.rotate * (2 * angle - 1)
        zoom = 1 / (1 + self.scale * (2 * scale - 1))
        cos, sin = torch.cos(turn) * zoom, torch.sin(turn) * zoom
        # Centres of the pixels, -1 to 1 from edge to edge. Broadcast by hand: `affine_grid` is a
        # batched product with inner size 3, slow on a CPU.
        height, width = x.shape[2:]
        across = torch.linspace(1 / width - 1, 1 - 1 / width, width, device=x.device)
        down = torch.linspace(1 / height - 1, 1 - 1 / height, height, device=x.device)
        across, down = across.to(x.dtype)[None, :], down.to(x.dtype)[:, None]
        across = torch.where(mirror, -across, across)
        grid = torch.stack(
            [
                cos * across - sin * down + 2 * self.shift * (2 * dx - 1),
                sin * across + cos * down + 2 * self.shift * (2 * dy - 1),
            ],
            dim=-1,
        )[:, 0]
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
