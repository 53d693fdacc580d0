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
from dualtoken.backbone.official import OFFICIAL, Official, numbered
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

_NAMES = (
    (r"\.conv\.(?=\w+$)", ".c."),
    (r"\.norm\.", ".bn."),
    (r"^stem\.(\d)", numbered("patch_embed.{}", 2)),
    (r"(?<=^stages\.[1-3]\.blocks\.)(\d+)", numbered("{}", 1, 1)),  # what halves the map is their block 0
    (r"\.blocks\.", "."),
    (r"\.merge\.0", ".0.proj.0"),
    (r"\.merge\.1", ".0.proj.1.conv"),
    (r"\.mixer\.0", ".token_mixer.0.main.fc"),
    (r"\.mixer\.1", ".token_mixer.0.main.conv1"),
    (r"\.mixer\.3", ".token_mixer.0.main.conv2"),
    (r"\.ffn\.0", ".channel_mixer.main.conv"),
    (r"\.ffn\.1", ".channel_mixer.main.fc1"),
    (r"\.ffn\.3", ".channel_mixer.main.fc2"),
    (r"\.convs\.0", ".conv"),
    (r"\.convs\.1", ".conv1"),
    (r"\.scale1\.weight", ".token_mixer.0.layer_scale"),
    (r"\.scale2\.weight", ".channel_mixer.layer_scale"),
)
OFFICIAL["ffnet"] = Official(_NAMES, crop_pct=0.95)
OFFICIAL["ffnet_2"] = Official(_NAMES, crop_pct=0.9)
OFFICIAL["ffnet_1"] = Official(((r"\.ffn\.0\.convs\.0", ".channel_mixer.main.conv"), *_NAMES), crop_pct=0.9)
