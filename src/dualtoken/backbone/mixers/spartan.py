"""SpaRTAN: two fields of view side by side, and channels multiplied as complex numbers (Pay et al. 2025, 2507.10999).

Facts from github.com/henry-pay/SpaRTAN, whose configuration is the one published size.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.modules import ChannelsFirst, Scale
from dualtoken.backbone.parts import DOWNSAMPLES, FFNS, STEMS, two_convs
from dualtoken.backbone.stem import ConvNormAct

_Conv = partial(ConvNormAct, epsilon=1e-6)


class SpatialMixer(nn.Module):
    """Half the channels; what differs from the mean sharpened; near and far neighbours; both gated by channel.

    Convolutions are dense in stages 1 and 2 and depth-wise after them.
    """

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        half = place.channels // 2
        groups = 1 if place.stage < 2 else half
        self.sharpen = Scale(half, 1e-5, **dd)
        self.proj_in = nn.Conv2d(place.channels, half, 1, **dd)
        self.near = _Conv(half, half, groups=groups, **dd)
        self.far = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=2, dilation=2, groups=groups, bias=False, **dd),
            _Conv(half, half, groups=groups, dilation=2, **dd),
        )
        self.near_gate = SqueezeExcite(half, rd_channels=half // 4, **dd)
        self.far_gate = SqueezeExcite(half, rd_channels=half // 4, **dd)
        self.proj_out = nn.Conv2d(place.channels, place.channels, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        x = self.proj_in(x.permute(0, 3, 1, 2))  # (B, C/2, H, W)
        x = x + (x - x.mean((2, 3), keepdim=True)) * self.sharpen.weight[:, None, None]
        x = torch.cat([self.near_gate(self.near(x)), self.far_gate(self.far(x))], 1)
        return self.proj_out(x).permute(0, 2, 3, 1)


class ChannelMixer(nn.Module):
    """A gated product, plus the same at the channel that is largest in the input; then pairs as complex numbers."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        hidden = int(channels * place.ratio)
        self.turn = nn.Parameter(torch.empty(1, 1, 1, hidden // 2, 2, **dd))
        self.theta = nn.Conv2d(channels, hidden, 1, **dd)
        self.value = nn.Conv2d(channels, hidden, 1, **dd)
        self.conv = _Conv(hidden, hidden, groups=hidden if place.stage < 2 else channels, **dd)
        self.gate = SqueezeExcite(hidden, rd_channels=channels // 4, **dd)
        self.proj_out = nn.Conv2d(hidden, channels, 1, **dd)
        self.act = nn.GELU()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Complex factors from a normal distribution."""
        nn.init.normal_(self.turn)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        x = x.permute(0, 3, 1, 2)
        largest = x.argmax(1, keepdim=True)  # (B, 1, H, W): a channel below C, and so one of the first of rC
        theta, value = self.act(self.theta(x)), self.value(x)  # (B, rC, H, W)
        x = value * theta + value.gather(1, largest) * theta.gather(1, largest)
        pairs = x.permute(0, 2, 3, 1).unflatten(-1, (-1, 2))  # (B, H, W, rC/2, 2): real, imaginary
        real, imaginary = pairs.unbind(-1)
        a, b = self.turn.unbind(-1)
        x = torch.stack([a * real - b * imaginary, a * imaginary + b * real], -1).flatten(-2)
        return self.proj_out(self.gate(self.conv(x.permute(0, 3, 1, 2)))).permute(0, 2, 3, 1)


def _conv2_silu(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    return ChannelsFirst(_Conv(inputs, outputs, 2, kernel=2, act=nn.SiLU, **dd))


register_branch("spartan", SpatialMixer)
FFNS["spartan"] = ChannelMixer
DOWNSAMPLES["conv2_silu"] = _conv2_silu
STEMS["spartan"] = partial(two_convs, last=nn.GELU, epsilon=1e-6)
