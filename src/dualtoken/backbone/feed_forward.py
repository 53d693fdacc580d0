"""LightViT's feed-forward with bi-dimensional attention."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from dualtoken.backbone.layers import ChannelNorm, Mlp


class FeedForward(nn.Module):
    """x + BiDim(FFN(norm(x)))"""

    def __init__(self, channels: int, hidden: int, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, **dd)
        self.mlp = Mlp(channels, hidden, **dd)
        self.attention = BiDimAttention(channels, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.attention(self.mlp(self.norm(x))))


class BiDimAttention(nn.Module):
    """LightViT's bi-dimensional attention: gate each channel and each position, both by a sigmoid.

    The channel gate reads the mean over positions, the spatial gate both that mean and the position itself.
    """

    def __init__(self, channels: int, ratio: float = 0.25, **dd: Any) -> None:
        super().__init__()
        self.reduced = int(channels * ratio)
        self.norm = ChannelNorm(channels, **dd)
        self.global_reduce = nn.Linear(channels, self.reduced, **dd)
        self.local_reduce = nn.Linear(channels, self.reduced, **dd)
        self.act = nn.GELU()
        self.channel_select = nn.Linear(self.reduced, channels, **dd)
        self.spatial_local = nn.Linear(self.reduced, 1, **dd)  # one linear over both, applied in two parts:
        self.spatial_global = nn.Linear(self.reduced, 1, bias=False, **dd)  # the global part is one position

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        normed = self.norm(x)
        x_global = self.act(self.global_reduce(normed.mean((1, 2), keepdim=True)))  # (B, 1, 1, C/4)
        x_local = self.act(self.local_reduce(normed))  # (B, H, W, C/4)
        channel_gate = torch.sigmoid(self.channel_select(x_global))  # (B, 1, 1, C)
        spatial_gate = torch.sigmoid(self.spatial_local(x_local) + self.spatial_global(x_global))  # (B, H, W, 1)
        return x * channel_gate * spatial_gate
