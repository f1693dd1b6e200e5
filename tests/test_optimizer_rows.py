"""Sampled classes: only the rows that a batch met move, each as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from facerec import row_optimizer
from facerec.checkpoint_state import fill_optimizer, named_parameters
from facerec.config import Component, OptimizerConfig
from facerec.head import ClassificationHead, build_head
from facerec.optimizer import clip_gradients, make_optimizer
from facerec.parallel import ClassShard
from facerec.row_optimizer import RowAdamW, RowSGD

CLASSES, SIZE = 12, 3
ALONE = {RowSGD: torch.optim.SGD, RowAdamW: torch.optim.AdamW}
KEYWORDS: dict[type, dict[str, Any]] = {
    RowSGD: {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    RowAdamW: {"lr": 0.1, "weight_decay": 0.1},
}


def sparse(ids: Tensor, rows: Tensor) -> Tensor:
    shape = (CLASSES, *rows.shape[1:])
    return torch.sparse_coo_tensor(ids[None], rows, shape, check_invariants=True)


@pytest.mark.parametrize("kind", [RowSGD, RowAdamW])
@pytest.mark.parametrize("shape", [(SIZE,), ()])
def test_each_row_moves_as_if_it_were_alone(
    kind: type[RowSGD | RowAdamW], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_optimizer, "_NUMBERS", 6)  # a few blocks of rows
    torch.manual_seed(0)
    together = nn.Parameter(torch.randn(CLASSES, *shape, dtype=torch.float64))
    whole = nn.Parameter(torch.randn(2, 2, dtype=torch.float64))
    alone = [nn.Parameter(row[None].clone()) for row in together.detach()]
    copied = nn.Parameter(whole.detach().clone())
    optimizer = kind([together, whole], **KEYWORDS[kind])
    plain = [ALONE[kind]([row], **KEYWORDS[kind]) for row in [*alone, copied]]
    for number in range(5):
        rate = 0.1 / (1 + number)
        for group in (group for made in (optimizer, *plain) for group in made.param_groups):
            group["lr"] = rate
        met = torch.randperm(CLASSES - 1)[:5].sort().values  # the last is never met
        twice = torch.cat([met, met[:2]])  # as of two parts of a batch
        gradient = torch.randn(7, *shape, dtype=torch.float64)
        kept, state = together.detach().clone(), dict(optimizer.state.get(together, {}))
        state = {name: value.clone() for name, value in state.items()}
        together.grad = sparse(twice, gradient)
        whole.grad = torch.randn(2, 2, dtype=torch.float64)
        optimizer.step()
        summed = gradient[:5].clone()
        summed[:2] += gradient[5:]
        for row in alone:
            row.grad = None
        for place, row in zip(met.tolist(), summed, strict=True):
            alone[place].grad = row[None]
        copied.grad = whole.grad
        for made in plain:
            made.step()
        torch.testing.assert_close(together.detach(), torch.cat([*alone]).detach())
        torch.testing.assert_close(whole, copied)
        rest = [c for c in range(CLASSES) if c not in met]
        assert torch.equal(together.detach()[rest], kept[rest])
        for name, value in state.items():
            assert torch.equal(optimizer.state[together][name][rest], value[rest]), name
    assert {*optimizer.state[together]} in ({"momentum_buffer"}, {"exp_avg", "exp_avg_sq", "step"})


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="closure"):
        RowSGD([nn.Parameter(torch.ones(2))], lr=0.1).step(lambda: 0.0)


def made(name: str = "sgd", classes: int = 40, **changed: Any) -> Any:
    """A sampled head with a bias per class, its backbone and optimizer."""
    torch.manual_seed(1)
    loss = Component("uniface_bce", {"regularizer": "uniform", "in_batch": False})
    head = build_head(loss, ClassShard(classes), 4, sample_rate=0.25, **changed).double()
    assert isinstance(head, ClassificationHead)
    backbone = nn.Linear(3, 4).double()
    return head, backbone, make_optimizer(OptimizerConfig(name=name, lr=0.1), backbone, head)


def learn(head: ClassificationHead, backbone: nn.Module, labels: Tensor) -> None:
    head(backbone(torch.randn(len(labels), 3, dtype=torch.float64)), labels).loss.backward()


def test_a_sparse_gradient_is_the_dense_one_in_fewer_rows() -> None:
    """Of centers and biases, over two parts of a batch, with a queue, and when it is clipped."""
    found = []
    config = OptimizerConfig(clip_norm=0.1)
    for is_sparse in (True, False):
        head, backbone, _ = made(queue_size=6)
        head.sparse_gradients = is_sparse
        torch.manual_seed(2)
        for labels in (torch.tensor([3, 3, 39]), torch.tensor([7, 0, 3])):
            learn(head, backbone, labels)
        assert head.centers.grad.is_sparse == head.bias.grad.is_sparse == is_sparse
        norm = clip_gradients(config, backbone, head)
        gradients = [p.grad.to_dense() for p in (head.centers, head.bias, backbone.weight)]
        found.append([norm, *gradients])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    total = torch.cat([g.flatten() for g in [*found[0][1:], backbone.bias.grad]])
    torch.testing.assert_close(float(total.norm()), 0.1, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_classes_that_no_batch_met_stay_as_they_are(name: str) -> None:
    head, backbone, optimizer = made(name)
    before = [head.centers.detach().clone(), head.bias.detach().clone()]
    met = set()
    for labels in (torch.tensor([3, 3, 39]), torch.tensor([7, 0, 3])):
        met |= set(head.sample(labels).tolist())
        learn(head, backbone, labels)
        optimizer.step()
        optimizer.zero_grad()
    rest = sorted(set(range(40)) - met)
    assert 10 < len(rest) < 30
    for parameter, kept in zip((head.centers, head.bias), before, strict=True):
        assert torch.equal(parameter.detach()[rest], kept[rest])
        assert bool((parameter.detach() != kept).reshape(40, -1)[sorted(met)].any(dim=1).all())
        for value in optimizer.state[parameter].values():
            assert not value[rest].any()


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of PyTorch
    """The largest new tensor of any operation, in numbers."""

    largest = 0

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if not isinstance(tensor, Tensor) or tensor.is_sparse:
                continue
            if tensor.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_nothing_as_large_as_the_centers_is_made(name: str) -> None:
    head = build_head(Component("cosface"), ClassShard(4000), 16, sample_rate=0.1)
    backbone = nn.Linear(3, 16)
    config = OptimizerConfig(name=name, lr=0.1)
    optimizer = make_optimizer(config, backbone, head)
    known: set[int] = set()
    for number in range(2):  # at the first step there is no momentum yet
        if number:
            kept = [head.centers, *optimizer.state[head.centers].values()]
            known = {tensor.untyped_storage().data_ptr() for tensor in kept}
        optimizer.zero_grad()
        with Largest(known) as seen:
            output = head(backbone(torch.randn(5, 3)), torch.arange(5))
            output.loss.backward()
            clip_gradients(config, backbone, head)
            optimizer.step()
    assert 400 * 16 <= seen.largest < 800 * 16


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_state_of_rows_comes_back(name: str) -> None:
    """Two steps, or one and, with the state in another optimizer, one more."""
    head, backbone, optimizer = made(name)
    again, same, second = made(name)

    def step(number: int, head: Any, backbone: Any, optimizer: Any) -> None:
        torch.manual_seed(number)
        optimizer.zero_grad()
        learn(head, backbone, torch.tensor([3, 3, 39]))
        optimizer.step()

    step(0, head, backbone, optimizer)
    again.load_state_dict(head.state_dict())
    same.load_state_dict(backbone.state_dict())
    state = {
        f"{name}|{key}": value.clone()
        for name, parameter in named_parameters(backbone, head)
        for key, value in optimizer.state[parameter].items()
    }
    fill_optimizer(second, dict(named_parameters(same, again)), state)
    step(1, head, backbone, optimizer)
    step(1, again, same, second)
    for one, two in zip(
        named_parameters(backbone, head), named_parameters(same, again), strict=True
    ):
        assert torch.equal(one[1], two[1]), one[0]
