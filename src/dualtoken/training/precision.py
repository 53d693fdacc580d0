"""Which number format trains quickest here: known for GPUs, measured on CPUs that have bf16 units."""

from __future__ import annotations

import time
from typing import Literal

import torch

WORTH = 1.3  # times as quick as float32, or its exactness is worth more


def choose_precision(device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """`bf16-mixed` on a GPU that computes in it, and on a CPU where a measurement says that it pays.

    Without AVX-512 or AMX a CPU emulates bf16 and is many times slower, so nothing is measured there.
    """
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if device.type != "cpu" or not has_bf16_units():
        return "32-true"
    return "bf16-mixed" if product_seconds(torch.float32) > WORTH * product_seconds(torch.bfloat16) else "32-true"


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bf16 numbers in hardware."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capabilities or "AMX" in capabilities


def product_seconds(dtype: torch.dtype, rounds: int = 5) -> float:
    """The best time of a matrix product of the size that a stage of our networks computes for a batch."""
    rows, weights = torch.randn(4096, 256).to(dtype), torch.randn(1024, 256).to(dtype)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        torch.nn.functional.linear(rows, weights)
        times.append(time.perf_counter() - start)
    return min(times[1:])  # the first one warms up
