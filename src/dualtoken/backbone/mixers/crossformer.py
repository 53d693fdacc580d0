"""CrossFormer: attention among near positions, then among far ones, by turns (Wang et al. 2022, arXiv 2108.00154).

Embeddings see the image at several scales at once. Facts from github.com/cheerss/CrossFormer, which takes images of one
size; maps that the groups do not divide are padded here, and the padding is masked, as there. CrossFormer++ is another
paper's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import channels_first, channels_last, pad_to_multiple
from dualtoken.backbone.modules import ImagesLast
from dualtoken.backbone.parts import DOWNSAMPLES, STEMS

_SIDE = 7  # of a group
_MASKED = -1e4  # finite: a group may be padding altogether


class PositionBias(nn.Module):
    """A small network gives each head's bias for each offset of two positions in a group."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        hidden = max(4, place.channels // 16)
        layers: list[nn.Module] = [nn.Linear(2, hidden, **dd)]
        for outputs in (hidden, hidden, place.heads):
            layers += [nn.LayerNorm(hidden, **dd), nn.ReLU(), nn.Linear(hidden, outputs, **dd)]
        self.layers = nn.Sequential(*layers)

    def forward(self, like: Tensor) -> Tensor:
        """(nh, 49, 49), for what device and type `like` has"""
        along = torch.arange(1 - _SIDE, _SIDE, device=like.device)
        offsets = torch.stack(torch.meshgrid(along, along, indexing="ij"), -1).flatten(0, 1)  # (13 * 13, 2)
        table = self.layers(offsets.to(like.dtype))  # (13 * 13, nh)
        place = torch.arange(_SIDE**2, device=like.device)
        down, right = place // _SIDE, place % _SIDE
        far_down, far_right = (axis[:, None] - axis + _SIDE - 1 for axis in (down, right))
        return table[far_down * (2 * _SIDE - 1) + far_right].permute(2, 0, 1)


class GroupAttention(nn.Module):
    """Groups of 7 x 7 positions: neighbours in even blocks, in odd ones those 8, 4, 2, 1 (by stage) apart.

    A map that one group covers is one group, in odd blocks too.
    """

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.heads = place.heads
        self.apart = 2 ** (3 - min(place.stage, 3)) if place.block % 2 else 1
        self.bias = PositionBias(place, **dd)
        self.qkv = nn.Linear(place.channels, 3 * place.channels, **dd)
        self.proj = nn.Linear(place.channels, place.channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width, apart = x.shape[1], x.shape[2], self.apart
        if isinstance(height, int) and isinstance(width, int) and min(height, width) <= _SIDE:
            apart = 1
        groups = _groups(x, apart)  # (B, rows, columns, apart, apart, 7, 7, C)
        bias = self.bias(x)  # (nh, 49, 49)
        if height % (apart * _SIDE) or width % (apart * _SIDE):
            inside = _groups(x.new_ones(x.shape[0], height, width, 1), apart).flatten(0, 4).flatten(1)  # (groups, 49)
            bias = bias + (1 - inside)[:, None, None] * _MASKED  # (groups, nh, 49, 49)
        parts = self.qkv(groups.flatten(0, 4).flatten(1, 2)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (groups, nh, 49, hd)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(groups.shape)
        y = y.permute(0, 1, 5, 3, 2, 6, 4, 7).flatten(4, 6).flatten(1, 3)
        return self.proj(y[:, :height, :width])


def _groups(x: Tensor, apart: int) -> Tensor:
    """(B, H, W, C), padded, to (B, rows, columns, apart, apart, 7, 7, C)"""
    x = pad_to_multiple(x, apart * _SIDE)
    return x.unflatten(2, (-1, _SIDE, apart)).unflatten(1, (-1, _SIDE, apart)).permute(0, 1, 4, 3, 6, 2, 5, 7)


class CrossScale(nn.Module):
    """Convolutions of several kernels, as far apart as the least; each gives half the channels of the one before."""

    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, ...], **dd: Any) -> None:
        super().__init__()
        self.stride = kernels[0]
        widths = [outputs >> i + 1 for i in range(len(kernels) - 1)]
        widths.append(outputs - sum(widths))
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, width, kernel, self.stride, (kernel - self.stride) // 2, **dd)
            for width, kernel in zip(widths, kernels, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H/stride), ceil(W/stride), C')"""
        x = channels_first(pad_to_multiple(x, self.stride))
        return channels_last(torch.cat([conv(x) for conv in self.convs], 1))


def _stem(in_chans: int, channels: int, **dd: Any) -> nn.Module:
    scales = CrossScale(in_chans, channels, (4, 8, 16, 32), **dd)
    return nn.Sequential(ImagesLast(), scales, nn.LayerNorm(channels, **dd))


def _norm_two_scales(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(inputs, **dd), CrossScale(inputs, outputs, (2, 4), **dd))


register_branch("crossformer", GroupAttention)
STEMS["four_scales"] = _stem
DOWNSAMPLES["norm_two_scales"] = _norm_two_scales
