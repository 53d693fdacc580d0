"""iFormer: high frequencies by convolution and pooling, low ones by attention (Si et al. 2022, arXiv 2205.12956).

The deeper the block, the more channels attend. Facts from github.com/sail-sg/iFormer, whose maps are square; here they
need not be, and of an odd side the last place gets what the one before it has.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import attend, channels_first, channels_last


class InceptionMixer(nn.Module):
    """Channels in three parts: convolution, largest neighbour, attention; then mixed.

    Options: `attending`, for each stage how many heads' channels attend, in its first half of blocks and in its second.
    """

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        attending = place.options.get("attending", ((1, 1), (3, 3), (7, 9), (11, 11)))[place.stage]
        late = place.block >= place.depth // 2
        head = place.channels // place.heads
        self.heads = min(attending[late], place.heads - 1) if place.heads > 1 else 1
        self.low = self.heads * head if place.heads > 1 else place.channels // 2
        high = (place.channels - self.low) // 2
        mixed = self.low + 4 * high
        self.pooled = place.stage < 2
        self.widen_conv = nn.Conv2d(high, 2 * high, 1, bias=False, **dd)
        self.depthwise = nn.Conv2d(2 * high, 2 * high, 3, padding=1, groups=2 * high, bias=False, **dd)
        self.widen_pool = nn.Conv2d(high, 2 * high, 1, **dd)
        self.qkv = nn.Linear(self.low, 3 * self.low, **dd)
        self.fuse = nn.Conv2d(mixed, mixed, 3, padding=1, groups=mixed, bias=False, **dd)
        self.proj = nn.Conv2d(mixed, place.channels, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        x = channels_first(x)
        high = self.widen_conv.in_channels
        conv, pool, low = x.split([high, high, self.low], 1)
        conv = F.gelu(self.depthwise(self.widen_conv(conv)))
        pool = F.gelu(self.widen_pool(F.max_pool2d(pool, 3, 1, 1)))
        x = torch.cat([conv, pool, self._attend(low)], 1)
        return channels_last(self.proj(x + self.fuse(x)))

    def _attend(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same, in stages 1 and 2 at half the resolution"""
        height, width = x.shape[2:]
        small = F.avg_pool2d(x, 2, ceil_mode=True) if self.pooled else x
        q, k, v = self.qkv(channels_last(small)).chunk(3, dim=-1)
        y = channels_first(attend(q, k, v, self.heads))
        return F.interpolate(y, scale_factor=2.0, mode="nearest")[:, :, :height, :width] if self.pooled else y


register_branch("iformer", InceptionMixer)
