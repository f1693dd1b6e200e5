"""What every backbone keeps, whatever is in it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facerec.backbones import check_image_size
from facerec.backbones.base import shrink
from tests.backbones.nets import (
    COMPUTED,
    NAMES,
    ONE_QUICK,
    SMALL,
    fresh,
    on_meta,
    params,
    random_images,
    tamed,
)

FAMILIES = ["small iresnet", "small ir", "small lresnet", "small sphereface"]
FROZEN = {"iresnet": ["features.weight"], "lresnet": ["bn5.weight"]}  # by what a name contains


@pytest.mark.parametrize("name", COMPUTED)
def test_shape_type_and_independence_of_the_batch(name: str) -> None:
    backbone = tamed(name)
    images = random_images(3, backbone.input_size)
    with torch.no_grad():
        one, two = backbone(images), backbone(images)
        alone, pair = backbone(images[1:2]), backbone(images[1:])
        precise = backbone.double()(images.double())
    assert one.shape == precise.shape == (3, 16)
    assert one.dtype == torch.float32
    assert precise.dtype == torch.float64
    assert torch.equal(one, two)
    scale = precise.abs().max()
    assert 0 < scale < float("inf")
    for found, expected in ((one, precise), (alone, precise[1:2]), (pair, precise[1:])):
        assert (found - expected).abs().max() < 1e-4 * scale
    assert (one[0] - one[1]).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("name", COMPUTED)
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    backbone = tamed(name).train()
    embeddings = backbone(random_images(3, backbone.input_size))
    embeddings.square().sum(dim=1).log().sum().backward()
    frozen = [k for k, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen == next((keys for part, keys in FROZEN.items() if part in name), [])
    for key, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            # A linear layer's bias before a batch normalisation cancels, but for rounding.
            assert key in ("fc.bias", "output_layer.3.bias") or parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ONE_QUICK)
@pytest.mark.parametrize("more", [1, 48])
def test_larger_images_are_shrunk_by_area(name: str, more: int) -> None:
    backbone = tamed(name).double()
    side = backbone.input_size
    images = random_images(1, side + more, torch.float64)
    with torch.no_grad():
        found = backbone(images)
        expected = backbone(F.interpolate(images, size=(side, side), mode="area"))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED)
def test_channels_last_gives_the_same(name: str) -> None:
    images = random_images(2, 128)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        backbone = tamed(name)  # with fixed statistics: those of two images amplify rounding
        backbone.to(memory_format=layout)  # type: ignore[call-overload]
        embeddings = backbone(images.contiguous(memory_format=layout))
        embeddings.square().sum().backward()
        gradient = next(iter(backbone.parameters())).grad
        assert gradient is not None
        found.append((embeddings.detach(), gradient))
    # Rounding that carries a value over PReLU's kink changes the gradient, layer upon layer.
    for one, two, tolerance in zip(*found, (1e-4, 2e-2), strict=True):
        assert (one - two).abs().max() <= tolerance * one.abs().max()


@pytest.mark.parametrize("name", [*NAMES, *SMALL])
def test_no_strided_1x1_convolution_sees_the_image(name: str) -> None:
    # It ends the process on torch 2.13's CPU path, forward and backward in channels-last.
    backbone = on_meta(name) if name in NAMES else tamed(name)
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    seeing = [m for m in convolutions if m.in_channels == 3]
    assert len(seeing) == 1
    assert seeing[0].kernel_size != (1, 1) or seeing[0].stride == (1, 1)


@pytest.mark.parametrize(
    "name", params(["tiny", "mobilefacenet", "small vit"], [*FAMILIES, "iresnet18"])
)
def test_half_precision(name: str) -> None:
    backbone = tamed(name)
    images = random_images(2, backbone.input_size)
    with torch.no_grad():
        full = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone(images)
    assert half.dtype == torch.float32
    assert F.cosine_similarity(full, half).min() > 0.9
    assert not torch.equal(full, half)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(-1, -1), (0, 8), (8, 0)])
def test_images_that_do_not_fit_are_refused(name: str, height: int, width: int) -> None:
    backbone = on_meta(name)
    side = backbone.input_size
    height, width = side + height, side + width
    sizes = rf"images of {width} x {height} pixels are .*{side} x {side}"
    with pytest.raises(ValueError, match=sizes):
        check_image_size(backbone, width, height)
    with pytest.raises(ValueError, match=sizes):
        backbone(torch.empty(1, 3, height, width, device="meta"))
    check_image_size(backbone, side, side)
    check_image_size(backbone, side + 1, side + 1)


@pytest.mark.parametrize("size", [(112, 64), (65, 64), (127, 64), (128, 64), (250, 112)])
def test_shrinking_is_the_mean_of_the_pixels_beneath(size: tuple[int, int]) -> None:
    large, small = size
    image = random_images(1, large, torch.float64)
    found = shrink(image, small)[0].numpy()
    for row, column in [(0, 0), (small // 3, small // 2), (small - 1, small - 1)]:
        top, bottom = row * large // small, int(np.ceil((row + 1) * large / small))
        left, right = column * large // small, int(np.ceil((column + 1) * large / small))
        mean = image[0, :, top:bottom, left:right].numpy().mean(axis=(1, 2))
        np.testing.assert_allclose(found[:, row, column], mean, rtol=1e-12, atol=1e-14)


def test_training_follows_an_evaluation_at_a_new_size() -> None:
    backbone, images = tamed("tiny"), random_images(2, 97)
    with torch.inference_mode():
        backbone(images)
    images.requires_grad_()
    backbone.train()(images).square().sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize(
    "name", params(["tiny", "small vit"], ["mobilefacenet", *FAMILIES, "iresnet18"])
)
def test_fresh_weights_come_from_the_seed(name: str) -> None:
    one, same, other = (fresh(name, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.filterwarnings("ignore")  # the exporter's own: it is old, and it traces
@pytest.mark.parametrize("name", params(["tiny", "small vit"], ["mobilefacenet", *FAMILIES]))
def test_export_to_onnx(name: str) -> None:
    import onnxruntime

    backbone, file = tamed(name), io.BytesIO()
    torch.onnx.export(
        backbone,
        (random_images(2, 128),),
        file,  # type: ignore[arg-type]  # its annotation knows paths only
        dynamo=False,
        input_names=["images"],
        output_names=["embeddings"],
        dynamic_axes={"images": {0: "n"}, "embeddings": {0: "n"}},
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = random_images(count, 128)
        found = session.run(None, {"images": images.numpy()})[0]
        with torch.no_grad():
            expected = backbone(images)
        assert found.shape == (count, 16)
        scale = expected.abs().max().item()
        np.testing.assert_allclose(found / scale, expected.numpy() / scale, rtol=0, atol=1e-4)
