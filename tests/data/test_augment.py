from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from facerec.data.augment import DRAWS, Augment, normalise


def images(count: int = 4, side: int = 16) -> torch.Tensor:
    generator = np.random.default_rng(3)
    return torch.from_numpy(generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_normalise_is_the_field_s_formula() -> None:
    x = images()
    expected = (x.numpy().astype(np.float64).transpose(0, 3, 1, 2) - 127.5) / 127.5
    assert np.allclose(normalise(x).numpy(), expected, atol=1e-6)


def test_all_off_is_normalise() -> None:
    x = images()
    assert torch.equal(Augment(flip=0.0)(normalise(x), torch.rand(4, DRAWS)), normalise(x))


def test_flip_mirrors_the_images_that_drew_it() -> None:
    x = images()
    draws = torch.full((4, DRAWS), 0.5)
    draws[:, 0] = torch.tensor([0.1, 0.9, 0.49, 0.5])
    out = Augment(flip=0.5)(normalise(x), draws)
    plain = normalise(x)
    for i, mirrored in enumerate([True, False, True, False]):
        assert torch.equal(out[i], plain[i].flip(2) if mirrored else plain[i])


def test_a_warp_of_nothing_keeps_the_image_and_flips_exactly() -> None:
    x = images()
    middle = torch.full((4, DRAWS), 0.5)
    middle[:2, 0] = 0.0
    out = Augment(flip=0.4, rotate=0.3, scale=0.2, shift=0.1)(normalise(x), middle)
    plain = normalise(x)
    assert torch.allclose(out[2:], plain[2:], atol=1e-5)
    assert torch.allclose(out[:2], plain[:2].flip(3), atol=1e-5)


def test_shift_moves_by_the_fraction_of_the_side() -> None:
    x = images()
    draws = torch.full((4, DRAWS), 0.5)
    draws[:, 3] = 1.0  # the largest shift to one side: 0.25 of 16 pixels
    out = Augment(flip=0.0, shift=0.25)(normalise(x), draws)
    assert torch.allclose(out[:, :, :, :12], normalise(x)[:, :, :, 4:], atol=1e-5)


def test_contrast_keeps_the_mean_and_brightness_moves_it() -> None:
    x = images()
    draws = torch.full((4, DRAWS), 0.5)
    draws[:, 5], draws[:, 6] = 1.0, 0.0
    mean = normalise(x).mean(dim=(1, 2, 3))
    assert torch.allclose(
        Augment(flip=0, contrast=0.4)(normalise(x), draws).mean((1, 2, 3)), mean, atol=1e-5
    )
    brighter = Augment(flip=0, brightness=0.2)(normalise(x), draws).mean((1, 2, 3))
    assert torch.allclose(brighter, mean + 0.2, atol=1e-5)


def test_grey_makes_the_channels_equal() -> None:
    out = Augment(flip=0, grey=1.0)(normalise(images()), torch.rand(4, DRAWS))
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


COLUMNS = (("crop", 8), ("low_res", 13), ("photometric", 16), ("occlusion", 20))


def test_degradations_meet_the_images_that_drew_them_alone() -> None:
    x = normalise(images(4, side=24))
    for key, column in COLUMNS:
        draws = torch.rand(4, DRAWS, generator=torch.Generator().manual_seed(1))
        draws[:, column] = torch.tensor([0.1, 0.9, 0.19, 0.2])
        out = Augment(flip=0.0, **{key: 0.2})(x, draws)
        changed = [not torch.equal(a, b) for a, b in zip(out, x, strict=True)]
        assert changed == [True, False, True, False], key
        assert out.abs().max() <= 1


def test_crop_leaves_a_rectangle_and_blackens_the_rest() -> None:
    x = normalise(images(200, side=20)).clamp(min=-0.99)
    draws = torch.rand(200, DRAWS, generator=torch.Generator().manual_seed(2))
    draws[:, 8] = 0.0
    out = Augment(flip=0.0, crop=1.0)(x, draws)
    shares = []
    for after, before in zip(out, x, strict=True):
        kept = (after != -1).all(dim=0)
        rows, columns = kept.any(dim=1).nonzero(), kept.any(dim=0).nonzero()
        top, bottom = int(rows.min()), int(rows.max()) + 1
        left, right = int(columns.min()), int(columns.max()) + 1
        assert torch.equal(after[:, top:bottom, left:right], before[:, top:bottom, left:right])
        high, wide = bottom - top, right - left
        assert int(kept.sum()) == high * wide
        shares.append(high * wide / 400)
        assert 0.65 < high / wide < 1.55, "3:4 to 4:3, rounded to pixels"
    assert 0.15 < min(shares) < 0.3
    assert max(shares) > 0.9


def test_occlusion_greys_the_rectangle_that_was_drawn() -> None:
    side, count = 20, 300
    x = normalise(images(count, side))  # no pixel is 0 there: 127.5 is no byte
    draws = torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(4)).double()
    out = Augment(flip=0.0, occlusion=0.7)(x.double(), draws)
    shares = []
    for before, after, row in zip(x.double(), out, draws.tolist(), strict=True):
        chance, area, aspect, top, left = row[20:]
        pixels = side * side * (0.02 + 0.38 * area)
        ratio = (10 / 3) ** (2 * aspect - 1)
        high = min(round(math.sqrt(pixels / ratio)), side)
        wide = min(round(math.sqrt(pixels * ratio)), side)
        above, before_it = int(top * (side - high + 1)), int(left * (side - wide + 1))
        expected = before.clone()
        if chance < 0.7:
            expected[:, above : above + high, before_it : before_it + wide] = 0
            shares.append(high * wide / side**2)
        assert torch.equal(after, expected)
    assert 180 < len(shares) < 240
    assert min(shares) < 0.04
    assert 0.35 < max(shares) < 0.45


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_computes_the_same() -> None:
    x = normalise(images(64, side=24))
    draws = torch.rand(64, DRAWS, generator=torch.Generator().manual_seed(5))
    on = {"grey": 0.2, "contrast": 0.2, **{key: 0.5 for key, _ in COLUMNS}}
    augment = Augment(rotate=0.2, scale=0.1, shift=0.1, brightness=0.1, **on)
    there = augment(x.cuda(), draws.cuda()).cpu()
    assert torch.allclose(there, augment(x, draws), atol=1e-3)


def test_low_resolution_is_two_resamplings() -> None:
    torch.manual_seed(3)
    side, x = 20, torch.rand(1, 3, 20, 20, dtype=torch.float64) * 2 - 1
    for shrink, enlarge in product(range(4), range(4)):
        draws = torch.zeros(1, DRAWS, dtype=torch.float64)
        draws[0, 14], draws[0, 15] = 0.4, (4 * shrink + enlarge + 0.5) / 16
        small = int(side * (0.2 + 0.8 * 0.4))
        out = Augment(flip=0.0, low_res=1.0)(x, draws)
        down = np.array([weights(i, side, small, shrink) for i in range(small)])
        up = np.array([weights(i, small, side, enlarge) for i in range(side)])
        matrix = up @ down
        expected = np.clip(matrix @ x[0].numpy() @ matrix.T, -1, 1)
        assert np.allclose(out[0].numpy(), expected, atol=1e-9), (shrink, enlarge)


def weights(row: int, old: int, new: int, kernel: int) -> list[float]:
    """Shares of the `old` pixels in pixel `row` of `new`, one at a time."""
    step = old / new
    found = []
    for pixel in range(old):
        distance = abs(min(max((row + 0.5) * step - 0.5, 0.0), old - 1.0) - pixel)
        if kernel == 0:
            found.append(float(pixel == int(row * step)))
        elif kernel == 1:
            found.append(max(1 - distance, 0.0))
        elif kernel == 2:
            found.append(max(min((row + 1) * step, pixel + 1) - max(row * step, pixel), 0.0))
        elif distance <= 1:
            found.append(1.25 * distance**3 - 2.25 * distance**2 + 1)
        elif distance < 2:
            a = -0.75
            found.append(a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a)
        else:
            found.append(0.0)
    return [share / sum(found) for share in found]


def test_photometric_scales_light_contrast_and_saturation() -> None:
    x = normalise(images())
    draws = torch.zeros(4, DRAWS)
    draws[:, 17:20] = torch.tensor([0.2, 0.9, 0.1])  # factors 0.7, 1.4 and 0.6
    out = Augment(flip=0.0, photometric=1.0)(x, draws)
    for after, before in zip(out.double().numpy(), x.double().numpy(), strict=True):
        y = np.clip((before + 1) / 2 * 0.7, 0, 1)
        mean = np.tensordot([0.299, 0.587, 0.114], y, 1).mean()
        y = np.clip(mean + 1.4 * (y - mean), 0, 1)
        luma = np.tensordot([0.299, 0.587, 0.114], y, 1)
        y = np.clip(luma + 0.6 * (y - luma), 0, 1)
        assert np.allclose(after, 2 * y - 1, atol=1e-5)


@pytest.mark.parametrize(
    "key",
    [
        *("flip", "rotate", "scale", "shift", "brightness", "grey"),
        *("crop", "photometric", "occlusion"),
    ],
)
def test_amounts_out_of_range_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Augment(**{key: -0.1})
    with pytest.raises(ValueError, match=key):
        Augment(**{key: 4.0})
