"""VOLO: each position decides how its neighbours are spread among themselves (Yuan et al. 2021, arXiv 2106.13112).

The network is timm's, a source of facts as well. At strides 4 and 8 outlook attention, plain attention after them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import channels_first, channels_last
from dualtoken.backbone.modules import Attention

_AREA = 9  # of a 3 x 3 neighbourhood, one for every second position


class OutlookAttention(nn.Module):
    """The weights of a neighbourhood's places for each other come from its middle by a linear layer, without keys."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.heads, self.scale = place.heads, (place.channels // place.heads) ** -0.5
        self.v = nn.Linear(place.channels, place.channels, bias=False, **dd)
        self.weight = nn.Linear(place.channels, self.heads * _AREA**2, **dd)
        self.proj = nn.Linear(place.channels, place.channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        around = F.unfold(channels_first(self.v(x)), 3, padding=1, stride=2)  # (B, C * 9, N / 4)
        around = around.unflatten(1, (self.heads, -1, _AREA)).permute(0, 1, 4, 3, 2)  # (B, nh, N / 4, 9, hd)
        middle = channels_last(F.avg_pool2d(channels_first(x), 2, ceil_mode=True)).flatten(1, 2)  # (B, N / 4, C)
        logits = self.weight(middle).unflatten(-1, (self.heads, _AREA, _AREA)).transpose(1, 2)  # (B, nh, N / 4, 9, 9)
        spread = torch.matmul((logits * self.scale).softmax(-1), around)  # (B, nh, N / 4, 9, hd)
        columns = spread.permute(0, 1, 4, 3, 2).flatten(1, 3)  # (B, C * 9, N / 4)
        return self.proj(channels_last(F.fold(columns, (height, width), 3, padding=1, stride=2)))


def _by_stage(place: Place, **dd: Any) -> nn.Module:
    return OutlookAttention(place, **dd) if place.stage < 2 else Attention(place, bias=False, **dd)


register_branch("volo", _by_stage)
