"""MAXIM: half of the channels is mixed within blocks, half across a grid of cells (Tu et al. 2022, arXiv 2201.02973).

Facts from github.com/google-research/maxim. The multi-axis gated MLP alone: the paper's network restores images. Blocks
and grid are 7 x 7 here, which divides our maps at 224 pixels; other maps are padded with zeros (both ours).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import ChannelNorm, TokenLinear, pad_to_multiple

_SIDE = 7


class GatedMlp(nn.Module):
    """gMLP: half of the hidden channels, mixed over the positions, is the gate of the other half."""

    def __init__(self, channels: int, **dd: Any) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, **dd)
        self.proj_in = nn.Linear(channels, 2 * channels, **dd)
        self.act = nn.GELU("tanh")
        self.gate_norm = ChannelNorm(channels, **dd)
        self.gate = TokenLinear(_SIDE**2, _SIDE**2, **dd)
        self.proj_out = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 49, C) to (B, 49, C)"""
        kept, gate = self.act(self.proj_in(self.norm(x))).chunk(2, dim=-1)
        return x + self.proj_out(kept * (self.gate(self.gate_norm(gate)) + 1))


class MultiAxisMlp(nn.Module):
    """One half is mixed over the same place of each of 7 x 7 cells, the other over the 7 x 7 places of a block."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        self.proj_in = nn.Linear(channels, 2 * channels, **dd)
        self.act = nn.GELU("tanh")
        self.grid, self.block = GatedMlp(channels, **dd), GatedMlp(channels, **dd)
        self.proj_out = nn.Linear(2 * channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        far, near = self.act(self.proj_in(pad_to_multiple(x, _SIDE))).chunk(2, dim=-1)
        cells = far.unflatten(2, (_SIDE, -1)).unflatten(1, (_SIDE, -1)).permute(0, 2, 4, 1, 3, 5)  # (B, h, w, 7, 7, C)
        rows, columns = cells.shape[1:3]
        mixed = self.grid(cells.flatten(3, 4).flatten(0, 2))  # (B * h * w, 49, C)
        cells = mixed.unflatten(1, (_SIDE, _SIDE)).unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5)
        blocks = near.unflatten(2, (-1, _SIDE)).unflatten(1, (-1, _SIDE)).transpose(2, 3)  # (B, h, w, 7, 7, C)
        mixed = self.block(blocks.flatten(3, 4).flatten(0, 2))
        blocks = mixed.unflatten(1, (_SIDE, _SIDE)).unflatten(0, (-1, rows, columns)).transpose(2, 3)
        both = torch.cat([part.flatten(3, 4).flatten(1, 2) for part in (cells, blocks)], -1)
        return self.proj_out(both)[:, :height, :width]


register_branch("maxim", MultiAxisMlp)
