"""CSWin: half the heads attend within vertical stripes, half within horizontal ones (Dong et al. 2022, 2107.00652).

Facts from github.com/microsoft/CSWin-Transformer, which takes sizes that the stripes divide; others are padded with
zeros here, as our windows are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv, attend
from dualtoken.backbone.official import OFFICIAL, Official, numbered


class CrossShapedAttention(nn.Module):
    """Attention in stripes, plus a depth-wise convolution of the values within each; the whole map in the last stage.

    Options: `stripes`, their breadth per stage.
    """

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        parts = 1 if place.stage > 2 else 2
        self.stripe = place.options.get("stripes", (1, 2, 7, 7))[place.stage]
        self.heads = max(1, place.heads // parts)
        self.qkv = nn.Linear(channels, 3 * channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)
        self.local = nn.ModuleList(DepthwiseConv(channels // parts, 3, **dd) for _ in range(parts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if len(self.local) == 1:
            return self.proj(self._within(q, k, v, self.local[0]))
        down, across = zip(*(part.chunk(2, dim=-1) for part in (q, k, v)), strict=True)  # each three (B, H, W, C/2)
        vertical = self._in_rows([part.transpose(1, 2) for part in down], self.local[0], turned=True)
        return self.proj(torch.cat([vertical.transpose(1, 2), self._in_rows([*across], self.local[1])], -1))

    def _in_rows(self, qkv: list[Tensor], local: nn.Module, turned: bool = False) -> Tensor:
        """Stripes of several rows: three maps (B, H, W, C) to one; a turned one has its rows for columns."""
        height, pad = qkv[0].shape[1], -qkv[0].shape[1] % self.stripe
        stripes = [F.pad(part, (0, 0, 0, 0, 0, pad)).unflatten(1, (-1, self.stripe)) for part in qkv]
        number = stripes[0].shape[1]
        q, k, v = (stripe.flatten(0, 1) for stripe in stripes)  # (B * number, stripe, W, C)
        if turned:  # the convolution's kernel is not symmetric
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        y = self._within(q, k, v, local)
        y = y.transpose(1, 2) if turned else y
        return y.unflatten(0, (-1, number)).flatten(1, 2)[:, :height]

    def _within(self, q: Tensor, k: Tensor, v: Tensor, local: nn.Module) -> Tensor:
        return attend(q, k, v, self.heads) + local(v)


register_branch("cswin", CrossShapedAttention)

OFFICIAL["cswin"] = Official(
    (
        (r"^stem\.0\.0", "stage1_conv_embed.0"),
        (r"^stem\.1", "stage1_conv_embed.2"),
        (r"^stages\.(\d)\.merge\.0\.0", numbered("merge{}.conv")),
        (r"^stages\.(\d)\.merge\.1", numbered("merge{}.norm")),
        (r"^stages\.(\d)\.blocks", numbered("stage{}", 1, 1)),
        (r"\.mixer\.local\.(\d)", r".attns.\1.get_v"),
        (r"\.mixer\.", "."),
        (r"\.ffn\.", ".mlp."),
    ),
    crop_pct=0.9,
)
OFFICIAL["cswin_b_384"] = replace(OFFICIAL["cswin"], crop_pct=1.0)
