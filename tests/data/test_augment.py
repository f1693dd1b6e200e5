from __future__ import annotations

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


@pytest.mark.parametrize("key", ["flip", "rotate", "scale", "shift", "brightness", "grey"])
def test_amounts_out_of_range_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Augment(**{key: -0.1})
    with pytest.raises(ValueError, match=key):
        Augment(**{key: 4.0})
