"""What every backbone keeps, whatever is in it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facerec.backbones import BACKBONES, build, check_image_size
from facerec.backbones.base import Backbone, shrink

NAMES = list(BACKBONES)
HEAVY = {"iresnet34", "iresnet50", "iresnet100", "iresnet200"}  # seconds each on one core
COMPUTED = [pytest.param(n, marks=pytest.mark.slow if n in HEAVY else ()) for n in NAMES]
DEPTHS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 14, 3)} | {
    "100": (3, 13, 30, 3),
    "200": (6, 26, 60, 6),
}


@pytest.fixture(scope="module")
def make() -> Callable[[str], Backbone]:
    """A net of small embeddings in evaluation mode, tamed so that deep ones stay in range."""
    made: dict[str, Backbone] = {}

    def fresh(name: str) -> Backbone:
        if name not in made:
            torch.manual_seed(0)
            made[name] = build(name, {}, embedding_size=16).eval()
            for key, module in made[name].named_modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
                elif key.endswith("bn3"):  # the end of a residual branch
                    nn.init.constant_(module.weight, 0.2)
        return copy.deepcopy(made[name])

    return fresh


def random_images(count: int, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return (
        torch.rand(count, 3, side, side, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1
    )


@pytest.mark.parametrize("name", COMPUTED)
def test_shape_type_and_determinism(name: str, make: Callable[[str], Backbone]) -> None:
    backbone = make(name)
    images = random_images(2, backbone.input_size)
    with torch.no_grad():
        one, two, alone = backbone(images), backbone(images), backbone(images[1:])
        precise = backbone.double()(images.double())
    assert one.shape == precise.shape == (2, 16)
    assert one.dtype == torch.float32
    assert precise.dtype == torch.float64
    assert torch.equal(one, two)
    scale = precise.abs().max()
    assert 0 < scale < float("inf")
    assert (one - precise).abs().max() < 1e-4 * scale
    assert (alone - precise[1:]).abs().max() < 1e-4 * scale
    assert (one[0] - one[1]).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("name", COMPUTED)
def test_the_gradient_reaches_every_parameter(name: str, make: Callable[[str], Backbone]) -> None:
    backbone = make(name).train()
    embeddings = backbone(random_images(3, backbone.input_size))
    embeddings.square().sum(dim=1).log().sum().backward()
    frozen = [k for k, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen == ([] if name == "tiny" else ["features.weight"])
    for key, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            # A linear layer's bias before a batch normalisation cancels, but for rounding.
            assert key == "fc.bias" or parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("more", [1, 48])
def test_larger_images_are_shrunk_by_area(
    name: str, more: int, make: Callable[[str], Backbone]
) -> None:
    backbone = make(name).double()
    side = backbone.input_size
    images = random_images(1, side + more, torch.float64)
    with torch.no_grad():
        found = backbone(images)
        expected = backbone(F.interpolate(images, size=(side, side), mode="area"))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", COMPUTED)
def test_channels_last_gives_the_same(name: str, make: Callable[[str], Backbone]) -> None:
    # A 1x1 convolution of stride 2 straight on an image ends the process on torch 2.13's CPU path.
    images = random_images(2, 128)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        backbone = make(name)  # with fixed statistics: those of two images amplify rounding
        backbone.to(memory_format=layout)  # type: ignore[call-overload]
        embeddings = backbone(images.contiguous(memory_format=layout))
        embeddings.square().sum().backward()
        gradient = next(iter(backbone.parameters())).grad
        assert gradient is not None
        found.append((embeddings.detach(), gradient))
    # Rounding that carries a value over PReLU's kink changes the gradient, layer upon layer.
    for one, two, tolerance in zip(*found, (1e-4, 2e-2), strict=True):
        assert (one - two).abs().max() <= tolerance * one.abs().max()


@pytest.mark.parametrize("name", ["tiny", pytest.param("iresnet18", marks=pytest.mark.slow)])
def test_half_precision(name: str, make: Callable[[str], Backbone]) -> None:
    backbone = make(name)
    images = random_images(2, backbone.input_size)
    with torch.no_grad():
        full = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone(images)
    assert torch.isfinite(half).all()
    assert F.cosine_similarity(full, half.float()).min() > 0.9


@pytest.mark.parametrize("name", COMPUTED)
def test_dropout_acts_in_training_only(name: str, make: Callable[[str], Backbone]) -> None:
    plain = make(name)
    dropping = build(name, {"dropout": 0.4}, embedding_size=16)
    dropping.load_state_dict(plain.state_dict())
    images = random_images(3, plain.input_size)
    with torch.no_grad():
        assert torch.equal(dropping.eval()(images), plain(images))
        dropping.train()
        passes = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            passes.append(dropping(images))
    assert torch.equal(passes[0], passes[1])
    assert not torch.allclose(passes[0], passes[2], rtol=1e-2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(-1, -1), (0, 8), (8, 0)])
def test_images_that_do_not_fit_are_refused(name: str, height: int, width: int) -> None:
    with torch.device("meta"):
        backbone = build(name, {}, embedding_size=4)
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


def test_training_follows_an_evaluation_at_a_new_size(make: Callable[[str], Backbone]) -> None:
    backbone, images = make("tiny"), random_images(2, 97)
    with torch.inference_mode():
        backbone(images)
    images.requires_grad_()
    backbone.train()(images).square().sum().backward()
    assert images.grad is not None


@pytest.mark.parametrize("depth", DEPTHS)
def test_parameters_of_iresnet(depth: str) -> None:
    channels = (64, 64, 128, 256, 512)
    count = 3 * 64 * 9 + 2 * 64 + 64  # first convolution, normalisation, PReLU
    for stage, blocks in enumerate(DEPTHS[depth], start=1):
        before, after = channels[stage - 1], channels[stage]
        count += before * after + 2 * after  # the first block's projection
        for block in range(blocks):
            entering = after if block else before
            count += 2 * entering + entering * after * 9 + 2 * after + after
            count += after * after * 9 + 2 * after
    count += 2 * 512 + 512 * 7 * 7 * 512 + 512 + 2 * 512
    with torch.device("meta"):
        backbone = build(f"iresnet{depth}", {}, embedding_size=512)
    assert sum(p.numel() for p in backbone.parameters()) == count


@pytest.mark.parametrize("embedding_size", [16, 128, 512])
def test_tiny_is_small(embedding_size: int) -> None:
    backbone = build("tiny", {}, embedding_size=embedding_size)
    assert sum(p.numel() for p in backbone.parameters()) <= 600_000
    assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, embedding_size)
    assert all(m.kernel_size == (3, 3) for m in backbone.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", ["tiny", "iresnet18"])
def test_fresh_weights_come_from_the_seed(name: str) -> None:
    def drawn(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return build(name, {}, embedding_size=8).state_dict()

    one, same, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_iresnet_starts_as_arcface_torch() -> None:
    torch.manual_seed(0)
    backbone = build("iresnet18", {}, embedding_size=8)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.1, rel=0.08)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.filterwarnings("ignore")  # the exporter's own: it is old, and it traces
def test_tiny_exports_to_onnx(make: Callable[[str], Backbone]) -> None:
    import onnxruntime

    backbone, file = make("tiny"), io.BytesIO()
    torch.onnx.export(
        backbone,
        (random_images(2, 112),),
        file,  # type: ignore[arg-type]  # its annotation knows paths only
        dynamo=False,
        input_names=["images"],
        output_names=["embeddings"],
        dynamic_axes={"images": {0: "n"}, "embeddings": {0: "n"}},
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = random_images(count, 112)
        found = session.run(None, {"images": images.numpy()})[0]
        with torch.no_grad():
            np.testing.assert_allclose(found, backbone(images).numpy(), rtol=1e-3, atol=1e-4)
