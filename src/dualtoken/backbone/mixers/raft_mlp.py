"""RaftMLP: each column, then each row, as one vector of its positions (Tatsunami and Taki 2022, arXiv 2108.04384).

Half the channels' positions (a "raft") are mixed together with the other half's. Facts from
github.com/okojoalg/raft-mlp. The layers belong to one grid: there maps of another size are
resized and resized back as a whole, here the branch alone is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from dualtoken.backbone.area import area_resize
from dualtoken.backbone.branch import Place, find_branch, register_branch
from dualtoken.backbone.config import PyramidConfig
from dualtoken.backbone.layers import Mlp, channels_first, channels_last, pad_to_multiple
from dualtoken.backbone.modules import ImagesLast
from dualtoken.backbone.parts import BLOCKS, DOWNSAMPLES, FFNS, STEMS
from dualtoken.errors import ConfigError

_RAFTS = 2


class RaftMlp(nn.Module):
    """An MLP over the positions of each column, for the channels of both rafts at the same place in theirs."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.grid = place.grid
        self.mlp = Mlp(_RAFTS * self.grid, 2 * _RAFTS * self.grid, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        columns = area_resize(x, self.grid, self.grid).unflatten(-1, (_RAFTS, -1)).permute(0, 2, 4, 3, 1)
        mixed = self.mlp(columns.flatten(3)).unflatten(3, (_RAFTS, -1))  # (B, W, C / 2, 2, H)
        return area_resize(mixed.permute(0, 4, 1, 3, 2).flatten(3), x.shape[1], x.shape[2])


class RaftMixing(nn.Module):
    """Columns, then rows; a norm between them."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.columns = RaftMlp(place, **dd)
        self.norm = nn.LayerNorm(place.channels, **dd)
        self.rows = RaftMlp(place, **dd)

    def along_rows(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C): the second of the two, with its norm"""
        return self.rows(self.norm(x).transpose(1, 2)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        columns = self.columns(x)
        return columns + self.along_rows(x + columns)


class RaftBlock(nn.Module):
    """Columns, rows and channels, each with its norm and its residual.

    Raises:
        ConfigError: another mixer than `raft_mlp`.
    """

    def __init__(self, config: PyramidConfig, place: Place, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(place.channels, **dd)
        mixer = find_branch(config.mixer)(place, **dd)
        if not isinstance(mixer, RaftMixing):
            raise ConfigError(f"mixer is {config.mixer!r}, expected 'raft_mlp': the block 'raft' is made for it.")
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(place.channels, **dd)
        self.ffn = FFNS.find(config.ffn)(place, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        x = x + self.drop_path(self.mixer.columns(self.norm1(x)))
        x = x + self.drop_path(self.mixer.along_rows(x))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class PatchesOfScales(nn.Module):
    """Overlapping patches of several sides, as far apart as the least of them is wide, and one linear layer of all."""

    def __init__(self, inputs: int, outputs: int, sides: tuple[int, ...], **dd: Any) -> None:
        super().__init__()
        self.stride = sides[0]
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, side, self.stride, (side - self.stride) // 2, bias=side == self.stride, **dd)
            for side in sides
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H/stride), ceil(W/stride), C')"""
        x = channels_first(pad_to_multiple(x, self.stride))
        y = self.convs[0](x)
        for conv in self.convs[1:]:
            y = y + conv(x)
        return channels_last(y)


def _stem(in_chans: int, channels: int, **dd: Any) -> nn.Module:
    return nn.Sequential(ImagesLast(), PatchesOfScales(in_chans, channels, (4, 8), **dd))


register_branch("raft_mlp", RaftMixing)
BLOCKS["raft"] = RaftBlock
STEMS["patches_4_8"] = _stem
DOWNSAMPLES["patches_2_4"] = partial(PatchesOfScales, sides=(2, 4))
DOWNSAMPLES["patches_2"] = partial(PatchesOfScales, sides=(2,))
