"""Replays the golden files: tensors' names and shapes, and outputs as the authors' code gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet

from facerec import backbones
from tests.backbones import goldens

MANY = 30_000_000  # parameters: such nets take seconds each on one core


def param(path: Path) -> ParameterSet:
    slow = goldens.read(path)["parameters"] > MANY
    return pytest.param(path, id=path.stem, marks=pytest.mark.slow if slow else ())


FILES = [param(path) for path in goldens.files() if goldens.built(path)]


def test_goldens_are_there() -> None:
    if goldens.folder() is None:
        pytest.skip("FACEREC_GOLDENS names no folder of golden files: nothing to compare with")
    assert FILES, f"{goldens.folder()}: no golden file of a backbone built here"


@pytest.mark.parametrize("path", FILES)
def test_file(path: Path) -> None:
    golden = goldens.read(path)
    expected = torch.tensor(golden["output"], dtype=torch.float64)
    name = goldens.name(golden)
    with torch.device("meta"):  # weights are made once, below, and in double precision
        backbone = backbones.build(name, {}, embedding_size=expected.shape[1]).double().eval()
    state = backbone.state_dict()
    assert [(k, list(v.shape)) for k, v in state.items()] == list(goldens.shapes(golden).items())
    assert sum(p.numel() for p in backbone.parameters()) == goldens.parameters(golden)

    weights = {k: goldens.weight(k, list(v.shape), v.dtype) for k, v in state.items()}
    backbone.load_state_dict(weights, assign=True)
    images = goldens.images(golden["input"])
    with torch.inference_mode():
        found = backbone(images)
        if goldens.family(golden) == "lresnet":  # its authors' net adds the mirror image's
            found += backbone(images.flip(3))
    line = 1e-4 if goldens.family(golden) == "vit" else 1e-9  # the reference ran in float32
    assert (found - expected).abs().max() <= line * expected.abs().max()
