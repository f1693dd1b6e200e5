"""An epoch held against what the device could do: the columns of a history that say what binds.

`possible_images_per_second`, and shares of the epoch's time: `bound.compute`, `bound.memory` and
`bound.communication` of it would suffice at the device's measured rates, and for `bound.decode` of
it the loop waited for images. What the first three leave is lost between them: kernels that reach
less than the best ones do, launches, augmentation. `bound_by` names what to mend first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist

from facerec.config import TrainConfig
from facerec.planning import devices
from facerec.planning.cost import NetCost
from facerec.planning.roofline import BOUNDS, Bound, Step, bound

POSSIBLE, BOUND_BY, PREFIX = "possible_images_per_second", "bound_by", "bound."
WAITED = 0.1  # share of an epoch spent waiting for images from which decoding binds

T = TypeVar("T")


class Meter:
    """Holds an epoch against what the device could do.

    Args:
        found: The bound of a step.
    """

    def __init__(self, found: Bound) -> None:
        self.bound = found
        self._waited = self._lasted = 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand out an epoch's batches; the time until each is there is time spent waiting."""
        self._waited, began = 0.0, time.perf_counter()
        asked = began
        try:
            for batch in batches:
                self._waited += time.perf_counter() - asked
                yield batch
                asked = time.perf_counter()
        finally:
            self._lasted = time.perf_counter() - began

    def row(self, images_per_second: float) -> dict[str, float]:
        """Give the columns of an epoch: what is possible, and shares of its time.

        Args:
            images_per_second: What the epoch achieved.
        """
        shares = {
            name: float(getattr(self.bound, name)) * images_per_second / self.bound.images
            for name in BOUNDS
        }
        shares["decode"] = self._waited / max(self._lasted, 1e-9)
        return {
            POSSIBLE: self.bound.images_per_second,
            **{f"{PREFIX}{name}": share for name, share in shares.items()},
        }


def bound_by(row: Mapping[str, float]) -> str:
    """Name what binds an epoch, from the columns of its row.

    Decoding, where the loop waited for images during a tenth of the time or more: they are made
    ahead, so it waits only where they come too slowly. Otherwise what most of the least time goes
    to.
    """
    if row[f"{PREFIX}decode"] >= WAITED:
        return "decode"
    return max(BOUNDS, key=lambda name: row[f"{PREFIX}{name}"])


def meter(
    config: TrainConfig,
    net: NetCost,
    *,
    classes: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Meter:
    """Make the meter of a training, for which its device is measured; every worker calls it.

    Args:
        config: The training.
        net: Its backbone's cost.
        classes: Of its data.
        device: Of this worker.
        dtype: In which the backbone computes.
    """
    step = Step.of(
        config,
        net,
        classes=classes,
        workers=dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
        number_bytes=dtype.itemsize,
    )
    rates = replace(devices.measure(device, dtype), link=devices.measure_link(device))
    return Meter(bound(step, rates))


def said(row: Mapping[str, float]) -> str:
    """Say in words how an epoch stands; empty for a row without the columns.

    Args:
        row: Its columns.
    """
    if POSSIBLE not in row:
        return ""
    share = row["images_per_second"] / row[POSSIBLE]
    return f"{share:.0%} of possible, bound by {bound_by(row)}"
