"""GTP: what leaves is handed to its neighbours in a graph (Xu et al. 2024, arXiv 2311.03035).

Facts from github.com/Ackesnal/GTP-ViT: its selection and graph of DeiT (mixed attention, neighbours on the image and in
likeness), with all of the attention (no sparsity, which saves nothing in dense products).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualtoken.backbone.reductions import REDUCTIONS, Beside, ReducingBlock, Spot, take

_ALIKE = 8  # neighbours of a token by likeness, beside those on the grid
_HANDED = 0.1  # share of a leaving token that its neighbours get


class GTP(ReducingBlock):
    """Drop the tokens that look least at themselves and are looked at least, after handing a tenth of each on.

    The graph is made once, of the tokens before the first block. Every block drops as many, so that behind the last one
    the share `keep` is left.
    """

    def __init__(self, block: nn.Module, dropped: int, grid: tuple[int, int]) -> None:
        super().__init__(block)
        self.dropped, self.grid = dropped, grid

    def forward(self, x: Tensor, beside: Beside) -> tuple[Tensor, Beside]:
        """(B, N, C) to (B, N - dropped, C)"""
        if beside.graph is None and self.dropped > 0:
            beside = Beside(x.new_ones(x.shape[0], x.shape[1], 1), _graph(x[:, 1:], self.grid))
        return super().forward(x, beside)

    def reduce(self, x: Tensor, beside: Beside, weights: Tensor, keys: Tensor) -> tuple[Tensor, Beside]:
        """(B, N, C) to (B, N - dropped, C), but to no fewer than one token beside the class token"""
        size, graph = beside
        number = x.shape[1] - 1
        kept = max(1, number - self.dropped)
        if kept == number or size is None or graph is None:
            return x, beside
        itself = weights.diagonal(dim1=2, dim2=3)[:, :, 1:].amax(1)
        seen = weights[..., 1:].sum(2).amax(1)
        order = (itself * seen).topk(number).indices  # (B, N - 1), the best first
        staying, leaving = order[:, :kept], order[:, kept:]
        rows = take(graph, staying).transpose(1, 2)  # (B, N - 1, kept)
        graph, to = take(rows, staying).transpose(1, 2), take(rows, leaving).transpose(1, 2)

        def hand_on(tokens: Tensor) -> Tensor:
            image = tokens[:, 1:]
            received = torch.matmul(to, take(image, leaving))
            return torch.cat([tokens[:, :1], take(image, staying) + _HANDED * received], 1)

        return hand_on(x), Beside(hand_on(size), graph)


def _graph(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, C) to the graph (B, N, N), each edge divided by the roots of its two ends' degrees."""
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    alike = torch.matmul(unit, unit.transpose(1, 2))
    number = alike.shape[2]
    least = alike.topk(min(_ALIKE + 1, number)).values[..., -1:]  # a token is most like itself
    place = torch.arange(number, device=tokens.device)
    row, column = place // grid[1], place % grid[1]
    beside = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
    itself = place[:, None] == place
    edges = ((beside | (alike >= least)) & ~itself).to(tokens.dtype)
    root = edges.sum(-1, keepdim=True).rsqrt()
    return root * edges * root.transpose(1, 2)


def _gtp(block: nn.Module, spot: Spot) -> ReducingBlock | None:
    return GTP(block, round((1 - spot.keep) * spot.tokens / spot.depth), spot.grid)


REDUCTIONS["gtp"] = _gtp
