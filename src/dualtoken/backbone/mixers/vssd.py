"""VSSD: a state space without order (Shi et al. 2024, arXiv 2407.18559).

All positions write into one small state, each with its own weight, and all read from it: linear attention without a
normaliser, and no scan. The last stage has plain attention. Facts from github.com/YuHengsss/VSSD.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv, join_heads, split_heads
from dualtoken.backbone.modules import Attention, ChannelsFirst, FromImages, draw_steps
from dualtoken.backbone.parts import DOWNSAMPLES, STEMS
from dualtoken.backbone.stem import ConvNormAct


class StateSpace(nn.Module):
    """Values of twice the channels, weighed by position, through a state of `state` (option, 64) numbers a channel."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.heads, self.state, self.inner = place.heads, place.options.get("state", 64), 2 * place.channels
        self.step_bias = nn.Parameter(torch.empty(self.heads, **dd))
        self.log_weight = nn.Parameter(torch.empty(self.heads, **dd))
        self.skip = nn.Parameter(torch.empty(self.heads, **dd))
        self.proj_in = nn.Linear(place.channels, 2 * self.inner + 2 * self.state + self.heads, bias=False, **dd)
        self.conv = DepthwiseConv(self.inner + 2 * self.state, 3, **dd)
        self.act = nn.SiLU()
        self.norm = nn.LayerNorm(self.inner, **dd)
        self.proj_out = nn.Linear(self.inner, place.channels, bias=False, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Steps from 0.001 to 0.1, evenly by their logarithm; weights from 1 to 16."""
        draw_steps(self.step_bias)
        with torch.no_grad():
            self.log_weight.copy_(torch.empty_like(self.log_weight).uniform_(1, 16).log())
        nn.init.ones_(self.skip)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        gate, mixed, step = self.proj_in(x).split([self.inner, self.inner + 2 * self.state, self.heads], -1)
        values, write, read = self.act(self.conv(mixed)).split([self.inner, self.state, self.state], -1)
        weight = F.softplus(step + self.step_bias) * self.log_weight.exp()  # (B, H, W, nh)
        values = split_heads(values, self.heads)  # (B, nh, N, hd)
        weight = weight.flatten(1, 2).transpose(1, 2)[..., None]  # (B, nh, N, 1)
        write, read = write.flatten(1, 2)[:, None], read.flatten(1, 2)[:, None]  # (B, 1, N, S): all heads alike
        state = torch.matmul(write.transpose(2, 3), values * weight)  # (B, nh, S, hd)
        y = torch.matmul(read, state) + values * self.skip[:, None, None]
        return self.proj_out(self.norm(join_heads(y, x.shape[1], x.shape[2])) * gate)


def _by_stage(place: Place, **dd: Any) -> nn.Module:
    return Attention(place, bias=False, **dd) if place.stage > 2 else StateSpace(place, **dd)


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _residual_stem(in_chans: int, channels: int, **dd: Any) -> nn.Module:
    half, wide = channels // 2, 4 * channels
    return FromImages(
        ConvNormAct(in_chans, half, 2, act=nn.ReLU, **dd),
        _Residual(ConvNormAct(half, half, act=nn.ReLU, **dd), ConvNormAct(half, half, act=None, **dd)),
        ConvNormAct(half, wide, 2, act=nn.ReLU, **dd),
        ConvNormAct(wide, channels, kernel=1, act=None, **dd),
    )


def _inverted_bottleneck(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    wide = 4 * outputs
    return ChannelsFirst(
        nn.Conv2d(inputs, wide, 1, **dd),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, 2, 1, groups=wide, **dd),
        nn.ReLU(),
        ConvNormAct(wide, outputs, kernel=1, act=None, bias=True, **dd),
    )


register_branch("vssd", _by_stage)
STEMS["residual"] = _residual_stem
DOWNSAMPLES["inverted_bottleneck"] = _inverted_bottleneck
