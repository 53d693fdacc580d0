"""The parts of a pyramid, by the words that a `PyramidConfig` says; families add their own in `mixers/`.

Maps are (B, H, W, C) between parts, and (B, C, H, W) within a `ChannelsFirst`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.branch import Place
from dualtoken.backbone.layers import DepthwiseConv, Mlp, channels_first, channels_last
from dualtoken.backbone.stem import ConvNormAct
from dualtoken.registry import Registry

Part = Callable[..., nn.Module]
_FAMILIES = "dualtoken.backbone.mixers"
STEMS: Registry[Part] = Registry("stem", _FAMILIES)  # (in_chans, channels): images (B, in_chans, H, W) to stride 4
DOWNSAMPLES: Registry[Part] = Registry("downsample", _FAMILIES)  # (inputs, outputs)
POSITIONS: Registry[Part] = Registry("position", _FAMILIES)  # (place): a residual branch
NORMS: Registry[Part] = Registry("norm", _FAMILIES)  # (channels, epsilon)
FFNS: Registry[Part] = Registry("ffn", _FAMILIES)  # (place): a residual branch
HEADS: Registry[Callable[..., Head]] = Registry("head", _FAMILIES)  # (channels)
BLOCKS: Registry[Part] = Registry("block", _FAMILIES)  # (config, place, drop_path)


class ChannelsFirst(nn.Sequential):
    """Parts that read (B, C, H, W), for maps (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(super().forward(channels_first(x)))


class FromImages(nn.Sequential):
    """Parts that read images (B, in_chans, H, W) and leave a map (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return channels_last(super().forward(x))


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


# ---------------------------------------------------------------- norms


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


def _layer(channels: int, epsilon: float, **dd: Any) -> nn.Module:
    return nn.LayerNorm(channels, eps=epsilon, **dd)


def _batch(channels: int, epsilon: float, **dd: Any) -> nn.Module:
    return MapBatchNorm(channels, **dd)


def _no_norm(channels: int, epsilon: float, **dd: Any) -> nn.Module:
    return nn.Identity()


NORMS["layer"] = _layer
NORMS["group"] = GroupNorm1
NORMS["group_without_bias"] = partial(GroupNorm1, bias=False)
NORMS["batch"] = _batch
NORMS["none"] = _no_norm


# ---------------------------------------------------------------- stems and what halves a map


def two_convs(
    in_chans: int,
    channels: int,
    act: Callable[[], nn.Module] = nn.GELU,
    last: Callable[[], nn.Module] | None = None,
    width: int | None = None,
    bias: bool = False,
    epsilon: float = 1e-5,
    **dd: Any,
) -> nn.Module:
    """Two 3 x 3 convolutions of stride 2 with batch norm, `act` between them and `last` at the end."""
    width = width or channels // 2
    return FromImages(
        ConvNormAct(in_chans, width, 2, act=act, bias=bias, epsilon=epsilon, **dd),
        ConvNormAct(width, channels, 2, act=last, bias=bias, epsilon=epsilon, **dd),
    )


def conv7_layer(
    in_chans: int, channels: int, padding: int = 2, epsilon: float = 1e-5, norm_bias: bool = True, **dd: Any
) -> nn.Module:
    """A 7 x 7 convolution of stride 4 and a LayerNorm."""
    conv = nn.Conv2d(in_chans, channels, 7, 4, padding, **dd)
    return nn.Sequential(FromImages(conv), nn.LayerNorm(channels, eps=epsilon, bias=norm_bias, **dd))


def conv3_batch(inputs: int, outputs: int, bias: bool = True, **dd: Any) -> nn.Module:
    """A 3 x 3 convolution of stride 2 and batch norm."""
    return ChannelsFirst(ConvNormAct(inputs, outputs, 2, act=None, bias=bias, **dd))


def conv3_layer(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    """A 3 x 3 convolution of stride 2 and LayerNorm."""
    conv = nn.Conv2d(inputs, outputs, 3, 2, 1, **dd)
    return nn.Sequential(ChannelsFirst(conv), nn.LayerNorm(outputs, **dd))


STEMS["conv7_layer"] = conv7_layer
STEMS["two_convs"] = two_convs
STEMS["two_convs_64"] = partial(two_convs, width=64)
STEMS["two_convs_relu"] = partial(two_convs, act=nn.ReLU, last=nn.ReLU, bias=True)
STEMS["two_convs_gelu"] = partial(two_convs, last=nn.GELU)
DOWNSAMPLES["conv3_batch"] = conv3_batch
DOWNSAMPLES["conv3_layer"] = conv3_layer


# ---------------------------------------------------------------- branches of a block beside the mixer


def _depthwise(place: Place, **dd: Any) -> nn.Module:
    return DepthwiseConv(place.channels, 3, **dd)


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


def _mlp(place: Place, **dd: Any) -> nn.Module:
    return Mlp(place.channels, int(place.channels * place.ratio), **dd)


POSITIONS["depthwise"] = _depthwise
FFNS["mlp"] = _mlp
FFNS["conv_mlp"] = ConvMlp
FFNS["conv_mlp_act_first"] = partial(ConvMlp, act_first=True)


# ---------------------------------------------------------------- heads


class Head(NamedTuple):
    """From the last map to logits: norm, neck, mean over positions, another neck, classifier.

    Attributes:
        norm: of the map; what `forward_features` gives.
        neck: of each position.
        pooled: of the mean.
        size: features that the classifier reads.
        classifier: (size, classes).
    """

    norm: nn.Module
    size: int
    neck: nn.Module = nn.Identity()
    pooled: nn.Module = nn.Identity()
    classifier: Callable[..., nn.Module] = nn.Linear


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


def _norm_mean(channels: int, norm: str = "layer", epsilon: float = 1e-6, **dd: Any) -> Head:
    return Head(NORMS[norm](channels, epsilon, **dd), channels)


def _batch_mean_two(channels: int, **dd: Any) -> Head:
    return Head(MapBatchNorm(channels, **dd), channels, classifier=TwoClassifiers)


def _mean_norm(channels: int, **dd: Any) -> Head:
    return Head(nn.Identity(), channels, pooled=nn.LayerNorm(channels, eps=1e-6, **dd))


def _mean(channels: int, **dd: Any) -> Head:
    return Head(nn.Identity(), channels)


HEADS["norm_mean"] = _norm_mean
HEADS["norm5_mean"] = partial(_norm_mean, epsilon=1e-5)
HEADS["batch_mean"] = partial(_norm_mean, norm="batch")
HEADS["batch_mean_two"] = _batch_mean_two
HEADS["mean_norm"] = _mean_norm
HEADS["mean"] = _mean
