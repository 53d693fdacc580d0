"""LSNet: see large, focus small (Wang et al. 2025, arXiv 2503.23135).

A large kernel looks around and gives every position its own 3 x 3 kernels. The network starts at stride 8, as ours
does, and ends at 64. Facts from github.com/jameslahm/lsnet, whose kernels run on a GPU; here they are an unfold and a
product. Its attention knows the grid of 224 pixels; further positions count as its furthest (ours).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, SqueezeExcite
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, find_branch, register_branch
from dualtoken.backbone.config import PyramidConfig
from dualtoken.backbone.layers import channels_first, channels_last, rows_and_columns
from dualtoken.backbone.modules import ChannelsFirst, FromImages, MergedDepthwise
from dualtoken.backbone.official import OFFICIAL, Official, numbered
from dualtoken.backbone.parts import BLOCKS, DOWNSAMPLES, FFNS, HEADS, STEMS, Head
from dualtoken.backbone.stem import ConvNormAct

_SHARE = 8  # channels that share a kernel
_KEY = 16  # channels of a query and of a key


class LargeSmallConv(nn.Module):
    """3 x 3 kernels that a 7 x 7 convolution chooses at each position; every (C / 8)-th channel shares one."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, half, kernels = place.channels, place.channels // 2, place.channels // _SHARE
        self.look = nn.Sequential(
            ConvNormAct(channels, half, kernel=1, act=nn.ReLU, **dd),
            ConvNormAct(half, half, groups=half, kernel=7, act=None, **dd),
            ConvNormAct(half, half, kernel=1, act=nn.ReLU, **dd),
            nn.Conv2d(half, 9 * kernels, 1, **dd),
            nn.GroupNorm(kernels, 9 * kernels, **dd),
        )
        self.norm = nn.BatchNorm2d(channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        x = channels_first(x)
        kernels = self.look(x).unflatten(1, (-1, 9))  # (B, C/8, 9, H, W)
        around = F.unfold(x, 3, padding=1).unflatten(1, (_SHARE, -1, 9)).unflatten(-1, (height, width))
        return channels_last(self.norm((around * kernels[:, None]).sum(3).flatten(1, 2)))


class BiasedAttention(nn.Module):
    """Attention with narrow keys, a convolution of the queries and a learned bias for each distance."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, self.heads = place.channels, place.heads
        self.side = place.grid
        narrow = _KEY * self.heads
        self.split = [narrow, narrow, channels]
        self.bias = nn.Parameter(torch.empty(self.heads, self.side**2, **dd))
        self.qkv = ConvNormAct(channels, sum(self.split), kernel=1, act=None, **dd)
        self.proj = ConvNormAct(channels, channels, kernel=1, act=None, **dd)
        self.local = ConvNormAct(narrow, narrow, groups=narrow, act=None, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No bias at the start."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        q, k, v = self.qkv(channels_first(x)).split(self.split, 1)
        q, k, v = (part.flatten(2).unflatten(1, (self.heads, -1)).mT for part in (self.local(q), k, v))
        down, right = rows_and_columns(x)
        far_down, far_right = ((along[:, None] - along).abs().clamp(max=self.side - 1) for along in (down, right))
        bias = self.bias[:, far_down * self.side + far_right]  # (nh, N, N)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B, nh, N, hd)
        y = y.mT.flatten(1, 2).unflatten(-1, (height, width))
        return channels_last(self.proj(F.relu(y)))


def _by_stage(place: Place, **dd: Any) -> nn.Module:
    return BiasedAttention(place, **dd) if place.stage > 3 else LargeSmallConv(place, **dd)


class LSBlock(nn.Module):
    """By turns a merged depth-wise convolution with a channel gate and the mixer; then the feed-forward. No norms."""

    def __init__(self, config: PyramidConfig, place: Place, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        self.mixer: nn.Module | None = None
        if place.block % 2:
            self.mixer = find_branch(config.mixer)(place, **dd)
        else:
            self.local = ChannelsFirst(
                MergedDepthwise(channels, (3, 1), skip=True, **dd), SqueezeExcite(channels, 0.25, **dd)
            )
        self.ffn = FFNS.find(config.ffn)(place, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        x = self.local(x) if self.mixer is None else x + self.drop_path(self.mixer(x))
        return x + self.drop_path(self.ffn(x))


def _batch_mlp(place: Place, **dd: Any) -> nn.Module:
    hidden = int(place.channels * place.ratio)
    return ChannelsFirst(
        ConvNormAct(place.channels, hidden, kernel=1, act=nn.ReLU, **dd),
        ConvNormAct(hidden, place.channels, kernel=1, act=None, **dd),
    )


def _three_convs(in_chans: int, channels: int, **dd: Any) -> nn.Module:
    return FromImages(
        ConvNormAct(in_chans, channels // 4, 2, act=nn.ReLU, **dd),
        ConvNormAct(channels // 4, channels // 2, 2, act=nn.ReLU, **dd),
        ConvNormAct(channels // 2, channels, 2, act=None, **dd),
    )


def _depthwise_then_pointwise(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    return ChannelsFirst(
        ConvNormAct(inputs, inputs, 2, groups=inputs, act=None, **dd),
        ConvNormAct(inputs, outputs, kernel=1, act=None, **dd),
    )


class _LastBatchNorm(nn.BatchNorm1d):
    """Batch norm of the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).reshape(x.shape)


def _mean_batch(channels: int, **dd: Any) -> Head:
    return Head(nn.Identity(), channels, pooled=_LastBatchNorm(channels, **dd))


register_branch("lsnet", _by_stage)
BLOCKS["lsnet"] = LSBlock
FFNS["batch_mlp"] = _batch_mlp
STEMS["three_convs"] = _three_convs
DOWNSAMPLES["depthwise_pointwise"] = _depthwise_then_pointwise
HEADS["mean_batch"] = _mean_batch

OFFICIAL["lsnet"] = Official(
    (
        (r"\.conv\.(?=\w+$)", ".c."),
        (r"\.norm\.", ".bn."),
        (r"^stem\.(\d)", numbered("patch_embed.{}", 2)),
        (r"(?<=^stages\.[1-3]\.blocks\.)(\d+)", numbered("{}", 1, 2)),  # what halves the map is their blocks 0 and 1
        (r"^stages\.(\d)\.(blocks|merge)", numbered("blocks{}", 1, 1)),
        (r"\.local\.0\.convs\.0", ".mixer.conv"),
        (r"\.local\.0\.convs\.1", ".mixer.conv1"),
        (r"\.local\.1", ".se"),
        (r"\.look\.(\d)\.", numbered(".lkp.cv{}.", 1, 1)),
        (r"\.lkp\.cv5\.", ".lkp.norm."),
        (r"\.mixer\.(qkv|proj|local|bias)", r".mixer.m.\1"),
        (r"\.m\.proj", ".m.proj.1"),
        (r"\.m\.local", ".m.dw"),
        (r"\.m\.bias", ".m.attention_biases"),
        (r"\.ffn\.(\d)", numbered(".ffn.m.pw{}", 1, 1)),
        (r"^head", "head.l"),
        (r"^pooled_neck", "head.bn"),
    ),
    computed=r"\.attention_bias_idxs$",
)
