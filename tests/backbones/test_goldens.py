"""Replays the golden files: tensors' names and shapes, and outputs as the authors' code gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from facerec import backbones
from tests.backbones import goldens

FILES = [pytest.param(p, id=p.stem) for p in goldens.files() if goldens.built(p)]


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
    assert [(k, list(v.shape)) for k, v in state.items()] == list(golden["state"].items())
    assert sum(p.numel() for p in backbone.parameters()) == golden["parameters"]

    weights = {k: goldens.weight(k, list(v.shape), v.dtype) for k, v in state.items()}
    backbone.load_state_dict(weights, assign=True)
    with torch.inference_mode():
        found = backbone(goldens.images(golden["input"]))
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
