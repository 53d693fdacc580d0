"""Conv2Former: what a large depth-wise convolution finds weighs the values (Hou et al. 2022, arXiv 2211.11943).

Facts from github.com/HVision-NKU/Conv2Former: kernels of 11 x 11, and of 7 x 7 in the smallest network (option
`kernel`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv
from dualtoken.backbone.modules import ConvMlp, FromImages, Patches
from dualtoken.backbone.official import OFFICIAL, Official
from dualtoken.backbone.parts import DOWNSAMPLES, FFNS, HEADS, STEMS, Head


class ConvModulation(nn.Module):
    """A map from a depth-wise convolution, multiplied with a linear one of the same tokens, and a linear layer."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, kernel = place.channels, place.options.get("kernel", 11)
        self.weight = nn.Sequential(
            nn.Linear(channels, channels, **dd), nn.GELU(), DepthwiseConv(channels, kernel, **dd)
        )
        self.value = nn.Linear(channels, channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        return self.proj(self.weight(x) * self.value(x))


class TwiceActiveMlp(ConvMlp):
    """Linear, GELU, GELU of a depth-wise 3 x 3 added to its input, linear."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        x = self.act(self.fc1(x))
        return self.fc2(x + self.act(self.depthwise(x)))


def _stem(in_chans: int, channels: int, **dd: Any) -> nn.Module:
    """Two 3 x 3 convolutions, each with GELU and only then batch norm, and patches of 2 x 2."""
    half = channels // 2
    convs = FromImages(
        nn.Conv2d(in_chans, half, 3, 2, 1, bias=False, **dd),
        nn.GELU(),
        nn.BatchNorm2d(half, **dd),
        nn.Conv2d(half, half, 3, 1, 1, bias=False, **dd),
        nn.GELU(),
        nn.BatchNorm2d(half, **dd),
    )
    return nn.Sequential(convs, Patches(half, channels, 2, bias=False, **dd))


def _norm_patches2(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(inputs, eps=1e-6, **dd), Patches(inputs, outputs, 2, **dd))


def _neck_1280(channels: int, **dd: Any) -> Head:
    """1280 channels at each position, GELU and LayerNorm before the mean."""
    neck = nn.Sequential(nn.Linear(channels, 1280, **dd), nn.GELU(), nn.LayerNorm(1280, eps=1e-6, **dd))
    return Head(nn.Identity(), 1280, neck=neck)


register_branch("conv2former", ConvModulation)
STEMS["two_convs_patches"] = _stem
DOWNSAMPLES["norm_patches2"] = _norm_patches2
FFNS["twice_active"] = TwiceActiveMlp
HEADS["neck_1280"] = _neck_1280

OFFICIAL["conv2former"] = Official(
    (
        (r"^head", "pred"),
        (r"^neck", "head"),
        (r"^stem\.0", "downsample_layers.0"),
        (r"^stem\.1", "downsample_layers.0.6"),
        (r"^stages\.(\d)\.merge", r"downsample_layers.\1"),
        (r"\.blocks\.", "."),
        (r"\.norm1\.", ".attn.norm."),
        (r"\.norm2\.", ".mlp.norm."),
        (r"\.mixer\.weight\.", ".attn.att."),
        (r"\.mixer\.value\.", ".attn.v."),
        (r"\.mixer\.proj\.", ".attn.proj."),
        (r"\.ffn\.depthwise\.", ".mlp.pos."),
        (r"\.ffn\.", ".mlp."),
        (r"\.scale(\d)\.weight", r".layer_scale_\1"),
    ),
    crop_pct=0.9,
)
