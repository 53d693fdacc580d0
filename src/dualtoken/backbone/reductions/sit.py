"""SiT: a small network says how the tokens are summed up in fewer (Zong et al. 2022, arXiv 2111.12624).

Facts from github.com/Sense-X/SiT, whose body is LV-ViT and whose training has a teacher that is left out here. The part
that sums up starts at random: the network has to be trained with it.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from dualtoken.backbone.reductions import REDUCTIONS, Beside, ReducingBlock, Spot


class SiT(ReducingBlock):
    """A block that first sums the image's tokens up in fewer ones, by weights that it reads from each token.

    After a quarter, a half and three quarters of the blocks there are `keep` times as many tokens as before.
    """

    def __init__(self, block: nn.Module, channels: int, kept: int) -> None:
        super().__init__(block)
        self.slim = Slimming(channels, kept, like=next(block.parameters()))

    def forward(self, x: Tensor, beside: Beside) -> tuple[Tensor, Beside]:
        """(B, N, C) to (B, 1 + kept, C)"""
        x = torch.cat([x[:, :1], self.slim(x[:, 1:])], 1)
        return super().forward(x, beside)

    def reduce(self, x: Tensor, beside: Beside, weights: Tensor, keys: Tensor) -> tuple[Tensor, Beside]:
        """As they are: this block does it before its attention."""
        return x, beside


class Slimming(nn.Module):
    """Each new token is a mean of the old ones, with its own weight for each of them."""

    def __init__(self, channels: int, kept: int, like: Tensor) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.norm = nn.LayerNorm(channels, **dd)
        self.fc1 = nn.Linear(channels, channels // 2, **dd)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(channels // 2, kept, **dd)
        self.scale = nn.Parameter(torch.ones(1, **dd))
        for layer in (self.fc1, self.fc2):
            trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) to (B, kept, C)"""
        logits = self.fc2(self.act(self.fc1(self.norm(tokens)))) * self.scale  # (B, N, kept)
        return torch.matmul(logits.softmax(1).transpose(1, 2), tokens)


def _sit(block: nn.Module, spot: Spot) -> ReducingBlock | None:
    if spot.keep == 1 or not spot.quarter:
        return None
    part = next(part for part in (1, 2, 3) if spot.depth * part // 4 == spot.block)
    return SiT(block, spot.channels, max(1, int(spot.tokens * spot.keep**part)))


REDUCTIONS["sit"] = _sit
