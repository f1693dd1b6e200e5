"""Memory that is kept between steps, and given back after the training."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from facerec import pages

CPU = torch.device("cpu")
MB = 1 << 20


def faults_of(steps: int) -> int:
    """Pages that the kernel gave to steps of a net whose feature maps have 48 MB."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.PReLU(), nn.Sigmoid(), nn.PReLU())
    images = torch.rand(30, 32, 112, 112)
    before = 0
    for step in range(steps + 2):
        if step == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        net.zero_grad()
        net(images).square().sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(pages._gnu() is None, reason="another C library than GNU's")
def test_a_step_finds_its_memory_where_the_one_before_left_it() -> None:
    usual = faults_of(2)
    with pages.kept(CPU):
        with pages.kept(CPU):
            pass
        assert faults_of(2) < usual / 3  # the inner one's end changes nothing
        within = resident()
    assert resident() < within - 96 * MB


def test_an_accelerators_memory_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_gnu", lambda: pytest.fail("asked for the C library"))
    with pages.kept(torch.device("cuda")):
        pass
