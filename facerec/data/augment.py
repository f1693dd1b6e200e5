"""From uint8 images to the network's input: normalisation, and mild augmentation on the device.

What is drawn for an image is a function of (seed, epoch, position) alone: `facerec.data.stream`
hands over `DRAWS` uniform numbers per image, and `Augment` turns them into a flip, a similarity
transform, a change of light, AdaFace's three degradations and an occlusion. So the pixels that a
step sees depend neither on the number of workers nor on where a run was interrupted. It works at
the resolution at which the network runs: images are shrunk first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

# Uniform numbers per image: flip, angle, scale, shift x, shift y, light, contrast, grey; crop, its
# area, aspect, top and left; low_res, its size and kernels; photometric, its three factors;
# occlusion, its area, aspect, top and left.
DRAWS = 25

_LIMITS = {
    "flip": 1.0,
    "rotate": math.pi,
    "scale": 0.5,
    "shift": 0.5,
    "brightness": 1.0,
    "contrast": 1.0,
    "grey": 1.0,
    "crop": 1.0,
    "low_res": 1.0,
    "photometric": 1.0,
    "occlusion": 1.0,
}


def normalise(images: Tensor) -> Tensor:
    """Map uint8 RGB (b, H, W, 3) to float32 (b, 3, H, W) in [-1, 1]: (x - 127.5) / 127.5.

    The pixels stay where they are, which is the channels-last layout that backbones run in.
    """
    return images.permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)


@dataclass(frozen=True)
class Augment:
    """Mild augmentation; every amount is a maximum, 0 turns it off.

    `crop`, `low_res` and `photometric` are probabilities of the degradations with which AdaFace
    trains (CVPR 2022, section 4.1: 0.2 each), in this order after those above them; `occlusion`,
    the probability of random erasing (Zhong et al., AAAI 2020), comes last.

    Attributes:
        flip: Probability of the mirror image.
        rotate: Largest rotation to either side, in radians.
        scale: Largest relative change of size, either way.
        shift: Largest shift along each axis, as a fraction of the image's side.
        brightness: Largest addition to the pixels, where black is -1 and white is 1.
        contrast: Largest relative change of the distance from the image's mean.
        grey: Probability of a grey image.
        crop: Probability that all but a random rectangle turns black: 0.2 to 1 of the area, sides
            3:4 to 4:3 (cut to the image where longer; torchvision draws again).
        low_res: Probability that the image is shrunk to 0.2 to 1 of its side and enlarged again,
            each way by one kernel of four: nearest, linear, area, cubic (the authors' code has
            Lanczos as a fifth).
        photometric: Probability of a change of brightness, contrast and saturation, in this order
            (theirs is random), each by a factor of 0.5 to 1.5.
        occlusion: Probability that a random rectangle turns mid-grey (127.5; theirs is noise): 0.02
            to 0.4 of the area, sides 3:10 to 10:3 with a uniform logarithm (cut to the image where
            longer; theirs draws again).
    """

    flip: float = 0.5
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    grey: float = 0.0
    crop: float = 0.0
    low_res: float = 0.0
    photometric: float = 0.0
    occlusion: float = 0.0

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
        columns = draws.to(x.dtype)[:, :, None, None, None].unbind(1)  # each (b, 1, 1, 1)
        flip, angle, scale, dx, dy, light, contrast, grey = columns[:8]
        mirror = flip < self.flip
        if self.rotate or self.scale or self.shift:
            x = self._warp(x, mirror, angle, scale, dx, dy)
        elif self.flip:
            x = torch.where(mirror, x.flip(3), x)
        if self.grey:
            x = torch.where(grey < self.grey, _luma(x), x)
        if self.brightness or self.contrast:
            gain = 1 + self.contrast * (2 * contrast - 1)
            mean = x.mean(dim=(1, 2, 3), keepdim=True)
            x = torch.addcmul(mean * (1 - gain) + self.brightness * (2 * light - 1), x, gain)
        if self.crop:
            kept = _rectangle(x, *columns[9:13], areas=(0.2, 1.0), longest=4 / 3)
            x = torch.where((columns[8] < self.crop) & ~kept, -1.0, x)
        if self.low_res:
            x = torch.where(columns[13] < self.low_res, _low_resolution(x, *columns[14:16]), x)
        if self.photometric:
            x = torch.where(columns[16] < self.photometric, _photometric(x, *columns[17:20]), x)
        if self.occlusion:
            hidden = _rectangle(x, *columns[21:25], areas=(0.02, 0.4), longest=10 / 3)
            x = torch.where((columns[20] < self.occlusion) & hidden, 0.0, x)
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


def _luma(x: Tensor) -> Tensor:
    """Grey images (b, 1, H, W) by ITU-R BT.601, as JPEG has it."""
    red, green, blue = x.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def _rectangle(
    x: Tensor,
    area: Tensor,
    aspect: Tensor,
    top: Tensor,
    left: Tensor,
    *,
    areas: tuple[float, float],
    longest: float,
) -> Tensor:
    """Where the pixels of a random rectangle are: draws (b, 1, 1, 1) -> bool (b, 1, H, W).

    Its share of the image is uniform in `areas`, and its width over its height uniform by logarithm
    from 1 / `longest` to `longest`.
    """
    height, width = x.shape[2:]
    least, most = areas
    pixels = height * width * (least + (most - least) * area)
    ratio = torch.exp(math.log(longest) * (2 * aspect - 1))
    high = torch.sqrt(pixels / ratio).round().clamp(max=height)
    wide = torch.sqrt(pixels * ratio).round().clamp(max=width)
    above, before = (top * (height - high + 1)).floor(), (left * (width - wide + 1)).floor()
    down = torch.arange(height, device=x.device)[:, None]
    across = torch.arange(width, device=x.device)
    rows = (down >= above) & (down < above + high)
    return rows & (across >= before) & (across < before + wide)


def _low_resolution(x: Tensor, size: Tensor, kernels: Tensor) -> Tensor:
    """Square images shrunk and enlarged again by products with one matrix each."""
    side = x.shape[2]
    small = (side * (0.2 + 0.8 * size[:, 0])).floor()
    whole = torch.full_like(small, side)
    number = (16 * kernels[:, 0]).floor()
    shrunk = _resampling(whole, small, side, number // 4)
    matrix = (_resampling(small, whole, side, number % 4) @ shrunk)[:, None]
    return (matrix @ x @ matrix.transpose(2, 3)).clamp(-1, 1)


def _resampling(old: Tensor, new: Tensor, side: int, kernel: Tensor) -> Tensor:
    """Matrices (b, side, side) that resample `old` pixels to `new` ones: (b, 1, 1) each.

    As OpenCV does without smoothing. Rows from `new` and columns from `old` on are zero.

    Args:
        old: Pixels that there are, up to `side`.
        new: Pixels that there shall be, up to `side`.
        side: Size of the matrices.
        kernel: 0 nearest, 1 linear, 2 area, 3 cubic.
    """
    to = torch.arange(side, device=old.device, dtype=old.dtype)[:, None]
    at = torch.arange(side, device=old.device, dtype=old.dtype)
    step = old / new
    there = (to < new) & (at < old)
    nearest = (at == (to * step).floor()).to(old.dtype)
    centre = torch.minimum(((to + 0.5) * step - 0.5).clamp(min=0), old - 1)
    distance = (centre - at).abs()
    linear = (1 - distance).clamp(min=0)
    first = to * step
    area = (torch.minimum(first + step, at + 1) - torch.maximum(first, at)).clamp(min=0)
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
    cubic = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    chosen = torch.where(kernel == 0, nearest, torch.where(kernel == 1, linear, area))
    chosen = torch.where(kernel == 3, cubic, chosen) * there
    # Weights that fall outside the image go to those inside.
    total = chosen.sum(dim=2, keepdim=True)
    return chosen / torch.where(total > 0, total, 1.0)


def _photometric(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Three changes by factors of 0.5 to 1.5, on a scale where black is 0: draws (b, 1, 1, 1)."""
    y = ((x + 1) / 2 * (0.5 + brightness)).clamp(0, 1)
    y = torch.lerp(_luma(y).mean(dim=(2, 3), keepdim=True), y, 0.5 + contrast).clamp(0, 1)
    y = torch.lerp(_luma(y).expand_as(y), y, (0.5 + saturation).expand_as(y)).clamp(0, 1)
    return 2 * y - 1
