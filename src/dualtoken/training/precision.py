"""Which number format a run computes in, by what the device is: a machine that is busy chooses as an idle one does."""

from __future__ import annotations

from typing import Literal

import torch


def choose_precision(device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """`bf16-mixed` on a GPU that computes in it, float32 everywhere else.

    CPUs with AMX gain from bf16 too (`--set precision=bf16-mixed`); those without emulate it and are many times slower.
    """
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if bf16 else "32-true"
