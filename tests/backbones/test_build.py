"""Names and keywords: what is taken, and how a mistake is answered."""

from __future__ import annotations

import pytest

from facerec.backbones import BACKBONES, build, check, keywords
from facerec.domains import Scalar


@pytest.mark.parametrize("name", BACKBONES)
def test_keywords_have_defaults_that_pass(name: str) -> None:
    assert dict(keywords(name)) == {"dropout": 0.0}
    check(name, keywords(name))
    check(name, {"dropout": 0})
    check(name, {"dropout": 0.999})


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
        ("tiny", {"dropout": None}, "dropout = None: tiny takes a number"),
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
