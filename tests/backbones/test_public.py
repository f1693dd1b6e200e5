"""Public checkpoints: what is recognised, what is fed to the net, and what is refused.

With nets of one block in each stage, under names of their own in the table; the nets that were
published are compared in the golden files' tests.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from facerec.backbones import BACKBONES
from facerec.backbones.base import Backbone
from facerec.backbones.families import FAMILIES
from facerec.backbones.ir import IR
from facerec.backbones.iresnet import IResNet
from facerec.backbones.lresnet import LResNet
from facerec.backbones.public import PublicBackbone, load_public, read
from facerec.backbones.recognise import recognise

DEPTHS = (1, 1, 1, 1)
SMALL: dict[str, Callable[..., Backbone]] = {
    "iresnet_small": partial(IResNet, depths=DEPTHS),
    "ir_small": partial(IR, depths=DEPTHS),
    "lresnet_small": partial(LResNet, depths=DEPTHS),
}


@pytest.fixture(autouse=True, scope="module")
def small_nets() -> Iterator[None]:
    BACKBONES.update(SMALL)
    yield
    for name in SMALL:
        del BACKBONES[name]


@pytest.fixture(scope="module")
def states(small_nets: None) -> dict[str, dict[str, Tensor]]:
    """Of each small net, with statistics and weights that differ from tensor to tensor."""
    torch.manual_seed(0)
    found = {}
    for name in SMALL:
        net = SMALL[name](6)
        state = dict(net.state_dict())
        for key, tensor in state.items():
            if key.endswith("running_var"):
                tensor.copy_(torch.rand_like(tensor) * 0.01 + 1e-4)  # so that epsilon counts
            elif tensor.ndim == 1 and "features" not in key and "bn5" not in key:
                tensor.copy_(torch.rand_like(tensor) * 0.1 + 0.2)
        found[name] = state
    return found


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


CLASSES = torch.ones(7, 6)
# Family, net, prefix, what stands beside it: as the authors' code writes its files.
FILES: list[tuple[str, str, str, dict[str, Tensor]]] = [
    ("arcface_torch", "iresnet_small", "", {}),
    ("arcface_torch", "iresnet_small", "module.", {}),
    ("magface", "iresnet_small", "features.module.", {"fc.weight": CLASSES.T}),
    ("magface", "iresnet_small", "module.features.", {"module.fc.weight": CLASSES.T}),
    ("adaface", "ir_small", "model.", {"head.kernel": CLASSES.T, "head.t": torch.zeros(1)}),
    ("adaface", "ir_small", "", {}),
    ("uniface", "lresnet_small", "", {"loss.weight": CLASSES, "loss.bias": torch.zeros(1)}),
    ("uniface", "lresnet_small", "module.", {"module.loss.weight": CLASSES}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name", "prefix", "beside"), FILES)
def test_each_family_by_its_own_files(
    family: str,
    name: str,
    prefix: str,
    beside: dict[str, Tensor],
    states: dict[str, dict[str, Tensor]],
) -> None:
    found = recognise({**beside, **under(prefix, states[name])})
    assert (found.family, found.backbone, found.prefix) == (family, name, prefix)
    assert found.embedding_size == 6
    assert (found.left_out, found.notes) == (tuple(beside), ())
    assert list(found.state) == list(states[name])
    assert found.facts is FAMILIES[family]
    assert dict(found.args) == ({"free_norm": True} if family == "magface" else {})
    for key, tensor in states[name].items():
        folded = family == "magface" and key.endswith("running_var")
        assert torch.equal(found.state[key], tensor + 1e-5 if folded else tensor), key


def reader(states: dict[str, dict[str, Tensor]], name: str, eps: float = 1e-5) -> Backbone:
    """The net as its authors have it, in double precision."""
    net = SMALL[name](6).double().eval()
    net.load_state_dict(states[name])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = eps
    return net


@pytest.mark.parametrize(
    ("family", "name", "prefix", "epsilon"),
    [
        pytest.param("arcface_torch", "iresnet_small", "", 1e-5, marks=pytest.mark.slow),
        ("magface", "iresnet_small", "features.module.", 2e-5),
        ("adaface", "ir_small", "model.", 1e-5),
        pytest.param("uniface", "lresnet_small", "", 1e-5, marks=pytest.mark.slow),
    ],
)
def test_pixels_are_fed_as_the_authors_feed_them(
    family: str,
    name: str,
    prefix: str,
    epsilon: float,
    states: dict[str, dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    file = tmp_path / "file.pth"
    double = {k: v.double() if v.is_floating_point() else v for k, v in states[name].items()}
    torch.save({"epoch": 3, "arch": name, "state_dict": under(prefix, double)}, file)
    backbone, found = load_public(str(file))
    assert found.family == family
    assert not any(module.training for module in backbone.modules())
    assert (backbone.input_size, backbone.embedding_size) == (112, 6)

    pixels = torch.randint(256, (1, 3, 112, 112), generator=torch.Generator().manual_seed(1))
    rgb = pixels.double()
    fed = {
        "arcface_torch": (rgb / 255 - 0.5) / 0.5,
        "magface": rgb.flip(1) / 255,
        "adaface": (rgb.flip(1) / 255 - 0.5) / 0.5,
        "uniface": (rgb / 255 - 0.5) / 0.5,
    }[family]
    with torch.inference_mode():
        expected = reader(states, name, eps=epsilon)(fed)
        outputs = backbone((rgb - 127.5) / 127.5)
    scale = expected.abs().max()
    assert (outputs - expected).abs().max() <= 1e-12 * scale
    assert isinstance(backbone, PublicBackbone) == (family in ("magface", "adaface"))
    if family == "magface":  # both epsilon and colours are felt
        with torch.inference_mode():
            assert (reader(states, name)(fed) - expected).abs().max() > 1e-4 * scale
            reversed_ = reader(states, name, eps=2e-5)(fed.flip(1))
            assert (reversed_ - expected).abs().max() > 1e-4 * scale


class Pixels(Backbone):
    """Gives the pixels that it is fed."""

    def __init__(self) -> None:
        super().__init__(input_size=2, embedding_size=12)
        self.one = nn.Parameter(torch.ones(()))

    def feature_map(self, images: Tensor) -> Tensor:
        return images

    def embed(self, features: Tensor) -> Tensor:
        return features * self.one


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_larger_than_the_net(family: str) -> None:
    facts = FAMILIES[family]
    pixels = torch.randint(256, (1, 3, 4, 4), generator=torch.Generator().manual_seed(1)).float()
    found = PublicBackbone(Pixels(), facts)((pixels - 127.5) / 127.5)
    small = nn.functional.avg_pool2d(pixels, 2)
    if facts.colours == "BGR":
        small = small[:, [2, 1, 0]]
    ends = {"magface": (0, 1), "uniformface": (-127.5 / 128, 127.5 / 128)}
    low, high = ends.get(family, (-1, 1))
    torch.testing.assert_close(found, low + (high - low) * small / 255, rtol=1e-5, atol=1e-6)


def test_where_the_tensors_stand_in_the_file(
    states: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    plain = states["iresnet_small"]
    old = {k: v for k, v in plain.items() if "num_batches" not in k}  # torch did not count them
    half = {k: v.half() if v.is_floating_point() else v for k, v in plain.items()}
    contents = {
        "plain.pth": plain,
        "old.pth": old,
        "half.pt": half,
        "checkpoint_gpu_0.pt": {
            "epoch": 1,
            "state_dict_backbone": plain,
            "state_dict_softmax_fc": {"weight": CLASSES},
            "state_optimizer": {"state": {0: {"momentum_buffer": CLASSES}}, "param_groups": []},
        },
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    save_file(plain, tmp_path / "safe.bin")
    for name in (*contents, "safe.bin"):
        found = recognise(read(str(tmp_path / name)))
        assert (found.family, found.backbone) == ("arcface_torch", "iresnet_small")
        for key, tensor in plain.items():
            assert found.state[key].dtype == tensor.dtype
            tolerance = 1e-3 if name == "half.pt" else 0.0
            torch.testing.assert_close(found.state[key], tensor, rtol=tolerance, atol=tolerance)


def test_a_family_that_tensors_do_not_tell(states: dict[str, dict[str, Tensor]]) -> None:
    cut = dict(states["iresnet_small"]) | {"features.weight": torch.full((6,), 0.8)}
    found = recognise(cut)
    assert found.family == "arcface_torch"
    assert found.notes == (
        "features.weight is not 1, as arcface_torch's training leaves it; the tensors fit magface "
        "as well: name the family if the net is of that one",
    )
    named = recognise(cut, "magface")
    assert (named.family, named.prefix, named.notes) == ("magface", "", ())
    elsewhere = recognise(under("net.", states["ir_small"]))
    assert elsewhere.family == "adaface"
    assert elsewhere.notes == (
        "the tensors' names begin with 'net.', unlike in AdaFace's own files: "
        "whether this net takes BGR images is not certain",
    )
    with pytest.raises(ValueError, match=r"family = 'magfac': takes .* Did you mean magface\?"):
        recognise(cut, "magfac")
    with pytest.raises(ValueError, match="nearest is AdaFace's ir_small, but the file has no "):
        recognise(cut, "adaface")


def changed(state: dict[str, Tensor], **tensors: Tensor | None) -> dict[str, Tensor]:
    new = {key.replace("__", "."): tensor for key, tensor in tensors.items()}
    return {k: v for k, v in {**state, **new}.items() if v is not None}


def test_a_file_that_fits_nothing_names_the_nearest(states: dict[str, dict[str, Tensor]]) -> None:
    iresnet, ir = states["iresnet_small"], states["ir_small"]
    cases = [
        (
            changed(iresnet, layer3__0__conv2__weight=torch.zeros(256, 256, 1, 1)),
            "nearest is arcface_torch's iresnet_small, but layer3.0.conv2.weight is "
            "(256, 256, 1, 1) in the file, (256, 256, 3, 3) in that net",
        ),
        (
            under("features.module.", changed(iresnet, layer4__0__bn3__bias=None)),
            "but the file has no features.module.layer4.0.bn3.bias (512,)",
        ),
        (
            under("model.", changed(ir, body__2__res_layer__se_block__fc1__weight=CLASSES)),
            "nearest is AdaFace's ir_small, but the file also has "
            "model.body.2.res_layer.se_block.fc1.weight (7, 6)",
        ),
        ({"encoder.weight": CLASSES}, "no net of arcface_torch's, MagFace's, AdaFace's, UniFace's"),
        ({"weight": torch.zeros(())}, "has these tensors; the nearest is "),
    ]
    for tensors, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            recognise(tensors)


class Runs:
    """Would call `print` when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


def test_files_that_are_refused(
    tmp_path: Path, states: dict[str, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"weight": torch.zeros(3)}
    torch.save({"net": small, "more": Runs()}, tmp_path / "code.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Runs(), protocol=2))
    torch.save(small, tmp_path / "small.pth")
    torch.save(small, tmp_path / "cut.pth")
    save_file(small, tmp_path / "cut.safetensors")
    for name in ("cut.pth", "cut.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) - 12])
    (tmp_path / "text.pth").write_text("weights", encoding="utf-8")
    (tmp_path / "nothing.pth").touch()
    (tmp_path / "folder.pth").mkdir()
    reasons = {
        "code.pth": "holds a [\\w.]*print, which only running the file's own code could read",
        "module.pth": "holds a torch.nn.modules.linear.Linear, .* save the net's state_dict\\(\\)",
        "empty.pth": "holds no tensors by name",
        "list.pth": "holds no tensors by name",
        "cut.pth": "no file of tensors",
        "cut.safetensors": "a damaged safetensors file",
        "text.pth": "no file of tensors: damaged, a program",
        "pickle.pth": "holds a [\\w.]*print",
        "nothing.pth": "no file of tensors",
        "folder.pth": "cannot be read \\(Is a directory\\)",
        "small.pth": "no net of .* has these tensors; the nearest is ",
        "missing.pth": "cannot be read \\(No such file or directory\\)",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=f"{name}: {reason}") as caught:
            load_public(str(tmp_path / name))
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    assert capsys.readouterr().out == ""
