"""DaViT: attention within windows, then attention between channels, by turns (Ding et al. 2022, arXiv 2204.03645).

The network is timm's, a source of facts as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import join_heads, split_heads
from dualtoken.backbone.modules import PlainWindowAttention


class ChannelAttention(nn.Module):
    """The channels of a head attend to each other, over all positions: global at a cost linear in their number."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.heads = place.heads
        self.qkv = nn.Linear(place.channels, 3 * place.channels, **dd)
        self.proj = nn.Linear(place.channels, place.channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))  # (B, nh, N, hd)
        weight = torch.matmul(k.transpose(2, 3) * k.shape[-1] ** -0.5, v).softmax(-1)  # (B, nh, hd, hd)
        y = torch.matmul(q, weight.transpose(2, 3))  # (B, nh, N, hd)
        return self.proj(join_heads(y, x.shape[1], x.shape[2]))


def _by_turns(place: Place, **dd: Any) -> nn.Module:
    return ChannelAttention(place, **dd) if place.block % 2 else PlainWindowAttention(place, **dd)


register_branch("davit", _by_turns)
