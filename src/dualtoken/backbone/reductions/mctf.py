"""MCTF: tokens fuse by several criteria at once, before attention (Lee et al. 2024, arXiv 2403.10030).

Facts from github.com/mlvlab/MCTF, with the settings of its trained models.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.reductions import (
    REDUCTIONS,
    Beside,
    ReducingBlock,
    Spot,
    add_at,
    gather_values,
    take,
    weigh,
)

_INFORMATION, _SIZE = 20, 40  # how little these two criteria count beside likeness (their temperatures)
_LEAST = 10  # tokens that are always left


class MCTF(ReducingBlock):
    """Fuse tokens that are alike, that few look at and that stand for few others, from both sides of a halved list.

    Fused tokens are means by the attention that they got, and so are the queries of the weights, which are worked out
    before the fusion and used after it. Every block but the first fuses as many tokens, so that before the last one's
    attention the share `keep` is left.
    """

    def __init__(self, block: nn.Module, fused: int) -> None:
        super().__init__(block)
        self.fused = fused

    def forward(self, x: Tensor, beside: Beside) -> tuple[Tensor, Beside]:
        """(B, N, C) and sizes to (B, N - fused, C), but to no fewer than half of the tokens, nor than 10"""
        parts: Any = self
        attn, channels = parts.attn, x.shape[2]
        bias = attn.qkv.bias
        both = F.linear(parts.norm1(x), attn.qkv.weight[: 2 * channels], None if bias is None else bias[: 2 * channels])
        q, k = both.unflatten(-1, (2, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = weigh(attn, attn.q_norm(q), attn.k_norm(k), beside.size)
        x, beside, weights = self._fuse(x, beside, weights)
        v = F.linear(parts.norm1(x), attn.qkv.weight[2 * channels :], None if bias is None else bias[2 * channels :])
        v = v.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
        x = x + parts.drop_path1(parts.ls1(gather_values(attn, weights, v)))
        return self.feed_forward(x), beside

    def reduce(self, x: Tensor, beside: Beside, weights: Tensor, keys: Tensor) -> tuple[Tensor, Beside]:
        """(B, N, C) to (B, N - fused, C); this block does it before its attention."""
        x, beside, _ = self._fuse(x, beside, weights)
        return x, beside

    def _fuse(self, x: Tensor, beside: Beside, weights: Tensor) -> tuple[Tensor, Beside, Tensor]:
        number = x.shape[1]
        fused = min(self.fused, number - _LEAST, (number - 1) // 2)
        if fused <= 0:
            return x, beside, weights
        size = x.new_ones(x.shape[0], number, 1) if beside.size is None else beside.size
        with torch.no_grad():
            look = weights.mean((1, 2))[..., None]  # (B, N, 1): how much each token is looked at
            fusion = Fusion(_affinity(x, look, size), fused)
            share = look * (size / size.amax(1, keepdim=True))
            whole = fusion(share)
            counts = fusion(size)
        heads = weights.shape[1]
        columns = fusion(weights.permute(0, 3, 1, 2).flatten(2)).unflatten(2, (heads, number))  # (B, n, nh, N)
        rows = fusion((columns.permute(0, 3, 2, 1) * share[..., None]).flatten(2))  # (B, n, nh * n)
        weights = (rows / whole).unflatten(2, (heads, -1)).transpose(1, 2)
        return fusion(x * share) / whole, beside._replace(size=counts), weights


def _affinity(x: Tensor, look: Tensor, size: Tensor) -> Tensor:
    """(B, even places, odd places): the higher, the sooner two tokens fuse; never the class token."""
    unit = x / x.norm(dim=-1, keepdim=True)
    rare, small = 1 / look, 1 / size
    rare, small = rare / rare.amax(1, keepdim=True), small / small.amax(1, keepdim=True)
    alike = (torch.matmul(unit[:, ::2], unit[:, 1::2].transpose(1, 2)) + 1) / 2
    unseen = (rare[:, ::2] * rare[:, 1::2].transpose(1, 2)) ** (1 / _INFORMATION)
    single = (small[:, ::2] * small[:, 1::2].transpose(1, 2)) ** (1 / _SIZE)
    affinity = alike * unseen * single
    return torch.cat([torch.full_like(affinity[:, :1], -torch.inf), affinity[:, 1:]], 1)


class Fusion:
    """Sums of tokens: half of `fused` go from even places to odd ones, the others from odd to even ones that stayed."""

    def __init__(self, affinity: Tensor, fused: int) -> None:
        first, second = fused // 2, fused - fused // 2
        most, partner = affinity.max(-1)  # (B, even places)
        order = most.argsort(dim=-1, descending=True)
        self.leaving, self.staying = order[:, :first], order[:, first:].sort(1).values
        self.partner = partner.gather(1, self.leaving)
        back = take(affinity, self.staying).transpose(1, 2)  # (B, odd places, even places that stayed)
        most, partner = back.max(-1)
        order = most.argsort(dim=-1, descending=True)
        self.back_leaving, self.back_staying = order[:, :second], order[:, second:]
        self.back_partner = partner.gather(1, self.back_leaving)

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B, N, c) to (B, N - fused, c), the class token first"""
        even, odd = tokens[:, ::2], tokens[:, 1::2]
        odd = add_at(odd, self.partner, take(even, self.leaving))
        even = add_at(take(even, self.staying), self.back_partner, take(odd, self.back_leaving))
        return torch.cat([even, take(odd, self.back_staying)], 1)


def _mctf(block: nn.Module, spot: Spot) -> ReducingBlock | None:
    return MCTF(block, round((1 - spot.keep) * spot.tokens / max(1, spot.depth - 1))) if spot.block else None


REDUCTIONS["mctf"] = _mctf
