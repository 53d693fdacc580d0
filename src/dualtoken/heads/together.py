"""Losses of several processes as one would have them: each divides by what all have counted, and draws as one would."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _SumOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_of_all(x: Tensor) -> Tensor:
    """The sum of a tensor over the processes; so is its gradient, since each process's loss depends on all of them."""
    return x if processes() == 1 else _SumOfAll.apply(x)


def mean_of_all(count: Tensor) -> Tensor:
    """The mean of a count over the processes: what a sum is divided by for the mean over all that they counted."""
    if processes() == 1:
        return count
    mean = count.float()
    dist.all_reduce(mean)
    return mean / processes()


def share(count: int, device: torch.device) -> Tensor:
    """What a mean over `count` things of this process weighs, for the mean over those of all processes; 1 for one."""
    own = torch.tensor(float(max(1, count)), device=device)
    if processes() == 1:
        return torch.ones_like(own)
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return own * processes() / total.clamp(min=1)


def common_seed(device: torch.device) -> int:
    """A seed that the first process draws for all."""
    seed = torch.randint(2**62, ()).to(device)
    if processes() > 1:
        dist.broadcast(seed, 0)
    return int(seed)


class EvenSampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]  # torchvision has no types here
    """torchvision's random choice of positions to learn from, for each image by a seed of its own.

    An image has the same place in the whole batch, and so the same seed, however many processes share it.

    Attributes:
        seed: of the whole batch.
        count: positions that were chosen last, and `positives` among them.
    """

    seed = count = positives = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        size, rank = processes(), dist.get_rank() if processes() > 1 else 0
        positive, negative = [], []
        for place, matched in enumerate(matched_idxs):
            with torch.random.fork_rng([matched.device] if matched.is_cuda else []):
                torch.manual_seed(self.seed + place * size + rank)
                (right,), (wrong,) = super().__call__([matched])
            positive.append(right)
            negative.append(wrong)
        self.positives = sum(int(mask.sum()) for mask in positive)
        self.count = self.positives + sum(int(mask.sum()) for mask in negative)
        return positive, negative
