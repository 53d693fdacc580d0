"""MS-MLP: chunks of the channels move apart and are mixed by kernels that grow (Zheng et al. 2022, arXiv 2202.06510).

The further a chunk moves, the larger its kernel. Facts from github.com/JegZheng/MS-MLP.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv

_MOVES = (-2, -1, 0, 1, 2)  # of the five chunks, in positions; what leaves the map comes in at the other side
_KERNELS = ((1, 1, 3, 5, 7), (1, 3, 3, 5, 7), (1, 5, 5, 5, 7), (1, 7, 7, 7, 7))  # by stage


class MixShift(nn.Module):
    """Five chunks of channels, each moved and convolved, along the rows and along the columns; the two are added."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        size = -(-place.channels // len(_MOVES))
        self.sizes = [min(size, place.channels - first) for first in range(0, place.channels, size)]
        self.moves, kernels = _MOVES[: len(self.sizes)], _KERNELS[min(place.stage, 3)][: len(self.sizes)]
        self.across, self.down = (
            nn.ModuleList(DepthwiseConv(size, kernel, **dd) for size, kernel in zip(self.sizes, kernels, strict=True))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        chunks = x.split(self.sizes, -1)

        def mix(convs: nn.ModuleList, axis: int) -> Tensor:
            parts = zip(convs, chunks, self.moves, strict=True)
            return torch.cat([conv(chunk.roll(move, axis)) for conv, chunk, move in parts], -1)

        return mix(self.across, 2) + mix(self.down, 1)


register_branch("ms_mlp", MixShift)
