"""TransNeXt: near keys one by one and far ones pooled, in one softmax (Shi 2024, arXiv 2311.17132).

Facts from github.com/DaiShiResearch/TransNeXt (the version without a kernel of its own), which takes images of one
size; here the offsets between positions and pooled cells follow the map, and the last cells may be smaller.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv, channels_first, channels_last, join_heads, split_heads
from dualtoken.backbone.parts import FFNS, STEMS, conv7_layer

_NEAR = 9  # positions of a 3 x 3 neighbourhood


class OffsetBias(nn.Module):
    """A small network gives each head's bias for the offset of a position from a cell, in logarithmic steps."""

    def __init__(self, place: Place, cell: int, **dd: Any) -> None:
        super().__init__()
        self.cell, self.reach = cell, max(1, place.grid - 1)  # of the grid in training: it is 8 units wide
        self.fc1 = nn.Linear(2, 512, **dd)
        self.fc2 = nn.Linear(512, place.heads, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """For a map (B, H, W, C): (nh, N, cells)"""
        (down, rows), (right, columns) = (self._along(size, x) for size in x.shape[1:3])
        pairs = torch.stack(torch.meshgrid(down, right, indexing="ij"), -1).flatten(0, 1)
        table = self.fc2(F.relu(self.fc1(pairs)))  # (offsets, nh)
        index = rows[:, None, :, None] * right.shape[0] + columns[None, :, None, :]  # (H, W, h, w)
        return table[index.flatten(2).flatten(0, 1)].permute(2, 0, 1)

    def _along(self, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The offsets that occur along one axis, and which of them each position has from each cell (size, cells)."""
        far = self.cell * (-(-size // self.cell) - 1)  # of the last cell from the first
        offset = torch.arange(-far, size, device=like.device).to(like.dtype) - (self.cell - 1) / 2
        units = offset / self.reach * 8
        place = torch.arange(size, device=like.device)[:, None]
        cells = torch.arange(0, size, self.cell, device=like.device)
        return units.sign() * (units.abs() + 1).log2() / 3, place - cells + far


class CosineAttention(nn.Module):
    """Attention by the cosine of queries and keys, times a learned temperature and the logarithm of their number."""

    def __init__(self, place: Place, cell: int = 1, **dd: Any) -> None:
        super().__init__()
        self.heads, self.cell = place.heads, cell
        channels, per_head = place.channels, place.channels // place.heads
        self.temperature = nn.Parameter(torch.empty(self.heads, 1, 1, **dd))
        self.query = nn.Parameter(torch.empty(self.heads, 1, per_head, **dd))
        self.q = nn.Linear(channels, channels, **dd)
        self.kv = nn.Linear(channels, 2 * channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)
        self.offset_bias = OffsetBias(place, cell, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A temperature of 1 / 0.24 behind the softplus."""
        nn.init.constant_(self.temperature, math.log(math.exp(1 / 0.24) - 1))
        trunc_normal_(self.query, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        q = F.normalize(split_heads(self.q(x), self.heads), dim=-1)  # (B, nh, N, hd)
        k, v = (split_heads(part, self.heads) for part in self.kv(x).chunk(2, dim=-1))
        scaled = self._scaled(q) * math.log(height * width)
        logits = torch.matmul(scaled, F.normalize(k, dim=-1).transpose(2, 3)) + self.offset_bias(x)
        return self.proj(join_heads(torch.matmul(logits.softmax(-1), v), height, width))

    def _scaled(self, q: Tensor) -> Tensor:
        return (q + self.query) * F.softplus(self.temperature)


class AggregatedAttention(CosineAttention):
    """Keys are the 3 x 3 neighbours and the means of cells; neighbours' values also weigh by what the query says."""

    def __init__(self, place: Place, cell: int, **dd: Any) -> None:
        super().__init__(place, cell, **dd)
        channels, per_head = place.channels, place.channels // place.heads
        self.sr = nn.Linear(channels, channels, **dd)
        self.norm = nn.LayerNorm(channels, **dd)
        self.near_bias = nn.Parameter(torch.empty(self.heads, 1, _NEAR, **dd))
        self.near_tokens = nn.Parameter(torch.empty(self.heads, per_head, _NEAR, **dd))
        self.near_weight = nn.Parameter(torch.empty(self.heads, 1, _NEAR, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As the official code does."""
        super().reset_parameters()
        if hasattr(self, "near_weight"):
            trunc_normal_(self.near_bias, std=0.0004)
            trunc_normal_(self.near_tokens, std=0.02)
            nn.init.zeros_(self.near_weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        cells = channels_last(F.avg_pool2d(channels_first(F.gelu(self.sr(x))), self.cell, ceil_mode=True))
        far_k, far_v = (split_heads(part, self.heads) for part in self.kv(self.norm(cells)).chunk(2, dim=-1))
        k, v = self.kv(x).chunk(2, dim=-1)
        k = F.normalize(k.unflatten(-1, (self.heads, -1)), dim=-1).flatten(3)
        around = F.unfold(channels_first(torch.cat([k, v], -1)), 3, padding=1)  # (B, 2 * C * 9, N)
        near_k, near_v = around.unflatten(1, (2, self.heads, -1, _NEAR)).permute(1, 0, 2, 5, 3, 4)  # (B, nh, N, hd, 9)
        inside = F.unfold(x.new_ones(1, 1, height, width), 3, padding=1).transpose(1, 2)  # (1, N, 9)

        q = F.normalize(split_heads(self.q(x), self.heads), dim=-1)  # (B, nh, N, hd)
        scaled = self._scaled(q) * (inside.sum(-1, keepdim=True) + far_k.shape[2]).log()
        near = torch.matmul(scaled[..., None, :], near_k).squeeze(-2) + self.near_bias
        near = near.masked_fill(inside == 0, -torch.inf)
        far = torch.matmul(scaled, F.normalize(far_k, dim=-1).transpose(2, 3)) + self.offset_bias(x)
        near, far = torch.cat([near, far], -1).softmax(-1).split([_NEAR, far.shape[-1]], -1)
        near = near + torch.matmul(q, self.near_tokens) + self.near_weight  # (B, nh, N, 9)
        y = torch.matmul(near[..., None, :], near_v.transpose(-1, -2)).squeeze(-2) + torch.matmul(far, far_v)
        return self.proj(join_heads(y, height, width))


class GatedConvMlp(nn.Module):
    """Two thirds of the width: one half through a depth-wise 3 x 3 and GELU is the gate of the other."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        hidden = int(2 * int(place.channels * place.ratio) / 3)
        self.fc1 = nn.Linear(place.channels, 2 * hidden, **dd)
        self.depthwise = DepthwiseConv(hidden, 3, **dd)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, place.channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.act(self.depthwise(gate)) * value)


def _by_stage(place: Place, **dd: Any) -> nn.Module:
    """Cells of 8, 4 and 2 positions a side in the first three stages."""
    return CosineAttention(place, **dd) if place.stage > 2 else AggregatedAttention(place, 8 >> place.stage, **dd)


register_branch("transnext", _by_stage)
FFNS["gated_conv_mlp"] = GatedConvMlp
STEMS["conv7_layer_padded"] = partial(conv7_layer, padding=3)
