"""Two views of an image: two draws of dropout over one pass; and what else acts in training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from facerec.backbones.base import Backbone
from facerec.backbones.vit import Block, ViT
from tests.backbones.nets import ONE_QUICK, QUICK, fresh, random_images, tamed


def with_dropout(name: str, dropout: float, view_dropout: float | None = None) -> Backbone:
    backbone = tamed(name).train()
    backbone.dropout, backbone.view_dropout = dropout, view_dropout
    return backbone


def counting(call: Callable[[Tensor], Tensor], seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def counted(x: Tensor) -> Tensor:
        seen.append(x)
        return call(x)

    return counted


@pytest.mark.parametrize("name", ONE_QUICK)
def test_dropout_acts_in_training_only(name: str) -> None:
    plain, dropping = tamed(name), with_dropout(name, 0.4, 0.6)
    images = random_images(3, plain.input_size)
    with torch.no_grad():
        expected = plain(images)
        assert torch.equal(dropping.eval()(images), expected)
        assert torch.equal(dropping(images, views=2), torch.stack([expected, expected]))
        dropping.train()
        passes = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            passes.append(dropping(images))
    assert torch.equal(passes[0], passes[1])
    assert not torch.allclose(passes[0], passes[2], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "view_dropout", "rate"),
    [*((name, 0.6, 0.6) for name in QUICK), ("tiny", None, 0.4), ("tiny", 0.0, 0.0)],
)
def test_two_views_are_two_draws_over_one_pass(
    name: str, view_dropout: float | None, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, by_hand = (with_dropout(name, 0.4, view_dropout) for _ in range(2))
    images = random_images(3, backbone.input_size)
    passes: list[Tensor] = []
    embedded: list[Tensor] = []
    monkeypatch.setattr(backbone, "feature_map", counting(backbone.feature_map, passes))
    monkeypatch.setattr(backbone, "embed", counting(backbone.embed, embedded))
    torch.manual_seed(1)
    found = backbone(images, views=2)

    torch.manual_seed(1)
    features = by_hand.feature_map(images)
    draws = [F.dropout(features, rate) for _ in range(2)]
    expected = torch.stack([by_hand.embed(draw) for draw in draws])  # the last BN: one by one
    assert (len(passes), len(embedded)) == (1, 2)
    assert found.shape == (2, 3, 16)
    assert torch.equal(found, expected)
    for (key, buffer), same in zip(backbone.named_buffers(), by_hand.buffers(), strict=True):
        assert torch.equal(buffer, same), key
    kept = features != 0
    for view in embedded:
        assert (view[kept] == 0).float().mean().item() == pytest.approx(rate, abs=0.03)
    assert torch.equal(embedded[0], embedded[1]) == (rate == 0.0)
    assert by_hand(images).shape == (3, 16)


def test_both_views_train_the_convolutions() -> None:
    gradients = []
    for weights in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]):
        backbone = with_dropout("tiny", 0.4)
        torch.manual_seed(1)
        views = backbone(random_images(3, 64), views=2)
        (views.square()[:, :, 0] @ torch.arange(3.0) @ torch.tensor(weights)).backward()
        gradient = next(iter(backbone.parameters())).grad
        assert gradient is not None
        gradients.append(gradient)
    one, two, both = gradients
    scale = both.abs().max().item()
    assert min(one.abs().max().item(), two.abs().max().item()) > 0.01 * scale
    torch.testing.assert_close(both, one + two, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("name", QUICK)
def test_after_a_step_only_lresnet_moves_its_slopes(name: str) -> None:
    backbone = fresh(name)
    slopes = [m.weight for m in backbone.modules() if isinstance(m, torch.nn.PReLU)]
    assert slopes or "vit" in name
    with torch.no_grad():
        for slope in slopes:
            slope[:3] = torch.tensor([-1.0, 0.005, 0.5])
    before = {k: (v, v.clone()) for k, v in backbone.state_dict(keep_vars=True).items()}
    backbone.after_step()
    for key, after in backbone.state_dict(keep_vars=True).items():
        held, earlier = before[key]
        assert after is held  # in place: the optimizer's own tensor
        expected = earlier.detach().clone()
        if "lresnet" in name and "prelu" in key:
            expected[:2] = 0.01
        assert torch.equal(after, expected), key


def test_lresnet_starts_as_its_authors() -> None:
    backbone = fresh("small lresnet")
    state = backbone.state_dict()
    assert backbone.dropout == 0.4
    for key, tensor in state.items():
        if tensor.ndim == 4:
            fan_in = tensor[0].numel()
            assert tensor.std().item() == pytest.approx(fan_in**-0.5, rel=0.08), key
        elif key.endswith("prelu.weight"):
            assert (tensor == 0.25).all()
        elif key.endswith("weight"):
            assert (tensor == (0 if "layer" in key and key.endswith(".bn2.weight") else 1)).all()


def test_ir_starts_as_its_authors() -> None:
    backbone = fresh("small ir")
    assert backbone.dropout == 0.4
    for key, tensor in backbone.state_dict().items():
        if tensor.ndim > 1:
            fan_out = tensor.shape[0] * tensor[0, 0].numel()
            assert tensor.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.08), key
        elif key == "output_layer.3.bias":
            assert (tensor == 0).all()


def test_iresnet_starts_as_arcface_torch() -> None:
    for key, tensor in fresh("small iresnet").state_dict().items():
        if tensor.ndim == 4:
            assert tensor.std().item() == pytest.approx(0.1, rel=0.08), key
        elif "bn" in key and key.endswith((".weight", ".bias")):
            assert (tensor == float(key.endswith("weight"))).all(), key


def test_mobilefacenet_starts_as_arcface_torch() -> None:
    for key, tensor in fresh("mobilefacenet").state_dict().items():
        if tensor.ndim == 4 and tensor.shape[0] >= 128 and tensor.shape[1] > 2:
            fan_out = tensor.shape[0] * tensor[0, 0].numel()
            assert tensor.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.08), key


def test_vit_starts_as_arcface_torch() -> None:
    state = fresh("small vit").state_dict()
    for key, tensor in state.items():
        if key == "patch_embed.proj.weight":  # as torch draws it
            assert tensor.std().item() == pytest.approx((3 * 81 * 3) ** -0.5, rel=0.08)
        elif tensor.ndim > 1 and key != "mask_token":
            assert tensor.std().item() == pytest.approx(0.02, rel=0.08), key
    assert 0 < state["mask_token"].std() < 0.04


def test_vit_leaves_patches_out_in_training() -> None:
    torch.manual_seed(0)
    backbone = ViT(16, width=32, depth=2, mask_ratio=0.25, drop_path=0.0)
    torch.nn.init.constant_(backbone.mask_token, 7.0)
    seen: list[Tensor] = []
    backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = random_images(3, 112)
    left_out = (backbone.feature_map(images).reshape(3, 144, 32) == 7.0).all(dim=2)
    assert left_out.sum(dim=1).tolist() == [36, 36, 36]
    assert not torch.equal(left_out[0], left_out[1])
    # The patches that are seen keep their order of places: those of a mask that leaves them in.
    place = backbone.patch_embed(images) + backbone.pos_embed
    for image in range(3):
        rows = {tuple(row) for row in seen[0][image].tolist()}
        assert rows == {tuple(row) for row in place[image][~left_out[image]].tolist()}
    backbone.eval()
    assert not (backbone.feature_map(images) == 7.0).any()
    assert seen[-1].shape == (3, 144, 32)


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, 144), (0.1, 129), (0.999, 1)])
def test_vit_keeps_at_least_one_patch(ratio: float, kept: int) -> None:
    backbone = ViT(16, width=32, depth=1, mask_ratio=ratio)
    assert backbone.kept == kept
    assert backbone.mask_token.requires_grad == (kept < 144)
    assert torch.isfinite(backbone(random_images(2, 112))).all()


def test_vit_skips_branches_of_whole_images_in_training() -> None:
    block = Block(8, 0.25)
    for branch in (block.attn.proj, block.mlp.fc2):  # each branch gives ones
        torch.nn.init.zeros_(branch.weight)
        torch.nn.init.ones_(branch.bias)
    x = torch.zeros(4000, 2, 8)
    torch.manual_seed(0)
    added = block(x) * 0.75
    assert (added == added[:, :1, :1]).all()
    shares = [(added[:, 0, 0].round() == n).float().mean().item() for n in (0, 1, 2)]
    assert shares == pytest.approx([0.0625, 0.375, 0.5625], abs=0.03)
    assert torch.equal(block.eval()(x), torch.full_like(x, 2.0))
    rates = [block.drop_path for block in ViT(4, width=8, depth=3, drop_path=0.1).blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1])
