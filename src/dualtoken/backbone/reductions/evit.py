"""EViT: what the class token looks at stays (Liang et al. 2022, arXiv 2202.07800).

Facts from github.com/youweiliang/evit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dualtoken.backbone.reductions import REDUCTIONS, Beside, ReducingBlock, Spot, take


class EViT(ReducingBlock):
    """Keep the tokens that the class token looks at most; the others become one, weighed by that look.

    After a quarter, a half and three quarters of the blocks the share `keep` is kept of the tokens that are left.
    """

    def __init__(self, block: nn.Module, keep: float) -> None:
        super().__init__(block)
        self.keep = keep

    def reduce(self, x: Tensor, beside: Beside, weights: Tensor, keys: Tensor) -> tuple[Tensor, Beside]:
        """(B, N, C) to (B, 1 + ceil(keep * (N - 1)) + 1, C)"""
        number = x.shape[1] - 1
        kept = math.ceil(self.keep * number)
        look, order = weights[:, :, 0, 1:].mean(1).topk(number)  # (B, N - 1), the most first
        tokens = take(x[:, 1:], order)
        rest = (tokens[:, kept:] * look[:, kept:, None]).sum(1, keepdim=True)
        return torch.cat([x[:, :1], tokens[:, :kept], rest], 1), beside


def _evit(block: nn.Module, spot: Spot) -> ReducingBlock | None:
    return EViT(block, spot.keep) if spot.keep < 1 and spot.quarter else None


REDUCTIONS["evit"] = _evit
