"""Replays the golden files: tensors' names and shapes, and outputs as the authors' code gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet

from facerec.backbones import build
from facerec.backbones.recognise import recognise
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


@pytest.mark.parametrize("path", [pytest.param(path.values[0], id=path.id) for path in FILES])
def test_names_and_shapes(path: Path) -> None:
    golden = goldens.read(path)
    family, begin, prefix = goldens.source(golden)
    file = {prefix + key: torch.empty(shape) for key, shape in golden["state"].items()}
    found = recognise(file)
    assert (found.family, found.prefix) == (family, prefix)
    assert found.backbone.startswith(begin)
    with torch.device("meta"):
        net = build(found.backbone, found.args, embedding_size=found.embedding_size)
    shapes = [(k, list(v.shape)) for k, v in found.state.items()]
    assert shapes == list(goldens.shapes(golden).items())
    assert shapes == [(k, list(v.shape)) for k, v in net.state_dict().items()]
    assert sum(p.numel() for p in net.parameters()) == goldens.parameters(golden)
    assert set(found.left_out) == {prefix + k for k in golden["state"] if k not in found.state}


@pytest.mark.parametrize("path", FILES)
def test_file(path: Path) -> None:
    golden = goldens.read(path)
    expected = torch.tensor(golden["output"], dtype=torch.float64)
    family, _, prefix = goldens.source(golden)
    # As the authors' own file has them: by their names, what is not the net's included.
    file = {
        prefix + key: goldens.weight(key, shape, kind(key))
        for key, shape in golden["state"].items()
    }
    found = recognise(file)
    with torch.device("meta"):  # weights are made once, above, and in double precision
        net = build(found.backbone, found.args, embedding_size=found.embedding_size)
    net.load_state_dict(found.state, assign=True)
    net.eval()
    images = goldens.images(golden["input"])
    with torch.inference_mode():
        outputs = net(images)
        if family == "uniface":  # its authors' net adds the mirror image's
            outputs += net(images.flip(3))
    line = 1e-4 if "vit" in found.backbone else 1e-9  # the reference ran in float32
    assert (outputs - expected).abs().max() <= line * expected.abs().max()


def kind(key: str) -> torch.dtype:
    return torch.int64 if key.endswith("num_batches_tracked") else torch.float64
