"""TiC: a convolution whose kernel is attention over its window (Zhang et al. 2023, arXiv 2310.04134).

Facts from github.com/zs670980918/MSA-Conv, which holds the layer (MSA-Conv) and not the network, nor its shifts. What
lies beyond the map is a key of zeros, as there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import channels_first, channels_last

_SIDE = 3


class AttentionConv(nn.Module):
    """Each position attends, in one head, to the 3 x 3 around it; then a dense 3 x 3 convolution and a ReLU."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        self.qkv = nn.Linear(channels, 3 * channels, **dd)
        self.conv = nn.Conv2d(channels, channels, _SIDE, padding=_SIDE // 2, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        keys, values = _windows(k), _windows(v)  # (B, N, C, 9)
        logits = torch.matmul(q.flatten(1, 2)[:, :, None] * q.shape[-1] ** -0.5, keys)  # (B, N, 1, 9)
        mixed = torch.matmul(values, logits.softmax(-1).mT)[..., 0]  # (B, N, C)
        return F.relu(channels_last(self.conv(channels_first(x + mixed.unflatten(1, x.shape[1:3])))))


def _windows(x: Tensor) -> Tensor:
    """(B, H, W, C) to the neighbourhoods (B, N, C, 9)"""
    return F.unfold(channels_first(x), _SIDE, padding=_SIDE // 2).unflatten(1, (x.shape[3], -1)).permute(0, 3, 1, 2)


register_branch("tic", AttentionConv)
