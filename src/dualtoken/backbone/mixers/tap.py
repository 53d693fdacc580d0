"""TAP: attention reads averages over neighbours, as wide as each position asks for (Guo 2023, arXiv 2303.11126).

Facts from github.com/guoyongcs/TAPADL, where this stands before the attention of FAN, and before its norm; here it
stands behind the norm and before plain attention. The loss that pushes attention apart (ADL) is left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import channels_first, channels_last
from dualtoken.backbone.modules import Attention

_SCALES = 4


class TokenAwarePooling(nn.Module):
    """A mean, weighed for each position, of the map and of its averages over 3 x 3 with growing distances."""

    def __init__(self, channels: int, **dd: Any) -> None:
        super().__init__()
        self.choose = nn.Sequential(
            nn.Conv2d(channels, _SCALES, 3, padding=1, bias=False, **dd),
            nn.BatchNorm2d(_SCALES, **dd),
            nn.Conv2d(_SCALES, _SCALES, 3, padding=1, bias=False, **dd),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        x = channels_first(x)
        weights = self.choose(x).softmax(1)  # (B, scales, H, W)
        averages = [x, *(_average(x, far) for far in range(1, _SCALES))]
        return channels_last(torch.stack([w * a for w, a in zip(weights.split(1, 1), averages, strict=True)]).sum(0))


def _average(x: Tensor, far: int) -> Tensor:
    """(B, C, H, W) over 3 x 3 positions that are `far` apart; those beyond the map are zeros that count."""
    around = F.unfold(x, 3, dilation=far, padding=far).unflatten(1, (-1, 9))
    return around.mean(2).unflatten(2, x.shape[2:])


class PooledAttention(nn.Module):
    """Plain attention among positions that were pooled."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.pool = TokenAwarePooling(place.channels, **dd)
        self.attention = Attention(place, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        return self.attention(self.pool(x))


register_branch("tap", PooledAttention)
