"""Exact merges for inference: fewer operations, the same answers up to rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dualtoken.backbone.layers import ChannelLinear, ChannelNorm
from dualtoken.backbone.stem import ConvNormAct

if TYPE_CHECKING:
    from dualtoken.backbone.model import DualTokenViT


def fuse(model: DualTokenViT) -> None:
    """Merge in place: batch norms into convolutions."""
    for module in model.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
