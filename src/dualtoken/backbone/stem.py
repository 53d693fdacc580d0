"""LightViT's stem and residual patch merging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dualtoken.backbone.layers import ChannelNorm, channels_first, channels_last, pad_to_multiple


class ConvNormAct(nn.Sequential):
    """Convolution without bias (3 x 3 where nothing is said), batch norm, activation (GELU); `act` None for none."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        groups: int = 1,
        kernel: int = 3,
        act: Callable[[], nn.Module] | None = nn.GELU,
        bias: bool = False,
        dilation: int = 1,
        epsilon: float = 1e-5,
        **dd: Any,
    ) -> None:
        super().__init__()
        padding = dilation * ((kernel - 1) // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias, **dd)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=epsilon, **dd)
        if act is not None:
            self.act = act()

    def fold(self) -> None:
        """The batch norm into the convolution before it, for inference."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class Stem(nn.Module):
    """Image to the first stage's map at stride 8; the maps at strides 2 and 4 are offered as features."""

    def __init__(self, in_chans: int, channels: int, **dd: Any) -> None:
        super().__init__()
        width = channels // 2
        self.stride2 = nn.Sequential(
            ConvNormAct(in_chans, width, stride=2, **dd),
            ConvNormAct(width, width, stride=1, groups=width, **dd),
            ConvNormAct(width, width, stride=1, groups=width, **dd),
        )
        self.stride4 = ConvNormAct(width, width, stride=2, groups=width, **dd)
        self.proj = nn.Conv2d(width, channels, 3, stride=2, padding=1, **dd)
        self.norm = ChannelNorm(channels, **dd)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, in_chans, H, W) to (B, C1/2, H/2, W/2), (B, C1/2, H/4, W/4) and the map (B, H/8, W/8, C1)."""
        if self.training:  # faster on a CPU; an exported graph stays as it is
            images = images.contiguous(memory_format=torch.channels_last)
        half = self.stride2(images)
        quarter = self.stride4(half)
        return half, quarter, self.norm(channels_last(self.proj(quarter)))


class PatchMerge(nn.Module):
    """Halve the image tokens: each 2 x 2 neighbourhood concatenated and projected, plus its projected maximum.

    Args:
        inputs, outputs: channels before and after.
        spacing: None halves. A number keeps the resolution: every position gets a neighbourhood, of tokens that
            are so far apart. What it gives at every second position is then what halving gives.
    """

    def __init__(self, inputs: int, outputs: int, spacing: int | None = None, **dd: Any) -> None:
        super().__init__()
        self.spacing = spacing
        self.norm = ChannelNorm(4 * inputs, **dd)
        self.reduction = nn.Linear(4 * inputs, outputs, bias=False, **dd)
        self.residual = nn.Linear(inputs, outputs, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H/2), ceil(W/2), C'), or with a spacing to (B, H, W, C')"""
        if self.spacing is not None:
            neighbours = _dense_neighbours(x, self.spacing)
            largest = torch.stack(neighbours).amax(0)
            return self.reduction(self.norm(torch.cat(neighbours, -1))) + self.residual(largest)
        x = pad_to_multiple(x, 2)
        quads = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H/2, 2, W/2, 2, C)
        neighbourhood = quads.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, 4C)
        largest = channels_last(F.max_pool2d(channels_first(x), 2))
        return self.reduction(self.norm(neighbourhood)) + self.residual(largest)


def _dense_neighbours(x: Tensor, spacing: int) -> list[Tensor]:
    """The 2 x 2 neighbourhood of every position: four maps (B, H, W, C), in the order of PatchMerge's channels."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 0, spacing, 0, spacing))
    places = ((0, 0), (spacing, 0), (0, spacing), (spacing, spacing))
    return [padded[:, down : down + height, right : right + width] for down, right in places]


class TokenMerge(nn.Module):
    """Map the travelling global tokens to the next stage's channels."""

    def __init__(self, inputs: int, outputs: int, **dd: Any) -> None:
        super().__init__()
        self.norm = ChannelNorm(inputs, **dd)
        self.proj = nn.Linear(inputs, outputs, bias=False, **dd)

    def forward(self, g: Tensor) -> Tensor:
        """(B, h, w, C) to (B, h, w, C')"""
        return self.proj(self.norm(g))
