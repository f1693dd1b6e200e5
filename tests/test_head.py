"""The head alone: sampling, storage, what it reports, what it saves, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from facerec.config import Component
from facerec.draws import normal_rows
from facerec.head import ClassificationHead, build_head
from facerec.losses import LOSSES
from facerec.parallel import ClassShard

SIZE = 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


def make(loss: str = "cosface", classes: int = 20, **keywords: Any) -> ClassificationHead:
    args = keywords.pop("args", {})
    return build_head(Component(loss, args), ClassShard(classes), SIZE, **keywords)


def test_centers_start_small_and_do_not_depend_on_workers() -> None:
    whole = normal_rows(7, 0, 2500, 4)
    assert abs(float(whole.std()) - 1) < 0.02
    parts = [normal_rows(7, start, stop, 4) for start, stop in ((0, 900), (900, 900), (900, 2500))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole[:900], normal_rows(8, 0, 900, 4))
    assert not torch.equal(whole[:1024], whole[1024:2048])
    assert abs(float(make(classes=1000).centers.detach().std()) - 0.01) < 5e-4


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.6])
def test_samples_hold_the_positives_and_are_sorted(rate: float) -> None:
    head = make(classes=40, sample_rate=rate)
    labels = torch.tensor([39, 3, 3, 17])
    ids = head.sample(labels)
    assert len(ids) == max(int(rate * 40), 3)
    assert ids.tolist() == sorted(set(ids.tolist()))
    assert {3, 17, 39} <= set(ids.tolist())


def test_samples_follow_seed_and_step_and_are_even() -> None:
    head, twin = (make(classes=40, sample_rate=0.25, seed=5) for _ in range(2))
    other = make(classes=40, sample_rate=0.25, seed=6)
    labels = torch.tensor([0])
    assert torch.equal(head.sample(labels), twin.sample(labels))
    assert not torch.equal(head.sample(labels), other.sample(labels))
    seen = torch.zeros(40)
    for number in range(400):
        head.step.fill_(number)
        seen[head.sample(labels)] += 1
    assert seen[0] == 400
    assert seen[1:].min() > 60  # 400 * 9 / 39 = 92 each
    assert seen[1:].max() < 125


def test_classes_left_out_get_no_gradient() -> None:
    for loss in ("arcface", "uniface_bce"):
        head = make(loss, sample_rate=0.3)
        labels = torch.tensor([4, 9])
        ids = head.sample(labels).tolist()
        head(torch.randn(2, SIZE), labels).loss.backward()
        rest = [c for c in range(20) if c not in ids]
        assert head.centers.grad is not None
        assert not head.centers.grad[rest].any()
        assert bool(head.centers.grad[ids].any(dim=1).all())
        if head.bias is not None:
            assert head.bias.grad is not None
            assert not head.bias.grad[rest].any()


def test_a_positive_left_out_by_hand_has_no_positive_term() -> None:
    """UniFace's own sampler may drop positives; those rows keep their negatives."""
    head = make("uniface", args={"bias_init": "zero"}).double()
    x = torch.randn(1, SIZE, dtype=torch.float64)
    head.sample = lambda labels: torch.tensor([2, 5])  # type: ignore[method-assign]
    cos = torch.cosine_similarity(x, head.centers[[2, 5]])
    expected = torch.log1p(torch.exp((64 * cos).clamp(-64, 64))).sum()
    torch.testing.assert_close(head(x, torch.tensor([9])).loss, expected)
    softmax = make("cosface").double()
    softmax.sample = lambda labels: torch.tensor([2, 5])  # type: ignore[method-assign]
    assert float(softmax(x, torch.tensor([9])).loss.detach()) == 0.0


def test_evaluation_meets_all_classes_and_changes_nothing() -> None:
    head = make("uniface", sample_rate=0.2, args={"bias_init": "logsumexp"}, center_storage="unit")
    head.eval()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    x, labels = torch.randn(3, SIZE), torch.tensor([0, 1, 19])
    loss = head(x, labels).loss
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())
    whole = make("uniface", args={"bias_init": "zero"}).eval()
    torch.testing.assert_close(loss, whole(x, labels).loss)


@pytest.mark.parametrize("loss", ["softmax", "arcface", "uniface_bce"])
def test_a_half_precision_head_computes_in_single(loss: str) -> None:
    head = make(loss).half()
    output = head(torch.randn(3, SIZE).half(), torch.tensor([0, 1, 19]))
    assert output.loss.dtype == torch.float32
    assert bool(output.loss.isfinite())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("loss", LOSSES)
def test_accelerator_agrees_with_cpu(loss: str, rate: float) -> None:
    x, labels = torch.randn(5, SIZE, dtype=torch.float64), torch.tensor([0, 3, 3, 19, 7])
    found = []
    for device in ("cpu", "cuda"):
        head = make(loss, sample_rate=rate).double().to(device)
        head(x.to(device), labels.to(device)).loss.backward()
        assert head.centers.grad is not None
        found.append(head.centers.grad.cpu())
    torch.testing.assert_close(found[0], found[1])


def test_unit_storage_overwrites_and_does_not_project() -> None:
    head = make("normface", center_storage="unit").double()
    x, labels = torch.randn(3, SIZE, dtype=torch.float64), torch.tensor([0, 1, 1])
    raw = head.centers.detach().clone()
    head(x, labels).loss.backward()
    directions = raw / raw.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head.centers.detach(), directions)
    p = torch.softmax(30 * (x / x.norm(dim=1, keepdim=True)) @ directions.T, dim=1)
    p[torch.arange(3), labels] -= 1
    expected = 30 / 3 * p.T @ (x / x.norm(dim=1, keepdim=True))
    torch.testing.assert_close(head.centers.grad, expected)


def test_statistics() -> None:
    head = make("uniface", classes=SIZE, args={"bias_init": "constant", "bias_value": 16.0})
    with torch.no_grad():
        head.centers.copy_(torch.eye(SIZE))
    x = torch.eye(SIZE)[[0, 1, 2, 3]] * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    stats = head(x, torch.tensor([0, 1, 7, 3])).stats
    assert float(stats["accuracy"]) == 0.75
    assert float(stats["target_cos"]) == 0.75
    assert float(stats["norm"]) == 2.5
    assert float(stats["norm_std"]) == pytest.approx(1.25**0.5)
    assert float(stats["bias"]) == 16.0
    assert float(stats["threshold"]) == 0.25
    assert not any(value.requires_grad for value in stats.values())


def test_broken_embeddings_are_not_counted_as_right() -> None:
    head = make()
    for value in (0.0, torch.nan):
        x = torch.full((2, SIZE), value)
        assert float(head(x, torch.tensor([0, 1])).stats["accuracy"]) == 0.0


def test_terms_sum_to_the_loss() -> None:
    head = make()
    head.margin.penalty = lambda norm: 2 * norm  # type: ignore[method-assign]
    x = torch.ones(2, SIZE)
    output = head(x, torch.tensor([0, 1]))
    assert set(output.terms) == {"softmax", "penalty"}
    torch.testing.assert_close(output.terms["penalty"], 2 * x.norm(dim=1).mean())
    torch.testing.assert_close(output.loss, output.terms["softmax"] + output.terms["penalty"])


def test_parameter_groups() -> None:
    (alone,) = make("cosface").parameter_groups()
    assert (alone["lr_mult"], alone["weight_decay"]) == (1.0, None)
    args = {"bias_lr_mult": 0.1, "bias_weight_decay": 0.0}
    for loss, shape in (("uniface", (1,)), ("uniface_bce", (20,))):
        head = make(loss, args=args)
        groups = head.parameter_groups()
        trained = [parameter for group in groups for parameter in group["params"]]
        assert {id(p) for p in trained} == {id(p) for p in head.parameters()}
        assert trained[1].shape == shape
        assert (groups[1]["lr_mult"], groups[1]["weight_decay"]) == (0.1, 0.0)


def test_what_has_a_class_axis() -> None:
    assert make("uniface").class_axis == {"centers"}
    head = make("uniface_bce")
    assert head.class_axis == {"centers", "bias"}
    assert head.class_axis <= set(head.state_dict())


def test_steps_are_counted_in_training_only() -> None:
    head = make()
    x, labels = torch.randn(2, SIZE), torch.tensor([0, 1])
    for _ in range(3):
        head(x, labels)
    head.eval()
    head(x, labels)
    assert int(head.state_dict()["step"]) == 3


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sample_rate": 0.0}, "sample_rate = 0.0"),
        ({"sample_rate": 1.5}, "sample_rate = 1.5"),
        ({"center_storage": "unti"}, "center_storage = 'unti'.*unit"),
    ],
)
def test_impossible_heads_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**keywords)


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((2, SIZE), [0, 20], "label 20: must be 0 to 19"),
        ((2, SIZE), [-1, 0], "label -1: must be 0 to 19"),
        ((2, SIZE), [0], "labels of shape"),
        ((2, SIZE + 1), [0, 1], r"needs \(b, 8\)"),
    ],
)
def test_wrong_batches_are_refused(shape: Any, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(torch.zeros(shape), torch.tensor(labels))
