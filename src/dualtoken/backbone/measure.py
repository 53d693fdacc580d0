"""How large and how costly a network is."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, trained or not; buffers are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_size: tuple[int, int] = (224, 224), in_chans: int = 3) -> int:
    """Multiply-accumulates for one image: matrix products and convolutions, attention's two products included.

    The papers of this family call them FLOPs. Counted by torch's own counter, whose unit is twice as small.

    Args:
        image_size: (height, width) in pixels.
    """
    # On the meta device nothing is computed and the model itself is left alone.
    copy = deepcopy(model).to("meta").eval().requires_grad_(False)
    image = torch.zeros(1, in_chans, *image_size, device="meta", dtype=next(copy.parameters()).dtype)
    with FlopCounterMode(display=False) as counter:
        copy(image)
    return int(counter.get_total_flops()) // 2
