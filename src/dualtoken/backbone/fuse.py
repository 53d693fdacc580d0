"""Exact merges for inference: fewer operations, the same answers up to rounding."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dualtoken.backbone.mixers.dual_token import DownsampleStep
from dualtoken.backbone.stem import ConvNormAct


def fuse(model: nn.Module) -> None:
    """Merge in place what a DualTokenViT in evaluation mode can compute as one.

    - Batch norms go into the convolutions before them.
    - Averages move before point-wise convolutions: both are linear and the average's weights sum to one,
      so the answer stays and the convolution has a quarter of the positions.
    """
    for module in model.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
        elif isinstance(module, DownsampleStep):
            module.pool_first = True
