"""RMT: attention that fades with the Manhattan distance (Fan et al. 2024, arXiv 2309.11523).

Each head adds its own log decay times the distance to its logits; early stages attend along rows and then along
columns. The paper multiplies the softmax by the decay, the official code (github.com/qhfan/RMT, source of facts) adds
its logarithm before: so does this.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv, join_heads, rows_and_columns, split_heads
from dualtoken.backbone.modules import ChannelsFirst, FromImages
from dualtoken.backbone.official import OFFICIAL, Official, numbered
from dualtoken.backbone.parts import HEADS, STEMS, Head
from dualtoken.backbone.stem import ConvNormAct


class ManhattanAttention(nn.Module):
    """Attention with rotary phases and a decay by distance, plus a depth-wise 5 x 5 convolution of the values.

    Options: `decay_range`, how far the heads' decays differ, per stage; `whole_from`, the first stage whose positions
    attend to all others at once instead of along rows and columns.
    """

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, self.heads = place.channels, place.heads
        self.spread = place.options.get("decay_range", (4, 4, 6, 6))[place.stage]
        self.whole = place.stage >= place.options.get("whole_from", 3)
        self.q = nn.Linear(channels, channels, **dd)
        self.k = nn.Linear(channels, channels, **dd)
        self.v = nn.Linear(channels, channels, **dd)
        self.local = DepthwiseConv(channels, 5, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        v = self.v(x)
        q, k = self._turn(self.q(x)), self._turn(self.k(x))  # (B, nh, N, hd)
        if self.whole:
            y = F.scaled_dot_product_attention(q, k, split_heads(v, self.heads), attn_mask=self._fade_all(x))
            mixed = join_heads(y, height, width)
        else:
            q, k = (t.unflatten(2, (height, width)).transpose(1, 2) for t in (q, k))  # (B, H, nh, W, hd)
            values = v.unflatten(-1, (self.heads, -1)).transpose(2, 3)  # (B, H, nh, W, hd)
            values = F.scaled_dot_product_attention(q, k, values, attn_mask=self._fade(width, x))
            q, k, values = (t.transpose(1, 3) for t in (q, k, values))  # (B, W, nh, H, hd)
            values = F.scaled_dot_product_attention(q, k, values, attn_mask=self._fade(height, x))
            mixed = values.permute(0, 3, 1, 2, 4).flatten(3)  # (B, H, W, C)
        return self.proj(mixed + self.local(v))

    def _turn(self, x: Tensor) -> Tensor:
        """Rotate pairs of channels by the position's number in reading order: (B, H, W, C) to (B, nh, N, hd)."""
        x = split_heads(x, self.heads)
        pairs = x.shape[-1] // 2
        speed = 10000 ** -torch.linspace(0, 1, pairs, device=x.device)
        angle = torch.arange(x.shape[2], device=x.device)[:, None] * speed  # (N, hd / 2)
        sin, cos = angle.sin().to(x.dtype), angle.cos().to(x.dtype)
        even, odd = x.unflatten(-1, (pairs, 2)).unbind(-1)
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)

    def _decay(self, like: Tensor) -> Tensor:
        share = torch.arange(self.heads, device=like.device, dtype=torch.float32) / self.heads
        return torch.log(1 - 2 ** (-2 - self.spread * share))[:, None, None]  # (nh, 1, 1), negative

    def _fade(self, size: int, like: Tensor) -> Tensor:
        """(nh, size, size): the logarithm of the decay from each place of a line to each."""
        place = torch.arange(size, device=like.device)
        return ((place[:, None] - place).abs() * self._decay(like)).to(like.dtype)

    def _fade_all(self, like: Tensor) -> Tensor:
        """(nh, N, N): the same from each position of the map to each."""
        down, right = rows_and_columns(like)
        distance = (down[:, None] - down).abs() + (right[:, None] - right).abs()
        return (distance * self._decay(like)).to(like.dtype)


def _four_convs(in_chans: int, channels: int, **dd: Any) -> nn.Module:
    half = channels // 2
    return FromImages(
        ConvNormAct(in_chans, half, 2, bias=True, **dd),
        ConvNormAct(half, half, bias=True, **dd),
        ConvNormAct(half, channels, 2, bias=True, **dd),
        ConvNormAct(channels, channels, act=None, bias=True, **dd),
    )


def _neck_1024(channels: int, **dd: Any) -> Head:
    """1024 channels at each position, batch norm, SiLU, and only then the mean."""
    neck = ChannelsFirst(ConvNormAct(channels, 1024, kernel=1, act=nn.SiLU, bias=True, **dd))
    return Head(nn.Identity(), 1024, neck=neck)


register_branch("rmt", ManhattanAttention)
STEMS["four_convs"] = _four_convs
HEADS["neck_1024"] = _neck_1024

OFFICIAL["rmt"] = Official(
    (
        (r"^stem\.(\d)\.conv", numbered("patch_embed.proj.{}", 3)),
        (r"^stem\.(\d)\.norm", numbered("patch_embed.proj.{}", 3, 1)),
        (r"^stages\.(\d)\.merge\.0\.conv", numbered("layers.{}.downsample.reduction", 1, -1)),
        (r"^stages\.(\d)\.merge\.0\.norm", numbered("layers.{}.downsample.norm", 1, -1)),
        (r"^stages", "layers"),
        (r"\.position\.", ".pos.conv."),
        (r"\.norm1\.", ".retention_layer_norm."),
        (r"\.norm2\.", ".final_layer_norm."),
        (r"\.mixer\.(q|k|v)\.", r".retention.\1_proj."),
        (r"\.mixer\.proj\.", ".retention.out_proj."),
        (r"\.mixer\.local\.", ".retention.lepe.conv."),
        (r"\.ffn\.depthwise\.", ".ffn.dwconv.conv."),
        (r"\.scale(\d)\.weight", r".gamma_\1"),
        (r"^neck\.0\.conv", "proj"),
        (r"^neck\.0\.norm", "norm"),
    ),
    computed=r"\.Relpos\.",
)
