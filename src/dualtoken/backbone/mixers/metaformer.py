"""Mixers that hardly mix: PoolFormer (Yu et al. 2022, arXiv 2111.11418) and the MetaFormer baselines IdentityFormer,
RandFormer, ConvFormer and CAFormer (Yu et al. 2023, arXiv 2210.13452).

Facts from github.com/sail-sg/poolformer and github.com/sail-sg/metaformer. The networks PoolFormer, PoolFormerV2,
ConvFormer and CAFormer are timm's own; the other two differ from them in the mixer alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.area import area_resize
from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import DepthwiseConv, channels_first, channels_last
from dualtoken.backbone.modules import Attention, ChannelsFirst, StarReLU
from dualtoken.backbone.official import OFFICIAL, Official
from dualtoken.backbone.parts import DOWNSAMPLES, FFNS, STEMS, conv7_layer


class Pool(nn.Module):
    """The mean of the 3 x 3 neighbours that lie within the map, less the position itself."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        return channels_last(F.avg_pool2d(channels_first(x), 3, 1, 1, count_include_pad=False)) - x


class RandomMixing(nn.Module):
    """A frozen random matrix over the grid of 224 pixels; maps of other sizes are resized to it and back (ours)."""

    matrix: Tensor

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.grid = place.grid
        self.register_buffer("matrix", torch.empty(self.grid**2, self.grid**2, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Softmax of uniform noise over each row."""
        nn.init.uniform_(self.matrix)
        self.matrix.copy_(self.matrix.softmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        tokens = area_resize(x, self.grid, self.grid).flatten(1, 2)  # (B, N, C)
        mixed = torch.matmul(self.matrix, tokens).unflatten(1, (self.grid, self.grid))
        return area_resize(mixed, x.shape[1], x.shape[2])


class SepConv(nn.Module):
    """Linear to twice the width, StarReLU, depth-wise 7 x 7, linear back; no biases."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        self.widen = nn.Linear(channels, 2 * channels, bias=False, **dd)
        self.act = StarReLU(**dd)
        self.depthwise = DepthwiseConv(2 * channels, 7, bias=False, **dd)
        self.narrow = nn.Linear(2 * channels, channels, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        return self.narrow(self.depthwise(self.act(self.widen(x))))


def _pool(place: Place, **dd: Any) -> nn.Module:
    return Pool()


def _identity(place: Place, **dd: Any) -> nn.Module:
    return nn.Identity()


def _random(place: Place, **dd: Any) -> nn.Module:
    """Stages 3 and 4 mix, those before leave the map as it is."""
    return RandomMixing(place, **dd) if place.stage > 1 else nn.Identity()


def _conv_then_attention(place: Place, **dd: Any) -> nn.Module:
    return Attention(place, bias=False, proj_bias=False, **dd) if place.stage > 1 else SepConv(place, **dd)


register_branch("pool", _pool)
register_branch("identity", _identity)
register_branch("random", _random)
register_branch("sep_conv", SepConv)
register_branch("conv_attention", _conv_then_attention)


# ---------------------------------------------------------------- what the two networks have beside their mixer


class StarMlp(nn.Module):
    """Linear, StarReLU, linear; no biases."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        hidden = int(place.channels * place.ratio)
        self.fc1 = nn.Linear(place.channels, hidden, bias=False, **dd)
        self.act = StarReLU(**dd)
        self.fc2 = nn.Linear(hidden, place.channels, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        return self.fc2(self.act(self.fc1(x)))


def _norm_conv3(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    """LayerNorm without bias, then a 3 x 3 convolution of stride 2."""
    norm = nn.LayerNorm(inputs, eps=1e-6, bias=False, **dd)
    return nn.Sequential(norm, ChannelsFirst(nn.Conv2d(inputs, outputs, 3, 2, 1, **dd)))


STEMS["metaformer"] = partial(conv7_layer, epsilon=1e-6, norm_bias=False)
DOWNSAMPLES["norm_conv3"] = _norm_conv3
FFNS["star_mlp"] = StarMlp


OFFICIAL["identityformer"] = OFFICIAL["randformer"] = Official(
    (
        (r"^stem\.0\.0", "downsample_layers.0.conv"),
        (r"^stem\.1", "downsample_layers.0.post_norm"),
        (r"^stages\.(\d)\.merge\.0", r"downsample_layers.\1.pre_norm"),
        (r"^stages\.(\d)\.merge\.1\.0", r"downsample_layers.\1.conv"),
        (r"\.blocks\.", "."),
        (r"\.mixer\.matrix", ".token_mixer.random_matrix"),
        (r"\.ffn\.", ".mlp."),
        (r"\.skip(\d)\.weight", r".res_scale\1.scale"),
        (r"^pooled_neck", "norm"),
    ),
    crop_pct=1.0,
)
