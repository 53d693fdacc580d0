"""SMT: scale-aware modulation early, attention late, the two by turns between (Lin et al. 2023, arXiv 2307.08579).

Facts from github.com/AFeng-x/SMT.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv, attend
from dualtoken.backbone.modules import FromImages
from dualtoken.backbone.official import OFFICIAL, Official, numbered
from dualtoken.backbone.parts import STEMS
from dualtoken.backbone.stem import ConvNormAct

_SCALES = 4  # depth-wise kernels 3, 5, 7, 9


class Modulation(nn.Module):
    """Channels in four parts, each seen at its own scale; the scales mixed; the result weighs the values."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        part = channels // _SCALES
        self.proj = nn.Linear(channels, channels, **dd)
        self.v = nn.Linear(channels, channels, **dd)
        self.s = nn.Linear(channels, channels, **dd)
        self.scales = nn.ModuleList(
            nn.Conv2d(part, part, 3 + 2 * i, padding=1 + i, groups=part, **dd) for i in range(_SCALES)
        )
        self.mix = ConvNormAct(channels, 2 * channels, kernel=1, groups=part, bias=True, **dd)
        self.merge = nn.Conv2d(2 * channels, channels, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        parts = self.s(x).permute(0, 3, 1, 2).chunk(_SCALES, 1)
        seen = torch.stack([conv(part) for conv, part in zip(self.scales, parts, strict=True)], 2)
        modulator = self.merge(self.mix(seen.flatten(1, 2)))  # each group of `mix` has one channel of every scale
        return self.proj(modulator.permute(0, 2, 3, 1) * self.v(x))


class LocalAttention(nn.Module):
    """Self-attention over all positions, plus a depth-wise convolution of the values."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, self.heads = place.channels, place.heads
        self.proj = nn.Linear(channels, channels, **dd)
        self.q = nn.Linear(channels, channels, **dd)
        self.kv = nn.Linear(channels, 2 * channels, **dd)
        self.local = DepthwiseConv(channels, 3, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        k, v = self.kv(x).chunk(2, dim=-1)
        return self.proj(attend(self.q(x), k, v, self.heads) + self.local(v))


def _by_turns(place: Place, **dd: Any) -> nn.Module:
    """Modulation in stages 1 and 2 and in every other block of stage 3."""
    early = place.stage < 2 or (place.stage == 2 and place.block % 2 == 0)
    return Modulation(place, **dd) if early else LocalAttention(place, **dd)


def _stem(in_chans: int, channels: int, kernel: int = 3, **dd: Any) -> nn.Module:
    first = ConvNormAct(in_chans, channels, 2, kernel=kernel, act=nn.ReLU, **dd)
    return nn.Sequential(FromImages(first, nn.Conv2d(channels, channels, 2, 2, **dd)), nn.LayerNorm(channels, **dd))


register_branch("smt", _by_turns)
STEMS["smt"] = _stem
STEMS["smt7"] = partial(_stem, kernel=7)

OFFICIAL["smt"] = Official(
    (
        (r"^stem\.0\.0\.conv", "patch_embed1.conv.0"),
        (r"^stem\.0\.0\.norm", "patch_embed1.conv.1"),
        (r"^stem\.0\.1", "patch_embed1.conv.3"),
        (r"^stem\.1", "patch_embed1.norm"),
        (r"^stages\.(\d)\.merge\.0\.0", numbered("patch_embed{}.proj", 1, 1)),
        (r"^stages\.(\d)\.merge\.1", numbered("patch_embed{}.norm", 1, 1)),
        (r"^stages\.(\d)\.norm", numbered("norm{}", 1, 1)),
        (r"^stages\.(\d)\.blocks", numbered("block{}", 1, 1)),
        (r"\.mixer\.scales\.(\d)", numbered(".attn.local_conv_{}", 1, 1)),
        (r"\.mixer\.mix\.conv", ".attn.proj0"),
        (r"\.mixer\.mix\.norm", ".attn.bn"),
        (r"\.mixer\.merge", ".attn.proj1"),
        (r"\.mixer\.local", ".attn.local_conv"),
        (r"\.mixer\.", ".attn."),
        (r"\.ffn\.depthwise", ".mlp.dwconv.dwconv"),
        (r"\.ffn\.", ".mlp."),
    )
)
