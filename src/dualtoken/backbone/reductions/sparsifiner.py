"""Sparsifiner: each token looks at few others, chosen by a cheap guess of its attention (Wei 2023, arXiv 2303.13755).

Facts from github.com/lim142857/Sparsifiner and its default config. In dense products, as here, nothing is saved, and
the guess is paid beside: what is to be had is the accuracy of a sparse attention, for machines that can use it. The
guess starts at random; its own loss travels with any training of the network.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from dualtoken.backbone.reductions import (
    REDUCTIONS,
    Beside,
    ReducingBlock,
    Spot,
    gather_values,
    queries_keys_values,
    weigh,
)

_TOKENS, _CHANNELS = 6, 2  # so many times fewer of both in the guess
_COEFFICIENTS = 8  # of a token's guess that count
_LEAST = 0.02  # of what they multiply
_LOSS_WEIGHT = 0.01


class Sparsifiner(ReducingBlock):
    """A token looks at the share `keep` of the others, for each head; the class token at all of them.

    Where the guess has several keys equal to the last that counts, all of them count.
    """

    def __init__(self, block: nn.Module, spot: Spot) -> None:
        super().__init__(block)
        heads = int(block.attn.num_heads)  # type: ignore[union-attr, arg-type]
        tokens = 1 + spot.tokens
        self.kept = math.ceil(spot.keep * tokens)
        self.guess = Guess(tokens, spot.channels // heads, heads, spot.depth, like=next(block.parameters()))

    def forward(self, x: Tensor, beside: Beside) -> tuple[Tensor, Beside]:
        """(B, N, C) to the same shape"""
        parts: Any = self
        q, k, v = queries_keys_values(parts.attn, parts.norm1(x))
        with torch.no_grad():
            score = self.guess(q, k)  # (B, nh, N - 1, N)
            mask = score >= score.topk(self.kept).values[..., -1:]
            mask = torch.cat([torch.ones_like(mask[:, :, :1]), mask], 2)
        if self.training:
            v = _WithLoss.apply(v, self.guess.loss(q.detach(), k.detach(), weigh(parts.attn, q, k).detach()))
        mixed = gather_values(parts.attn, weigh(parts.attn, q, k, mask=mask), v)
        return self.feed_forward(x + parts.drop_path1(parts.ls1(mixed))), beside

    def reduce(self, x: Tensor, beside: Beside, weights: Tensor, keys: Tensor) -> tuple[Tensor, Beside]:
        """As they are: no token goes."""
        return x, beside


class Guess(nn.Module):
    """The attention of all tokens but the class token, as sums of a few learned rows."""

    def __init__(self, tokens: int, channels: int, heads: int, depth: int, like: Tensor) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        fewer = max(1, tokens // _TOKENS)
        self.scale = heads**-0.5  # of the heads, as in the official code
        self.share = _LOSS_WEIGHT / depth
        self.q = nn.Linear(channels, channels // _CHANNELS, **dd)
        self.k = nn.Linear(channels, channels // _CHANNELS, **dd)
        self.gather = nn.Parameter(torch.empty(tokens, fewer, **dd))
        self.rows = nn.Parameter(torch.empty(tokens, fewer, **dd))
        trunc_normal_(self.gather, std=0.02)
        trunc_normal_(self.rows, std=0.02)

    def coefficients(self, q: Tensor, k: Tensor) -> Tensor:
        """Queries and keys (B, nh, N, hd) to the weights (B, nh, N - 1, fewer) of the learned rows."""
        keys = torch.matmul(self.k(k).transpose(2, 3), self.gather)  # (B, nh, hd / 2, fewer)
        return (torch.matmul(self.q(q)[:, :, 1:], keys) * self.scale).softmax(-1)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, nh, N - 1, N): the higher, the sooner a query looks at a key; of few coefficients and no small rows"""
        weights = self.coefficients(q, k)
        if weights.shape[-1] > _COEFFICIENTS:
            largest = weights.topk(_COEFFICIENTS)
            weights = torch.zeros_like(weights).scatter(-1, largest.indices, largest.values)
        size = self.rows.abs()
        return torch.matmul(weights, torch.where(size > _LEAST, size, 0).transpose(0, 1))

    def loss(self, q: Tensor, k: Tensor, attention: Tensor) -> Tensor:
        """How far it is from the attention (B, nh, N, N): squares, summed over all but the images of a batch."""
        far = torch.matmul(self.coefficients(q, k), self.rows.transpose(0, 1)) - attention[:, :, 1:]
        return self.share * far.square().sum() / len(q)


class _WithLoss(torch.autograd.Function):
    """Hands on a tensor as it is, and has the gradient of the network's loss hold that of another loss as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.dtype = loss.dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones((), dtype=ctx.dtype)


def _sparsifiner(block: nn.Module, spot: Spot) -> ReducingBlock | None:
    return Sparsifiner(block, spot) if spot.keep < 1 else None


REDUCTIONS["sparsifiner"] = _sparsifiner
