"""A light decoder in the manner of DDRNet (Hong et al. 2021, arXiv 2101.06085, section III): context where maps are
smallest, classes at stride 8.

Facts from the official code, ydhongHIT/DDRNet `segmentation/DDRNet_23_slim.py`; there the finest map comes from a
second branch of the network, here from the backbone's own maps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.heads.body import Body

POOLS = ((5, 2), (9, 4), (17, 8))  # kernel and stride of the views between a single place and all places
LEAST = 8  # places a side of a map that such a pool can still tell apart


class Context(nn.Module):
    """DDRNet's deep aggregation pyramid pooling: five views of a map, from one place to all, each built on the last.

    Args:
        inputs: channels of the map.
        width: channels of a view.
        outputs: channels of the result.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.local = conv(inputs, width)
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(kernel, stride, kernel // 2), conv(inputs, width)) for kernel, stride in POOLS
        )
        # No batch norm: a batch of one image has a single place here.
        self.all = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Conv2d(inputs, width, 1))
        self.merges = nn.ModuleList(conv(width, width, 3) for _ in range(len(POOLS) + 1))
        self.fuse = conv((len(POOLS) + 2) * width, outputs)
        self.short = conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W); a map below 8 x 8 has the views of one and of all places only."""
        views = [self.local(x)]
        for pool, merge in zip([*self.pools, self.all], self.merges, strict=True):
            seen = pool is self.all or min(x.shape[-2:]) >= LEAST
            views.append(merge(views[-1] + resized(pool(x), x) if seen else views[-1]))
        return self.fuse(torch.cat(views, 1)) + self.short(x)


class ContextDecoder(nn.Module):
    """Images to logits: context on the map at stride 32, those at 16 and 8 added on the way up, one small head.

    Args:
        architecture: a name of timm's registry with maps at strides 8, 16 and 32.
        classes: number of classes.
        width: channels of the decoder.
        **args: of the backbone.
    """

    def __init__(self, architecture: str, classes: int, width: int, **args: Any) -> None:
        super().__init__()
        self.encoder = Body(architecture, **args)
        *finer, coarsest = self.encoder.channels
        self.context = Context(coarsest, width // 2, width)
        self.laterals = nn.ModuleList(conv(channels, width) for channels in reversed(finer))
        self.head = nn.Sequential(conv(width, width, 3), conv(width, classes, bias=True))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, classes, H, W)"""
        *finer, coarsest = self.encoder(images)
        x = self.context(coarsest)
        for lateral, level in zip(self.laterals, reversed(finer), strict=True):
            x = resized(x, level) + lateral(level)
        return resized(self.head(x), images)


def conv(inputs: int, outputs: int, kernel: int = 1, *, bias: bool = False) -> nn.Sequential:
    """Batch norm, ReLU, convolution: DDRNet's order behind its first blocks."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    )


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the places of `like`."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
