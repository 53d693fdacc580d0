"""FcaFormer: attention looks back at what earlier blocks of the stage have seen (Zhang et al. 2022, arXiv 2211.07198).

Each block condenses its map to cross tokens, 4 x 4 positions to one; the later blocks of the stage attend to them
beside the map. In our frame they travel as `g`, one map below the other, and a stage begins without any. Facts from
github.com/hkzhang-git/FcaFormer. Biases belong to one grid (of images of 224 pixels): farther positions share the last
one, and those of cross tokens are resized (both ours). An export with free sizes is tied to whether a map has
one row or column of cross tokens or several.
"""

# Annotations stay objects here (no __future__ import): TorchScript reads them.
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from dualtoken.backbone.area import area_resize
from dualtoken.backbone.branch import Place
from dualtoken.backbone.config import BackboneConfig, PyramidConfig
from dualtoken.backbone.layers import (
    DepthwiseConv,
    Mlp,
    channels_first,
    channels_last,
    join_heads,
    rows_and_columns,
    split_heads,
)
from dualtoken.backbone.mixers import MIXERS
from dualtoken.backbone.modules import ChannelsFirst, Scale
from dualtoken.backbone.parts import BLOCKS, DOWNSAMPLES
from dualtoken.backbone.pyramid import CarryingBlock
from dualtoken.backbone.stem import ConvNormAct

_MOST = 12  # blocks whose cross tokens are looked at


class ForwardCrossAttention(nn.Module):
    """Attention over the map and the cross tokens so far, with its residual; then a depth-wise convolution without one.

    Args:
        place: of the block; the first of a stage has nothing to look back at, the last leaves no cross tokens.
        scale: what the learned factor of the branch starts at; 0 for none.
        drop_path: probability of dropping the branch.
    """

    def __init__(self, place: Place, scale: float = 0.0, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        channels, self.heads, self.side = place.channels, place.heads, place.grid
        self.earlier = min(place.block, _MOST)
        self.norm = nn.LayerNorm(channels, **dd)
        self.qkv = nn.Linear(channels, 3 * channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)
        self.scale = Scale(channels, scale, **dd) if scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.bias = nn.Parameter(torch.empty(self.heads, self.side**2, **dd))
        self.cross_norm: nn.Module = nn.Identity()
        shape = (self.earlier, -(-self.side // 4), -(-self.side // 4))
        if self.earlier:
            self.cross_norm = nn.LayerNorm(channels, **dd)
        self.cross_bias = nn.Parameter(torch.empty(*shape, self.heads, **dd)) if self.earlier else None
        self.cross_scale = nn.Parameter(torch.empty(*shape, 1, **dd)) if self.earlier else None
        self.condense: nn.Module | None = None
        if place.block < place.depth - 1:
            self.condense = nn.Conv2d(channels, channels, 7, 4, 3, groups=channels, bias=False, **dd)
        self.local = ConvNormAct(channels, channels, groups=channels, act=None, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No biases at the start, and cross tokens as they are."""
        nn.init.zeros_(self.bias)
        if self.cross_bias is not None and self.cross_scale is not None:
            nn.init.zeros_(self.cross_bias)
            nn.init.ones_(self.cross_scale)

    def forward(self, x: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, H, W, C) to the same shape; g (B, k * ceil(H/4), ceil(W/4), C), or None, to those of k + 1 blocks."""
        height, width = x.shape[1], x.shape[2]
        down, right = rows_and_columns(x)
        far_down = (down[:, None] - down).abs().clamp(max=self.side - 1)
        far_right = (right[:, None] - right).abs().clamp(max=self.side - 1)
        bias = self.bias[:, far_down * self.side + far_right]  # (nh, N, N)
        seen = self.norm(x).flatten(1, 2)  # (B, N, C)
        if self.cross_bias is not None and self.cross_scale is not None and g is not None:
            rows, columns = (height + 3) // 4, (width + 3) // 4
            factors = area_resize(self.cross_scale, rows, columns).flatten(0, 1)  # (k * rows, columns, 1)
            cross = self.cross_norm(g[:, -self.earlier * rows :] * factors)
            seen = torch.cat([seen, cross.flatten(1, 2)], 1)  # (B, N + cross, C)
            more = area_resize(self.cross_bias, rows, columns).flatten(0, 2).t()[:, None]  # (nh, 1, cross)
            bias = torch.cat([bias, more.expand(-1, height * width, -1)], 2)
        q, k, v = self.qkv(seen[:, :, None]).chunk(3, dim=-1)
        q = split_heads(q, self.heads)[:, :, : height * width]
        y = F.scaled_dot_product_attention(q, split_heads(k, self.heads), split_heads(v, self.heads), attn_mask=bias)
        x = x + self.drop_path(self.scale(self.proj(join_heads(y, height, width))))
        if self.condense is not None:
            cross = channels_last(self.condense(channels_first(x)))
            g = cross if self.earlier == 0 or g is None else torch.cat([g, cross], 1)
        return channels_last(self.local(channels_first(x))), g


class FcaBlock(CarryingBlock):
    """At strides 4 and 8 a ConvNeXt block, after them forward cross attention and a feed-forward with two norms."""

    def __init__(self, config: PyramidConfig, place: Place, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        channels, start = place.channels, config.layer_scale[place.stage - config.level]
        self.mixer: nn.Module | None = None
        if place.stage > 1:
            self.mixer = ForwardCrossAttention(place, start, drop_path, **dd)
            self.ffn = nn.Sequential(nn.LayerNorm(channels, **dd), nn.LayerNorm(channels, **dd))
        else:
            self.ffn = nn.Sequential(DepthwiseConv(channels, 7, **dd), nn.LayerNorm(channels, eps=1e-6, **dd))
        self.ffn.append(Mlp(channels, int(channels * place.ratio), **dd))
        self.scale = Scale(channels, start, **dd) if start else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, H, W, C) and the stage's cross tokens so far to the same and more of them"""
        if self.mixer is not None:
            x, carried = self.mixer(x, carried)
        return x + self.drop_path(self.scale(self.ffn(x))), carried


def _mixer(config: BackboneConfig, stage: int, block: int = 0, drop_path: float = 0.0, **dd: Any) -> nn.Module:
    place = Place(config.channels[stage], config.heads[stage], stage + 1, block, config.depths[stage])
    return ForwardCrossAttention(place, drop_path=drop_path, **dd)


def _merging(inputs: int, outputs: int, **dd: Any) -> nn.Module:
    return ChannelsFirst(
        ConvNormAct(inputs, outputs, kernel=1, **dd),
        ConvNormAct(outputs, outputs, 2, groups=outputs, **dd),
        ConvNormAct(outputs, outputs, kernel=1, act=None, **dd),
    )


MIXERS["fcaformer"] = _mixer
BLOCKS["fcaformer"] = FcaBlock
DOWNSAMPLES["pointwise_depthwise"] = _merging
