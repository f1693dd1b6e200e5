"""In what numbers the backbone computes, and the scaled loss that half precision needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FIRST_SCALE = 2.0**16
LARGEST_SCALE = 2.0**24  # beyond, a loss of thousands nears the end of single precision
DOUBLED_AFTER = 2000  # steps without an infinity


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What `precision` means on a device.

    Args:
        precision: `fp32`, `bf16`, `fp16`, or `auto`: bf16 on an accelerator that has it, fp32
            elsewhere.
        device: Where the backbone runs.
    """
    if precision != "auto":
        return PRECISIONS[precision]
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if bf16 else torch.float32


class LossScaler:
    """The factor on the loss that keeps small gradients above the least number of float16.

    It starts at 65,536, is halved after each step whose gradient was not finite (that step changes
    no weight) and doubled after 2,000 steps in a row without one. Paper: Mixed Precision Training,
    ICLR 2018. `torch.amp.GradScaler` does the same; this one takes the one norm that is computed
    anyway, the same on all workers, where that one looks at each worker's gradients by themselves.
    All of it stays on the device.

    Args:
        device: Where the loss lies.

    Attributes:
        scale: The present factor, 0-d, float32.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(FIRST_SCALE, device=device)
        self._good = torch.zeros((), dtype=torch.int32, device=device)

    def settle(self, overflowed: Tensor) -> None:
        """Find the next step's factor.

        Args:
            overflowed: Whether this step's gradient was not finite, 0-d, bool.
        """
        good = (self._good + 1).masked_fill(overflowed, 0)
        full = good == DOUBLED_AFTER
        factor = 1.0 + full.float() - 0.5 * overflowed.float()
        self.scale = (self.scale * factor).clamp(max=LARGEST_SCALE)
        self._good = good.masked_fill(full, 0)

    def state_dict(self) -> Mapping[str, Any]:
        """Both numbers; waits for the device."""
        return {"scale": float(self.scale), "good": int(self._good)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.scale = self.scale.new_tensor(state["scale"])
        self._good = self._good.new_tensor(state["good"])
