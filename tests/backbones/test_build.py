"""Names and keywords: what is taken, and how a mistake is answered."""

from __future__ import annotations

import pytest
import torch

from facerec.backbones import BACKBONES, build, check, keywords
from facerec.backbones.iresnet import IResNet
from facerec.backbones.vit import ViT
from facerec.domains import Scalar


@pytest.mark.parametrize("name", BACKBONES)
def test_keywords_have_defaults_that_pass(name: str) -> None:
    dropout = 0.4 if name.startswith(("lresnet", "ir_")) else 0.0
    expected: dict[str, Scalar] = {"dropout": dropout, "view_dropout": None}
    if name.startswith("iresnet"):
        expected |= {"free_norm": False}
    if name.startswith("vit"):
        expected |= {"mask_ratio": 0.1, "drop_path": 0.1}
    assert dict(keywords(name)) == expected
    check(name, keywords(name))
    for key in keywords(name).keys() - {"free_norm"}:
        check(name, {key: 0})
        check(name, {key: 0.999})


def test_keywords_reach_the_net() -> None:
    args: dict[str, Scalar] = {"dropout": 0.25, "view_dropout": 0.5, "free_norm": True}
    args |= {"mask_ratio": 0.5, "drop_path": 0.2}
    families = ("iresnet18", "ir_18", "lresnet50e_ir", "sphereface20", "mobilefacenet", "vit_t")
    for name in ("tiny", *families):
        with torch.device("meta"):
            known = {key: args[key] for key in keywords(name)}
            backbone = build(name, known, embedding_size=4)
        assert (backbone.dropout, backbone.view_dropout) == (0.25, 0.5)
        if "free_norm" in known:
            assert isinstance(backbone, IResNet)
            assert backbone.features.weight.requires_grad
    assert isinstance(backbone, ViT)
    assert backbone.kept == 72
    assert backbone.blocks[-1].drop_path == 0.2


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("iresnet51", {}, "no backbone is called 'iresnet51'.*Did you mean iresnet50?"),
        ("Tiny", {}, "tiny, iresnet18, .*Did you mean tiny?"),
        ("", {}, "no backbone is called ''"),
        ("tiny", {"droput": 0.1}, "droput: tiny has no such keyword; .*Did you mean dropout?"),
        ("iresnet18", {"depths": 3}, "depths: iresnet18 has no such keyword"),
        ("tiny", {"embedding_size": 3}, "embedding_size: tiny has no such keyword"),
        ("tiny", {"dropout": "much"}, "dropout = 'much': tiny takes a number, 0 to below 1"),
        ("tiny", {"dropout": True}, "dropout = True: tiny takes a number"),
        ("iresnet18", {"free_norm": 1}, "free_norm = 1: iresnet18 takes true or false"),
        ("tiny", {"dropout": None}, "dropout = None: tiny takes a number"),
        ("tiny", {"view_dropout": "x"}, "view_dropout = 'x': tiny takes .* 0 to below 1 or none"),
        ("vit_t", {"mask_ratio": None}, "mask_ratio = None: vit_t takes a number, 0 to below 1$"),
        ("tiny", {"dropout": -0.1}, "dropout = -0.1: tiny takes 0 to below 1"),
        ("iresnet50", {"dropout": 1.0}, "dropout = 1.0: iresnet50 takes 0 to below 1"),
        ("tiny", {"dropout": float("nan")}, "dropout = nan: tiny takes 0 to below 1"),
    ],
)
def test_mistakes_are_named(name: str, args: dict[str, Scalar], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(name, args)
    with pytest.raises(ValueError, match=message):
        build(name, args, embedding_size=8)


def test_an_embedding_has_a_length() -> None:
    with pytest.raises(ValueError, match="embedding_size = 0: must be at least 1"):
        build("tiny", {}, embedding_size=0)
