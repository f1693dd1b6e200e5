"""What constructors declare: keywords, defaults, spaces and docstrings; and errors that help."""

from __future__ import annotations

import inspect
import math
from types import NoneType
from typing import get_args, get_type_hints

import pytest

from facerec.domains import Choice, IntUniform, LogUniform, Scalar, Uniform
from facerec.losses import LOSSES, OBJECTIVES, REGULARIZERS, build, check, keywords
from facerec.losses.base import Loss

MARGINS = {spec.margin for spec in LOSSES.values()}


def test_tables() -> None:
    assert set(LOSSES) >= {
        *("softmax", "normface", "sphereface", "sphereface_r", "sphereface2", "cosface"),
        *("arcface", "combined", "mv_softmax", "curricularface", "broadface", "scf", "adaface"),
        *("elasticface", "magface", "uniface", "uniface_bce", "uniface_softmax", "uniformface"),
        *("contraface", "unitsface"),
    }
    assert all(name == objective.term for name, objective in OBJECTIVES.items())
    assert all(name == regularizer.term for name, regularizer in REGULARIZERS.items())
    assert set(REGULARIZERS) >= {"uniform", "exclusive", "contrast", "sample_to_sample"}
    for spec in LOSSES.values():
        assert (spec.objective in OBJECTIVES.values()) == spec.composable
        assert spec.regularizer is None or spec.regularizer in REGULARIZERS.values()


def test_keywords_of_parts_that_meet_never_collide() -> None:
    for margin in MARGINS:
        for objective in OBJECTIVES.values():
            for regularizer in REGULARIZERS.values():
                kinds = [
                    set(inspect.signature(p).parameters) for p in (margin, objective, regularizer)
                ]
                assert sum(map(len, kinds)) == len(set.union(*kinds))
                assert not set.union(*kinds) & {"objective", "regularizer"}


def test_one_word_has_one_meaning() -> None:
    """A keyword that several parts have is declared by all with one type."""
    declared: dict[str, set[str]] = {}
    for part in {*MARGINS, *OBJECTIVES.values(), *REGULARIZERS.values()}:
        for keyword, hint in get_type_hints(part.__init__).items():
            if keyword != "return":
                kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
                declared.setdefault(keyword, set()).add(str(kinds))
    # The names of variants and of starts differ from part to part.
    own = {"variant", "bias_init", "past_pi"}
    assert {k: v for k, v in declared.items() if len(v) > 1 and k not in own} == {
        "margin": {str([float]), str([int])}  # A-softmax multiplies by a whole number
    }


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("softmax", {}),
        ("normface", {"scale": 30.0}),
        ("cosface", {"margin": 0.35, "scale": 64.0}),
        ("arcface", {"margin": 0.5, "scale": 64.0, "gradient": "exact"}),
        ("uniface", {"margin": 0.4, "scale": 64.0, "negative_weight": 1.0, "logit_clip": "s"}),
        ("uniface_bce", {"margin": 0.4, "scale": 64.0, "bias_init": "log_10rc"}),
        ("uniface_softmax", {"margin": 0.4, "scale": 64.0, "objective": "softmax"}),
    ],
)
def test_defaults_are_the_papers(loss: str, expected: dict[str, Scalar]) -> None:
    assert expected.items() <= keywords(loss).items()
    assert keywords(loss)["objective"] == LOSSES[loss].objective.term


@pytest.mark.parametrize("loss", LOSSES)
def test_spaces_are_of_real_keywords_and_hold_the_defaults(loss: str) -> None:
    for key, domain in LOSSES[loss].space.items():
        keyword = key.removeprefix("loss.")
        assert key == f"loss.{keyword}"
        assert domain.contains(keywords(loss)[keyword]), key
        if isinstance(domain, Choice):
            values: tuple[Scalar, ...] = domain.options
        else:
            assert isinstance(domain, Uniform | LogUniform | IntUniform)
            values = (domain.low, domain.high)
        for value in values:
            check(loss, {keyword: value})


@pytest.mark.parametrize("loss", LOSSES)
def test_every_default_passes_the_check(loss: str) -> None:
    for objective in OBJECTIVES if LOSSES[loss].composable else ():
        args = keywords(loss, {"objective": objective}) | {"objective": objective}
        parts = build(loss, args, num_classes=10, embedding_size=8)
        assert isinstance(parts, Loss)
        assert type(parts.objective) is OBJECTIVES[objective]


@pytest.mark.parametrize("loss", LOSSES)
def test_docstrings_explain_every_keyword(loss: str) -> None:
    spec = LOSSES[loss]
    for part in spec.parts:
        for keyword in inspect.signature(part).parameters:
            assert f"{keyword}:" in (part.__doc__ or ""), f"{part.__name__}.{keyword}"
        assert "Formula" in (part.__doc__ or "") or "Paper" in (part.__doc__ or "")


@pytest.mark.parametrize(
    ("loss", "args", "message"),
    [
        ("cosfase", {}, "loss = 'cosfase': takes .*Did you mean cosface"),
        ("arcface", {"margn": 0.3}, "margn: arcface has no such .* it has margin, .*mean margin"),
        ("cosface", {"past_pi": "easy"}, "past_pi: cosface has no such hyper-parameter"),
        ("cosface", {"negative_weight": 0.5}, "comes with objective=unified or objective=binary"),
        ("cosface", {"margin": 1.9}, r"margin = 1.9: CosFace takes 0 to 1 .*; try 1"),
        ("cosface", {"margin": -0.1}, r"margin = -0.1: CosFace takes 0 to 1 .*; try 0"),
        ("arcface", {"margin": 3.2}, r"margin = 3.2: ArcFace takes 0 to below 3.14.*radians"),
        ("arcface", {"scale": 0}, r"scale = 0: ArcFace takes numbers above 0; try 64"),
        ("arcface", {"scale": math.inf}, "scale = inf: ArcFace takes numbers above 0"),
        ("arcface", {"scale": math.nan}, "scale = nan: ArcFace takes numbers above 0"),
        ("arcface", {"scale": True}, "scale = True: ArcFace takes a number"),
        ("arcface", {"scale": "64"}, "scale = '64': ArcFace takes a number"),
        ("arcface", {"scale": None}, "scale = None: ArcFace takes a number"),
        ("arcface", {"past_pi": "esy"}, "past_pi = 'esy': takes none, .*Did you mean easy"),
        ("arcface", {"gradient": 1}, "gradient = 1: takes exact, detached"),
        ("arcface", {"margin_warmup": 1.5}, "margin_warmup = 1.5: ArcFace takes 0 to 1"),
        ("arcface", {"objective": "unifed"}, "objective = 'unifed': .*Did you mean unified"),
        ("arcface", {"regularizer": "unifrm"}, "regularizer = 'unifrm': .*Did you mean uniform"),
        ("arcface", {"alpha": 1.0}, "alpha: arcface has no .* comes with regularizer=uniform"),
        ("uniformface", {"alpha": -1}, "alpha = -1: Uniform takes 0 or more; try 0"),
        ("uniformface", {"margin": 2.5}, "margin = 2.5: SphereFace takes a whole number"),
        ("uniformface", {"margin": 6}, "margin = 6: SphereFace takes 1 to 5.*; try 5"),
        ("uniformface", {"in_batch": 1}, "in_batch = 1: Uniform takes true or false"),
        ("contraface", {"contrast_group": 1}, "contrast_group = 1: .* 2 or more or None; try 2"),
        (
            "contraface",
            {"contrast_momentum": 1},
            "contrast_momentum = 1: Contrast takes 0 to below",
        ),
        ("scf", {"objective": "softmax"}, "objective: scf has no such hyper-parameter"),
        ("magface", {"margin_high": 0.3}, "margin_high = 0.3"),
        ("magface", {"lambda_g": 20.0}, "lambda_g = 20.* 22.5"),
        ("uniface", {"negative_weight": 0}, "negative_weight = 0: .* numbers above 0; try 1"),
        ("uniface", {"bias_weight_decay": -1}, "bias_weight_decay = -1: .* 0 or more or None"),
        ("uniface", {"bias_init": "log10rc"}, "bias_init = 'log10rc': .*Did you mean log_10rc"),
    ],
)
def test_errors_name_value_limit_and_nearest(
    loss: str, args: dict[str, Scalar], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(loss, args)


def test_whole_numbers_are_taken_for_real_ones() -> None:
    margin = build("cosface", {"scale": 64}, num_classes=4, embedding_size=2).margin
    assert type(margin.fixed_scale) is float
