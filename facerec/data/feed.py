"""Batches on their way to the device, so that the step finds them there."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facerec.data.stream import Batch, Stream, prefetch


@dataclass(frozen=True)
class Sent:
    """A batch as tensors on the device that trains.

    Attributes:
        images: uint8 RGB, (b, H, W, 3).
        labels: int64, (b,).
        draws: float32, (b, 25); None without augmentation.
        arrived: When all three are there; None where nothing travels.
    """

    images: Tensor
    labels: Tensor
    draws: Tensor | None
    arrived: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Let the device's present work wait for the batch; the host does not."""
        if self.arrived is None:
            return
        stream = torch.cuda.current_stream(self.images.device)
        stream.wait_event(self.arrived)
        for tensor in (self.images, self.labels, self.draws):
            if tensor is not None:  # its memory is not given away while this work needs it
                tensor.record_stream(stream)


def feed(stream: Stream, device: torch.device) -> Iterator[Sent]:
    """The batches of a stream, made and sent by a thread, a few ahead.

    To an accelerator they go through pinned memory and in a stream of their own, beside the
    training's kernels. On the CPU they are tensors over the same memory.

    Args:
        stream: An epoch.
        device: Where the training runs.

    Raises:
        DataError: An image cannot be decoded.
    """
    return prefetch(_sent(stream.made(), device))


def _sent(batches: Generator[Batch], device: torch.device) -> Generator[Sent]:
    """Bring batches to a device, in the thread that makes them."""
    with closing(batches):
        if device.type != "cuda":
            for batch in batches:
                draws = None if batch.draws is None else torch.from_numpy(batch.draws)
                labels = torch.from_numpy(batch.labels)
                yield Sent(torch.as_tensor(batch.images), labels, draws)
            return
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        while True:
            with torch.cuda.device(device), torch.cuda.stream(side):
                made = next(batches, None)
                if made is None:
                    return
                sent = Sent(
                    _pinned(made.images, device),
                    _pinned(made.labels, device),
                    None if made.draws is None else _pinned(made.draws, device),
                    side.record_event(),
                )
            yield sent


def _pinned(array: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """A copy on the device, that of an array by way of pinned memory."""
    if isinstance(array, Tensor):
        return array  # `data.cache=device`: it lies there
    return torch.from_numpy(array).pin_memory().to(device, non_blocking=True)
