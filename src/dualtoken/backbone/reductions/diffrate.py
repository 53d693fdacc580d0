"""DiffRate: how many tokens each block prunes and merges was learned (Chen et al. 2023, arXiv 2305.17997).

Facts and the learned numbers from github.com/OpenGVLab/DiffRate (`compression_rate.json`). The learning itself is left
out: the tables of DeiT serve other networks of as many blocks, and in between two tables (ours) their mean.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from dualtoken.backbone.reductions import REDUCTIONS, Beside, ReducingBlock, Spot, add_at, take
from dualtoken.errors import ConfigError

_ALL = 197  # tokens of the networks that the tables are of
_BLOCKS = 12
_Table = tuple[float, tuple[int, ...], tuple[int, ...]]  # 10^9 MACs; tokens after pruning, after merging, by block

# By channels: 10^9 MACs of the whole DeiT-T, S and B, and the learned tables of each.
_WHOLE = {192: 1.258, 384: 4.608, 768: 17.582}
_LEARNED: dict[int, tuple[_Table, ...]] = {
    192: (
        (0.6, (197, 196, 180, 157, 130, 107, 86, 73, 63, 51, 40, 3),
         (197, 187, 167, 139, 114, 90, 76, 66, 57, 45, 37, 3)),
        (0.7, (197, 196, 194, 180, 150, 123, 98, 82, 68, 60, 52, 3),
         (197, 196, 192, 158, 133, 103, 88, 72, 64, 58, 49, 3)),
        (0.8, (197, 197, 196, 186, 166, 147, 117, 103, 92, 80, 74, 3),
         (197, 196, 190, 172, 154, 125, 107, 96, 84, 78, 70, 3)),
        (0.9, (197, 197, 196, 190, 182, 166, 141, 125, 113, 105, 99, 3),
         (197, 196, 194, 188, 172, 147, 129, 115, 107, 103, 96, 3)),
        (1.0, (197, 197, 196, 194, 188, 184, 178, 164, 156, 137, 129, 21),
         (197, 197, 196, 190, 186, 154, 148, 156, 145, 135, 125, 21)),
    ),
    384: (
        (2.3, (197, 192, 168, 143, 121, 105, 92, 74, 62, 45, 33, 3),
         (197, 180, 156, 127, 109, 98, 80, 66, 52, 37, 31, 3)),
        (2.5, (197, 192, 174, 156, 131, 115, 111, 99, 76, 50, 39, 3),
         (197, 186, 160, 133, 119, 107, 96, 82, 66, 43, 37, 3)),
        (2.7, (197, 196, 182, 160, 141, 127, 115, 105, 88, 66, 49, 3),
         (197, 188, 170, 147, 131, 119, 109, 96, 76, 54, 45, 3)),
        (2.9, (197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3),
         (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3)),
        (3.1, (197, 197, 194, 180, 160, 147, 137, 129, 115, 92, 76, 3),
         (197, 196, 186, 164, 150, 141, 133, 121, 103, 78, 68, 3)),
    ),
    768: (
        (8.7, (197, 192, 172, 156, 131, 107, 90, 72, 56, 33, 17, 3),
         (197, 178, 162, 141, 115, 96, 78, 60, 47, 21, 13, 3)),
        (10.0, (197, 194, 182, 168, 148, 129, 113, 101, 82, 49, 25, 3),
         (197, 186, 174, 156, 137, 117, 105, 90, 66, 31, 19, 3)),
        (10.4, (197, 196, 188, 174, 156, 141, 121, 103, 90, 58, 25, 3),
         (197, 190, 184, 164, 145, 131, 107, 94, 74, 31, 21, 3)),
        (11.5, (197, 197, 197, 188, 170, 154, 139, 123, 107, 72, 43, 3),
         (197, 197, 192, 178, 158, 145, 127, 111, 94, 50, 35, 3)),
        (12.5, (197, 197, 196, 192, 184, 170, 154, 139, 129, 94, 58, 3),
         (197, 196, 194, 190, 176, 160, 145, 131, 115, 68, 47, 3)),
    ),
}  # fmt: skip


class DiffRate(ReducingBlock):
    """Drop what the class token looks at least, then merge the next ones each with the token most like it.

    `keep` is the share of the whole network's MACs. The tables of the DeiT of the nearest width are used.
    """

    def __init__(self, block: nn.Module, pruned: int, merged: int) -> None:
        super().__init__(block)
        self.after_pruning, self.after_merging = pruned, merged  # tokens that are left

    def reduce(self, x: Tensor, beside: Beside, weights: Tensor, keys: Tensor) -> tuple[Tensor, Beside]:
        """(B, N, C) to (B, after_merging, C)"""
        number = x.shape[1]
        kept = min(number, self.after_pruning)
        left = min(kept, self.after_merging)
        if left == number:
            return x, beside
        order = 1 + weights[:, :, 0, 1:].mean(1).topk(kept - 1).indices
        order = torch.cat([torch.zeros_like(order[:, :1]), order], 1)  # the class token, then the most looked at
        x = take(x, order)
        size = x.new_ones(x.shape[0], kept, 1) if beside.size is None else take(beside.size, order)
        if left == kept:
            return x, beside._replace(size=size)
        with torch.no_grad():
            unit = x / x.norm(dim=-1, keepdim=True)
            alike = torch.matmul(unit[:, left:], unit[:, 1:left].transpose(1, 2))  # never the class token
            most, partner = alike.max(-1)
            partner = partner + 1
            counts = add_at(x.new_ones(x.shape[0], left, 1), partner, x.new_ones(x.shape[0], kept - left, 1))
        x = add_at(x[:, :left], partner, x[:, left:]) / counts  # their mean, whatever they stand for
        return x, beside._replace(size=add_at(size[:, :left], partner, size[:, left:] * most[..., None]))


def _diffrate(block: nn.Module, spot: Spot) -> ReducingBlock | None:
    if spot.keep == 1:
        return None
    if spot.depth != _BLOCKS:
        raise ConfigError(
            f"diffrate has learned numbers for {_BLOCKS} blocks, this network has {spot.depth}.",
            "Take tome, which needs none.",
        )
    channels = min(_LEARNED, key=lambda channels: abs(channels - spot.channels))
    points = [
        (macs / _WHOLE[channels], pruned[spot.block] / _ALL, merged[spot.block] / _ALL)
        for macs, pruned, merged in _LEARNED[channels]
    ]
    points.append((1, 1, 1))
    least = points[0][0]
    if spot.keep < round(least, 2) - 0.005:
        raise ConfigError(
            f"keep is {spot.keep}, expected at least {least:.2f}: diffrate has learned numbers down to there.",
            "Take tome or evit, which go lower.",
        )
    keep = max(spot.keep, least)
    below, above = next((a, b) for a, b in pairwise(points) if keep <= b[0])
    way = (keep - below[0]) / (above[0] - below[0])
    pruned, merged = (round((1 + spot.tokens) * (a + way * (b - a))) for a, b in zip(below[1:], above[1:], strict=True))
    return DiffRate(block, max(2, pruned), max(2, merged))


REDUCTIONS["diffrate"] = _diffrate
