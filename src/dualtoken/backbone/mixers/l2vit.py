"""L2ViT: window attention and linear attention by turns (Zheng 2025, arXiv 2501.16182).

The linear one is followed by a local branch of its own, "local concentration". Facts from
github.com/ChuanyangZheng/L2ViT.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv, join_heads, pad_to_multiple, split_heads
from dualtoken.backbone.modules import ChannelsFirst, FromImages, MapBatchNorm, PlainWindowAttention
from dualtoken.backbone.parts import DOWNSAMPLES, POSITIONS, STEMS
from dualtoken.backbone.stem import ConvNormAct

_LEAST = 100.0  # the normaliser never falls below it: the paper's way to stable training


class LinearAttention(nn.Module):
    """relu(q) (relu(k)^T v) by the sum of the same weights, with a learned temperature per head."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.heads, self.start = place.heads, (place.channels // place.heads) ** -0.5
        self.temperature = nn.Parameter(torch.empty(self.heads, 1, 1, **dd))
        self.qkv = nn.Linear(place.channels, 3 * place.channels, **dd)
        self.proj = nn.Linear(place.channels, place.channels, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The usual scale of attention."""
        nn.init.constant_(self.temperature, self.start)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))  # (B, nh, N, hd)
        q, k = F.relu(q), F.relu(k)
        weight = torch.matmul(q, k.sum(2)[..., None]).clamp(min=_LEAST)  # (B, nh, N, 1)
        y = torch.matmul(q, torch.matmul(k.transpose(2, 3), v) * self.temperature) / weight
        return self.proj(join_heads(y, x.shape[1], x.shape[2]))


def _by_turns(place: Place, **dd: Any) -> nn.Module:
    return LinearAttention(place, **dd) if place.block % 2 else PlainWindowAttention(place, **dd)


def _concentration(place: Place, **dd: Any) -> nn.Module:
    """After linear attention two 7 x 7 convolutions, after windows the usual 3 x 3."""
    channels = place.channels
    if place.block % 2 == 0:
        return DepthwiseConv(channels, 3, **dd)
    return nn.Sequential(
        nn.LayerNorm(channels, **dd),
        DepthwiseConv(channels, 7, **dd),
        nn.GELU(),
        MapBatchNorm(channels, **dd),
        DepthwiseConv(channels, 7, **dd),
    )


def _stem(in_chans: int, channels: int, **dd: Any) -> nn.Module:
    convs = FromImages(
        ConvNormAct(in_chans, channels // 2, 2, act=nn.ReLU, bias=True, **dd),
        ConvNormAct(channels // 2, channels, 2, act=None, bias=True, **dd),
    )
    return nn.Sequential(convs, nn.LayerNorm(channels, **dd))


class _NormConv2(nn.Module):
    """LayerNorm, zeros to an even size, 2 x 2 convolution of stride 2."""

    def __init__(self, inputs: int, outputs: int, **dd: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs, **dd)
        self.conv = ChannelsFirst(nn.Conv2d(inputs, outputs, 2, 2, **dd))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H/2), ceil(W/2), C')"""
        return self.conv(pad_to_multiple(self.norm(x), 2))


register_branch("l2vit", _by_turns)
POSITIONS["local_concentration"] = _concentration
STEMS["two_convs_relu_layer"] = _stem
DOWNSAMPLES["norm_conv2"] = _NormConv2
