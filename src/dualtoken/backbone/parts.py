"""The parts of a pyramid, by the words that a `PyramidConfig` says; families add their own in `mixers/`.

Maps are (B, H, W, C) between parts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from dualtoken.backbone.branch import Place
from dualtoken.backbone.layers import DepthwiseConv, Mlp
from dualtoken.backbone.modules import (
    ChannelsFirst,
    ConvMlp,
    FromImages,
    GroupNorm1,
    ImagesLast,
    LearnedMap,
    MapBatchNorm,
    Patches,
    TwoClassifiers,
)
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


# ---------------------------------------------------------------- norms


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


def _patches_layer(in_chans: int, channels: int, **dd: Any) -> nn.Module:
    """Patches of 4 x 4 pixels and LayerNorm."""
    return nn.Sequential(ImagesLast(), Patches(in_chans, channels, 4, **dd), nn.LayerNorm(channels, eps=1e-6, **dd))


def _patches2_layer(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    """Patches of 2 x 2 positions and LayerNorm."""
    return nn.Sequential(Patches(inputs, outputs, 2, **dd), nn.LayerNorm(outputs, eps=1e-6, **dd))


STEMS["patches_layer"] = _patches_layer
DOWNSAMPLES["patches2_layer"] = _patches2_layer
STEMS["conv7_layer"] = conv7_layer
STEMS["two_convs"] = two_convs
STEMS["two_convs_bias"] = partial(two_convs, bias=True)
STEMS["two_convs_64"] = partial(two_convs, width=64)
STEMS["two_convs_relu"] = partial(two_convs, act=nn.ReLU, last=nn.ReLU, bias=True)
STEMS["two_convs_gelu"] = partial(two_convs, last=nn.GELU)
DOWNSAMPLES["conv3_batch"] = conv3_batch
DOWNSAMPLES["conv3_layer"] = conv3_layer


# ---------------------------------------------------------------- branches of a block beside the mixer


def _depthwise(place: Place, **dd: Any) -> nn.Module:
    return DepthwiseConv(place.channels, 3, **dd)


def _mlp(place: Place, **dd: Any) -> nn.Module:
    return Mlp(place.channels, int(place.channels * place.ratio), **dd)


POSITIONS["depthwise"] = _depthwise
POSITIONS["learned_map"] = LearnedMap
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


def _norm_mean(channels: int, norm: str = "layer", epsilon: float = 1e-6, **dd: Any) -> Head:
    return Head(NORMS[norm](channels, epsilon, **dd), channels)


def _batch_mean_two(channels: int, **dd: Any) -> Head:
    return Head(MapBatchNorm(channels, **dd), channels, classifier=TwoClassifiers)


def _mean_norm(channels: int, epsilon: float = 1e-6, **dd: Any) -> Head:
    return Head(nn.Identity(), channels, pooled=nn.LayerNorm(channels, eps=epsilon, **dd))


def _mean(channels: int, **dd: Any) -> Head:
    return Head(nn.Identity(), channels)


HEADS["norm_mean"] = _norm_mean
HEADS["norm5_mean"] = partial(_norm_mean, epsilon=1e-5)
HEADS["batch_mean"] = partial(_norm_mean, norm="batch")
HEADS["batch_mean_two"] = _batch_mean_two
HEADS["mean_norm"] = _mean_norm
HEADS["mean_norm5"] = partial(_mean_norm, epsilon=1e-5)
HEADS["mean"] = _mean
