"""Modules that several papers share. Maps are (B, H, W, C), and (B, C, H, W) within a `ChannelsFirst`."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from dualtoken.backbone.branch import Place
from dualtoken.backbone.layers import DepthwiseConv, attend, channels_first, channels_last, pad_to_multiple
from dualtoken.backbone.stem import ConvNormAct


class ChannelsFirst(nn.Sequential):
    """Parts that read (B, C, H, W), for maps (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(super().forward(channels_first(x)))


class FromImages(nn.Sequential):
    """Parts that read images (B, in_chans, H, W) and leave a map (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(super().forward(x))


class Patches(nn.Conv2d):
    """A convolution whose kernel is its stride; zeros at the bottom and right fill the last patches."""

    def __init__(self, inputs: int, outputs: int, side: int, bias: bool = True, **dd: Any) -> None:
        super().__init__(inputs, outputs, side, side, bias=bias, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H/side), ceil(W/side), C')"""
        return channels_last(super().forward(channels_first(pad_to_multiple(x, self.kernel_size[0]))))


class ImagesLast(nn.Module):
    """Images (B, in_chans, H, W) as maps (B, H, W, in_chans)."""

    def forward(self, images: Tensor) -> Tensor:
        return channels_last(images)


class Scale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, channels: int, start: float, **dd: Any) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.empty(channels, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All factors as at the start."""
        nn.init.constant_(self.weight, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class StarReLU(nn.Module):
    """s * relu(x)^2 + b with two learned numbers (MetaFormer baselines, section 3.3)."""

    def __init__(self, **dd: Any) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.empty(1, **dd)), nn.Parameter(torch.empty(1, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The square alone."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.relu(x) ** 2 + self.bias


class MergedDepthwise(nn.Module):
    """Depth-wise convolutions of several sizes, each with its batch norm, summed; one convolution when folded.

    Args:
        kernels: their sides, the largest first.
        skip: the input is added too.
    """

    def __init__(
        self, inputs: int, kernels: tuple[int, ...], stride: int = 1, outputs: int = 0, skip: bool = False, **dd: Any
    ) -> None:
        super().__init__()
        self.skip = skip
        self.convs = nn.ModuleList(
            ConvNormAct(inputs, outputs or inputs, stride, inputs, kernel, act=None, **dd) for kernel in kernels
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')"""
        y = self.convs[0](x)
        for conv in self.convs[1:]:
            y = y + conv(x)
        return x + y if self.skip else y

    @torch.no_grad()
    def fold(self) -> None:
        """All into the convolution with the largest kernel."""
        convs = []
        for part in self.convs:
            if isinstance(part, ConvNormAct):
                part.fold()
                convs.append(part.conv)
        if not convs:
            return
        largest, *others = convs
        assert largest.bias is not None
        side = largest.kernel_size[0]
        for conv in others:
            assert conv.bias is not None
            largest.weight += F.pad(conv.weight, [(side - conv.kernel_size[0]) // 2] * 4)
            largest.bias += conv.bias
        if self.skip:
            largest.weight[:, :, side // 2, side // 2] += 1
        self.skip, self.convs = False, nn.ModuleList([largest])


class GroupNorm1(nn.GroupNorm):
    """One group over channels and positions."""

    def __init__(self, channels: int, epsilon: float, bias: bool = True, **dd: Any) -> None:
        super().__init__(1, channels, eps=epsilon, **dd)
        if not bias:
            self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Ones and zeros."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(super().forward(channels_first(x)))


class MapBatchNorm(nn.BatchNorm2d):
    """Batch norm of a map (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(super().forward(channels_first(x)))


@torch.no_grad()
def draw_steps(bias: Tensor) -> None:
    """Start a state space: fill `bias` so that softplus gives steps from 0.001 to 0.1, even by their logarithm."""
    step = torch.empty_like(bias).uniform_(math.log(0.001), math.log(0.1)).exp()
    bias.copy_(step + torch.log(-torch.expm1(-step)))


class LearnedMap(nn.Module):
    """A learned map of positions for the grid of the paper's images (option `side`, 224), resized for others."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.empty(1, place.channels, place.grid, place.grid, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal."""
        trunc_normal_(self.map, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (1, H, W, C), which knows of x the size alone"""
        return channels_last(F.interpolate(self.map, size=x.shape[1:3], mode="bilinear"))


class Attention(nn.Module):
    """Plain self-attention over all positions."""

    def __init__(self, place: Place, bias: bool = True, proj_bias: bool = True, **dd: Any) -> None:
        super().__init__()
        self.heads = place.heads
        self.qkv = nn.Linear(place.channels, 3 * place.channels, bias=bias, **dd)
        self.proj = nn.Linear(place.channels, place.channels, bias=proj_bias, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attend(q, k, v, self.heads))


class PlainWindowAttention(nn.Module):
    """Attention within windows of 7 x 7, without position biases; the map is padded with zeros to whole windows."""

    def __init__(self, place: Place, window: int = 7, **dd: Any) -> None:
        super().__init__()
        self.heads, self.window = place.heads, window
        self.qkv = nn.Linear(place.channels, 3 * place.channels, **dd)
        self.proj = nn.Linear(place.channels, place.channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width, window = x.shape[1], x.shape[2], self.window
        x = pad_to_multiple(x, window)
        windows = x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3)  # (B, rows, columns, 7, 7, C)
        rows, columns = windows.shape[1:3]
        q, k, v = self.qkv(windows.flatten(0, 2)).chunk(3, dim=-1)
        y = self.proj(attend(q, k, v, self.heads)).unflatten(0, (-1, rows, columns))
        return y.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


class ConvMlp(nn.Module):
    """Linear, depth-wise 3 x 3 added to its input, GELU, linear; `act_first` has the GELU before the convolution."""

    def __init__(self, place: Place, act_first: bool = False, **dd: Any) -> None:
        super().__init__()
        hidden = int(place.channels * place.ratio)
        self.act_first = act_first
        self.fc1 = nn.Linear(place.channels, hidden, **dd)
        self.depthwise = DepthwiseConv(hidden, 3, **dd)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, place.channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        x = self.fc1(x)
        if self.act_first:
            x = self.act(x)
            return self.fc2(x + self.depthwise(x))
        return self.fc2(self.act(x + self.depthwise(x)))


class TwoClassifiers(nn.Module):
    """The mean of two classifiers: one learned from labels and one from a teacher, where the paper had one."""

    def __init__(self, in_features: int, out_features: int, **dd: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.labels = nn.Linear(in_features, out_features, **dd)
        self.teacher = nn.Linear(in_features, out_features, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) to (B, classes)"""
        return (self.labels(x) + self.teacher(x)) / 2
