"""AFFNet: the map's own spectrum decides how it is filtered (Huang et al. 2023, arXiv 2307.14008).

Facts from github.com/microsoft/TokenMixers (Adaptive Frequency Filters). The activation follows a training
configuration that is not published there; SiLU here, as in MobileViT, whose code that one is built on.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, make_divisible
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, find_branch, register_branch
from dualtoken.backbone.config import PyramidConfig
from dualtoken.backbone.fourier import irfft2, rfft2
from dualtoken.backbone.modules import ChannelsFirst, FromImages
from dualtoken.backbone.parts import BLOCKS, DOWNSAMPLES, HEADS, NORMS, STEMS, Head
from dualtoken.backbone.stem import ConvNormAct

_GROUPS = 8  # of channels, each with a layer of its own
_LEAST = 0.01  # factors shrink by this


class FrequencyFilter(nn.Module):
    """Two complex layers give of each spectrum the factors that it is multiplied with; the input is added."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        width = place.channels // _GROUPS
        self.weight1, self.weight2 = (nn.Parameter(torch.empty(2, _GROUPS, width, width, **dd)) for _ in range(2))
        self.bias1, self.bias2 = (nn.Parameter(torch.empty(2, _GROUPS, width, **dd)) for _ in range(2))
        self.act = nn.SiLU()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small normal numbers, as the official code draws them."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        whole = x if x.dtype == torch.float64 else x.float()  # spectra are too wide for half precision
        real, imag = rfft2(whole)  # each (B, H, W / 2 + 1, C)
        pair = real.unflatten(-1, (_GROUPS, -1)), imag.unflatten(-1, (_GROUPS, -1))
        hidden = [self.act(part) for part in _complex_linear(pair, self.weight1, self.bias1)]
        down, up = (_shrink(part).flatten(-2) for part in _complex_linear(hidden, self.weight2, self.bias2))
        y = irfft2(down * real - up * imag, down * imag + up * real, x.shape[2])
        return y.to(x.dtype) + x


def _complex_linear(pair: tuple[Tensor, ...] | list[Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part (B, H, W, groups, C / groups) through a layer for each group."""
    real, imag = pair
    (w, v), (b, c) = weight.to(real.dtype), bias.to(real.dtype)

    def product(x: Tensor, matrix: Tensor) -> Tensor:
        return torch.einsum("...gi,gio->...go", x, matrix)

    return product(real, w) - product(imag, v) + b, product(imag, w) + product(real, v) + c


def _shrink(x: Tensor) -> Tensor:
    return F.relu(x - _LEAST) - F.relu(-x - _LEAST)


# ---------------------------------------------------------------- the network


class InvertedResidual(nn.Sequential):
    """Widen, depth-wise 3 x 3, narrow: (B, C, H, W), with a residual where the shape stays."""

    def __init__(self, inputs: int, outputs: int, ratio: float, stride: int = 1, **dd: Any) -> None:
        hidden = make_divisible(round(inputs * ratio), 8)
        super().__init__(
            ConvNormAct(inputs, hidden, kernel=1, act=nn.SiLU, **dd),
            ConvNormAct(hidden, hidden, stride, groups=hidden, act=nn.SiLU, **dd),
            ConvNormAct(hidden, outputs, kernel=1, act=None, **dd),
        )
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x) if self.skip else super().forward(x)


class FilterBlock(nn.Module):
    """An inverted residual, then the mixer, each after its norm, with one residual around both."""

    def __init__(self, config: PyramidConfig, place: Place, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        norm, channels = NORMS.find(config.norm), place.channels
        self.norm1 = norm(channels, config.epsilon, **dd)
        self.local = ChannelsFirst(InvertedResidual(channels, channels, place.ratio, **dd))
        self.norm2 = norm(channels, config.epsilon, **dd)
        self.mixer = find_branch(config.mixer)(place, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        return x + self.drop_path(self.mixer(self.norm2(self.local(self.norm1(x)))))


class FilterGroup(nn.Module):
    """Several filter blocks (option `filters`, per stage), whose result is joined with what they were given."""

    def __init__(self, config: PyramidConfig, place: Place, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        number = place.options["filters"][place.stage]
        self.blocks = nn.Sequential(*(FilterBlock(config, place, drop_path, **dd) for _ in range(number)))
        self.norm = NORMS.find(config.norm)(channels, config.epsilon, **dd)
        self.proj = ChannelsFirst(ConvNormAct(channels, channels, kernel=1, act=None, **dd))
        self.join = ChannelsFirst(ConvNormAct(2 * channels, channels, kernel=1, act=nn.SiLU, **dd))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        return self.join(torch.cat([x, self.proj(self.norm(self.blocks(x)))], -1))


def _by_stage(config: PyramidConfig, place: Place, drop_path: float = 0.0, **dd: Any) -> nn.Module:
    if place.stage > 0:
        return FilterGroup(config, place, drop_path, **dd)
    return ChannelsFirst(InvertedResidual(place.channels, place.channels, place.ratio, **dd))


def _stem(in_chans: int, channels: int, ratio: float, **dd: Any) -> nn.Module:
    return FromImages(
        ConvNormAct(in_chans, 16, 2, act=nn.SiLU, **dd),
        InvertedResidual(16, 32, ratio, **dd),
        InvertedResidual(32, channels, ratio, 2, **dd),
    )


def _inverted(inputs: int, outputs: int, ratio: float, **dd: Any) -> nn.Module:
    return ChannelsFirst(InvertedResidual(inputs, outputs, ratio, 2, **dd))


def _neck_four_times(channels: int, **dd: Any) -> Head:
    """Four times the channels, but at most 960, at each position; then the mean."""
    size = min(4 * channels, 960)
    neck = ChannelsFirst(ConvNormAct(channels, size, kernel=1, act=nn.SiLU, **dd))
    return Head(nn.Identity(), size, neck=neck)


register_branch("affnet", FrequencyFilter)
BLOCKS["affnet"] = _by_stage
STEMS["inverted_2"] = partial(_stem, ratio=2)
STEMS["inverted_4"] = partial(_stem, ratio=4)
DOWNSAMPLES["inverted_2"] = partial(_inverted, ratio=2)
DOWNSAMPLES["inverted_4"] = partial(_inverted, ratio=4)
HEADS["neck_four_times"] = _neck_four_times
