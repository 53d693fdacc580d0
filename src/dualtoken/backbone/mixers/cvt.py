"""CvT: queries, keys and values by convolutions, keys and values at half resolution (Wu et al. 2021, arXiv 2103.15808).

Facts from github.com/microsoft/CvT. The mixer alone, without the class token of its last stage: the network is in
transformers.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import join_heads, split_heads
from dualtoken.backbone.modules import ChannelsFirst
from dualtoken.backbone.stem import ConvNormAct


class ConvAttention(nn.Module):
    """Each of the three has its own depth-wise 3 x 3 with batch norm, and its own linear layer."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, self.heads, self.scale = place.channels, place.heads, place.channels**-0.5  # of all channels

        def project(stride: int) -> nn.Module:
            conv = ConvNormAct(channels, channels, stride, groups=channels, act=None, **dd)
            return nn.Sequential(ChannelsFirst(conv), nn.Linear(channels, channels, **dd))

        self.q, self.k, self.v = project(1), project(2), project(2)
        self.proj = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        q, k, v = (split_heads(project(x), self.heads) for project in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(join_heads(y, x.shape[1], x.shape[2]))


register_branch("cvt", ConvAttention)
