"""The likelihood of SCF against SciPy, and the head that trains nothing but the confidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ive, ivp

from facerec.confidence import ConfidenceHead
from facerec.config import Component
from facerec.head import build_head
from facerec.losses.scf import ConfidenceLikelihood, log_bessel
from facerec.parallel import ClassShard


@pytest.mark.parametrize("size", [2, 3, 8, 64, 128])
def test_log_bessel(size: int) -> None:
    order = size / 2 - 1
    x = torch.tensor([1e-3, 0.1, 1.0, 10.0, 100.0, 700.0], dtype=torch.float64)
    x.requires_grad_()
    found = log_bessel(order, x)
    found.sum().backward()
    given = x.detach().numpy()
    expected = np.log(ive(order, given)) + given
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-12, atol=1e-12)
    few = given[:-1]
    assert x.grad is not None
    slope = ivp(order, few) / (ive(order, few) * np.exp(few))
    np.testing.assert_allclose(x.grad[:-1], slope, rtol=1e-10, atol=1e-10)


def test_log_bessel_where_the_function_underflows() -> None:
    """I_255(1) is 1e-500: by its series, ln I_v(x) = v ln(x/2) - ln v! for small x."""
    found = float(log_bessel(255.0, torch.tensor([1e-3], dtype=torch.float64)))
    expected = 255 * math.log(5e-4) - math.lgamma(256) + 2.5e-7 / 256
    assert found == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_rows(floor: float) -> None:
    cos = torch.tensor([0.9, -0.2, 0.1], dtype=torch.float64)
    kappa = torch.tensor([3.0, 50.0, 300.0], dtype=torch.float64)
    found = ConfidenceLikelihood(radius=30.0, confidence_floor=floor).rows(cos, kappa, 16)
    for n, (c, k) in enumerate(zip(cos.tolist(), kappa.tolist(), strict=True)):
        expected = -k * c - 7 * math.log(k + floor) + math.log(floor + ive(7, k)) + k
        expected += 8 * math.log(2 * math.pi) + 16 * math.log(30)
        assert float(found[n]) == pytest.approx(expected, rel=1e-12)


def test_the_head_trains_only_the_confidence() -> None:
    head = build_head(Component("scf"), ClassShard(5), 8, sample_rate=0.5)
    assert isinstance(head, ConfidenceHead)
    assert not head.trains_backbone
    assert not head.centers.requires_grad
    trained = [p for group in head.parameter_groups() for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in head.net.parameters()}
    start = head.confidence(torch.randn(4, 8))
    assert bool(((start > 4) & (start < 16)).all())  # near the embedding size
    wild = head.confidence(1e6 * torch.randn(4, 8))
    assert bool(wild.isfinite().all())
    assert bool((wild > 0).all())


@pytest.mark.slow
def test_the_confidence_learns_which_embeddings_lie_near_their_centers() -> None:
    head = build_head(Component("scf"), ClassShard(20), 8)
    assert isinstance(head, ConfidenceHead)
    optimizer = torch.optim.Adam(list(head.net.parameters()), lr=1e-2)
    draw = torch.Generator().manual_seed(2)
    for _ in range(150):
        labels = torch.randint(20, (64,), generator=draw)
        sharp = torch.rand(64, 1, generator=draw)
        w = head.centers[labels] / head.centers[labels].norm(dim=1, keepdim=True)
        # A blurred face has a short embedding that points anywhere.
        x = 4 * sharp * w + torch.randn(64, 8, generator=draw) * 0.3
        optimizer.zero_grad()
        head(x, labels).loss.backward()
        optimizer.step()
    directions = head.centers[:10] / head.centers[:10].norm(dim=1, keepdim=True)
    clear, blurred = head.confidence(4 * directions), head.confidence(0.3 * directions)
    assert float(clear.detach().min()) > 2 * float(blurred.detach().max())
