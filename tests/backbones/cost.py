"""What a net costs: multiply-adds for one image, counted without computing anything."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from facerec.backbones.base import Backbone


def multiply_adds(backbone: Backbone) -> int:
    """Those of convolutions, linear layers and attention, for an image of the net's own size.

    Args:
        backbone: On the `meta` device, in evaluation mode.
    """
    image = torch.empty(1, 3, backbone.input_size, backbone.input_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(image)
    return int(counter.get_total_flops()) // 2
