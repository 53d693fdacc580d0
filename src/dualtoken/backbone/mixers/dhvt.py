"""DHVT: attention that looks at a summary of each head's channels too (Lu et al. 2022, arXiv 2210.05958).

For small data sets. Facts from github.com/ArieSeirack/DHVT. The mixer alone, for maps without a class token: there the
summaries' own answers go to that token, here they are keys and values only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import join_heads, split_heads


class HeadTokenAttention(nn.Module):
    """Each head's channels, averaged over the map, become a token with a learned position beside those of the map."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, self.heads, per_head = place.channels, place.heads, place.channels // place.heads
        self.qkv = nn.Linear(channels, 3 * channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)
        self.widen = nn.Linear(per_head, channels, **dd)
        self.norm = nn.LayerNorm(per_head, **dd)
        self.head_position = nn.Parameter(torch.empty(1, self.heads, channels, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal."""
        trunc_normal_(self.head_position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        means = self.widen(x.mean((1, 2)).unflatten(-1, (self.heads, -1)))  # (B, nh, C)
        summaries = F.gelu(self.norm(means.unflatten(-1, (self.heads, -1)))).flatten(2) + self.head_position
        joined = torch.cat([x.flatten(1, 2), summaries], 1)[:, :, None]  # (B, N + nh, 1, C)
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(joined).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q[:, :, : -self.heads], k, v)  # (B, nh, N, hd)
        return self.proj(join_heads(y, x.shape[1], x.shape[2]))


register_branch("dhvt", HeadTokenAttention)
