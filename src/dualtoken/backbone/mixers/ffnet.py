"""FFNet: attention written as a feed-forward of convolutions (MetaMixer, Yun et al. 2024, arXiv 2406.02021).

A 1 x 1 convolution gives queries, a depth-wise one compares them with learned keys, another weighs learned values.
Large kernels are trained beside small ones and merged by `fold`. Facts from github.com/ysj9909/FFNet.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.modules import ChannelsFirst, MergedDepthwise
from dualtoken.backbone.parts import DOWNSAMPLES, FFNS
from dualtoken.backbone.stem import ConvNormAct


def _ffnified_attention(place: Place, **dd: Any) -> nn.Module:
    """Kernels of 3 in stages 1 and 2, of 7 after them."""
    channels = place.channels

    def depthwise() -> nn.Module:
        if place.stage > 1:
            return MergedDepthwise(channels, (7, 3), **dd)
        return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, **dd)

    query = ConvNormAct(channels, channels, kernel=1, act=None, **dd)
    return ChannelsFirst(query, depthwise(), nn.GELU(), depthwise())


def _channel_mixer(place: Place, **dd: Any) -> nn.Module:
    """A depth-wise convolution, then an MLP. Option `ffn_kernel`: 3 or 7."""
    channels, hidden = place.channels, int(place.channels * place.ratio)
    return ChannelsFirst(
        MergedDepthwise(channels, (7, 3) if place.options.get("ffn_kernel", 3) == 7 else (3,), **dd),
        nn.Conv2d(channels, hidden, 1, **dd),
        nn.GELU(),
        nn.Conv2d(hidden, channels, 1, **dd),
    )


class _NormConvSkip(nn.Module):
    """x + conv(norm(x)), point-wise; one convolution when folded."""

    def __init__(self, channels: int, **dd: Any) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm2d(channels, **dd)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)"""
        y = self.conv(self.norm(x))
        return y if isinstance(self.norm, nn.Identity) else x + y

    def fold(self) -> None:
        """Norm and skip into the convolution."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return
        weight = self.conv.weight.detach()[:, :, 0, 0]
        channels = len(weight)
        like: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        with torch.no_grad():
            zero = self.norm(torch.zeros(1, channels, 1, 1, **like)).flatten()
            one = self.norm(torch.ones(1, channels, 1, 1, **like)).flatten() - zero
        kept = weight * one + torch.eye(channels, **like)
        self.conv, self.norm = nn.Conv2d(channels, channels, 1, **like), nn.Identity()
        self.conv.load_state_dict({"weight": kept[:, :, None, None], "bias": weight @ zero})


def _merged_down(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    return ChannelsFirst(MergedDepthwise(inputs, (7, 3), 2, outputs, **dd), _NormConvSkip(outputs, **dd))


register_branch("ffnet", _ffnified_attention)
FFNS["depthwise_mlp"] = _channel_mixer
DOWNSAMPLES["merged_depthwise"] = _merged_down
