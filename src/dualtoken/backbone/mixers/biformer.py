"""BiFormer: each region attends to the few regions that it resembles most (Zhu et al. 2023, arXiv 2303.08810).

Facts from github.com/rayleizhu/BiFormer, the version that its weights were trained with (`bra_legacy`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv, attend
from dualtoken.backbone.official import OFFICIAL, Official, numbered

_SIDE = 7  # regions along each side of the map


class RoutedAttention(nn.Module):
    """7 x 7 regions; the means of queries and keys choose 1, 4 or 16 regions (by stage) for each; attention to those.

    A depth-wise 5 x 5 convolution of the values is added. Maps that 7 does not divide are padded with zeros.
    """

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, self.heads, self.scale = place.channels, place.heads, place.channels**-0.5  # of all channels
        self.chosen = (1, 4, 16)[place.stage]
        self.local = DepthwiseConv(channels, 5, **dd)
        self.qkv = nn.Linear(channels, 3 * channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        q, k, v = self.qkv(F.pad(x, (0, 0, 0, -width % _SIDE, 0, -height % _SIDE))).chunk(3, dim=-1)
        local = self.local(v)
        queries, keys, values = self._regions(q), self._regions(k), self._regions(v)  # (B, 49, n, C)
        alike = torch.matmul(queries.detach().mean(2), keys.detach().mean(2).transpose(1, 2))  # (B, 49, 49)
        best = alike.topk(self.chosen, dim=-1).indices  # (B, 49, chosen)
        best = best + _SIDE**2 * torch.arange(x.shape[0], device=x.device)[:, None, None]  # counted over the batch
        keys, values = (part.flatten(0, 1)[best].flatten(2, 3) for part in (keys, values))  # (B, 49, chosen * n, C)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in (queries, keys, values))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)  # (B, 49, nh, n, hd)
        y = y.transpose(2, 3).flatten(3).unflatten(2, (local.shape[1] // _SIDE, -1))  # (B, 49, h, w, C)
        y = y.unflatten(1, (_SIDE, _SIDE)).transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, H, W, C)
        return self.proj((y + local)[:, :height, :width])

    def _regions(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, 49, positions of a region, C)"""
        x = x.unflatten(2, (_SIDE, -1)).unflatten(1, (_SIDE, -1)).transpose(2, 3)  # (B, 7, 7, h, w, C)
        return x.flatten(3, 4).flatten(1, 2)


class FullAttention(nn.Module):
    """Attention with 8 heads over the whole map, plus a depth-wise 5 x 5 convolution of its input."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        self.qkv = nn.Linear(channels, 3 * channels, bias=False, **dd)
        self.proj = nn.Linear(channels, channels, **dd)
        self.local = DepthwiseConv(channels, 5, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attend(q, k, v, 8) + self.local(x))


def _by_stage(place: Place, **dd: Any) -> nn.Module:
    return FullAttention(place, **dd) if place.stage > 2 else RoutedAttention(place, **dd)


register_branch("biformer", _by_stage)

OFFICIAL["biformer"] = Official(
    (
        (r"^stem\.(\d)\.conv", numbered("downsample_layers.0.{}", 3)),
        (r"^stem\.(\d)\.norm", numbered("downsample_layers.0.{}", 3, 1)),
        (r"^stages\.(\d)\.merge\.0\.conv", r"downsample_layers.\1.0"),
        (r"^stages\.(\d)\.merge\.0\.norm", r"downsample_layers.\1.1"),
        (r"\.blocks\.", "."),
        (r"\.position\.", ".pos_embed."),
        (r"\.mixer\.local", ".attn.lepe"),
        (r"(?<=^stages\.[0-2]\.)(\d+)\.mixer\.qkv", r"\1.attn.qkv.qkv"),
        (r"(?<=^stages\.[0-2]\.)(\d+)\.mixer\.proj", r"\1.attn.wo"),
        (r"\.mixer\.", ".attn."),
        (r"\.ffn\.fc1", ".mlp.0"),
        (r"\.ffn\.fc2", ".mlp.3"),
    )
)
