"""ToMe: the tokens whose keys are most alike become one (Bolya et al. 2023, arXiv 2210.09461).

Facts from github.com/facebookresearch/ToMe.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualtoken.backbone.reductions import REDUCTIONS, Beside, ReducingBlock, Spot, add_at, take


class ToMe(ReducingBlock):
    """Merge the pairs of tokens whose keys are most alike, one of each pair from the even places.

    Every block merges as many, so that behind the last one the share `keep` is left.
    """

    def __init__(self, block: nn.Module, merged: int) -> None:
        super().__init__(block)
        self.merged = merged

    def reduce(self, x: Tensor, beside: Beside, weights: Tensor, keys: Tensor) -> tuple[Tensor, Beside]:
        """(B, N, C) to (B, N - merged, C), but to no fewer than half of the tokens"""
        merged = min(self.merged, (x.shape[1] - 1) // 2)
        if merged <= 0:
            return x, beside
        with torch.no_grad():
            key = torch.nn.functional.normalize(keys.mean(1), dim=-1)
            alike = torch.matmul(key[:, ::2], key[:, 1::2].transpose(1, 2))  # (B, even places, odd places)
            alike = torch.cat([torch.full_like(alike[:, :1], -torch.inf), alike[:, 1:]], 1)  # never the class token
            most, partner = alike.max(-1)
            order = most.topk(most.shape[1]).indices
            leaving, staying = order[:, :merged], order[:, merged:].sort(1).values
            partner = partner.gather(1, leaving)  # (B, merged)
        counted = x.new_ones(x.shape[0], x.shape[1], 1) if beside.size is None else beside.size

        def merge(tokens: Tensor) -> Tensor:
            even, odd = tokens[:, ::2], tokens[:, 1::2]
            return torch.cat([take(even, staying), add_at(odd, partner, take(even, leaving))], 1)

        counts = merge(counted)
        return merge(x * counted) / counts, beside._replace(size=counts)


def _tome(block: nn.Module, spot: Spot) -> ReducingBlock | None:
    return ToMe(block, round((1 - spot.keep) * spot.tokens / spot.depth))


REDUCTIONS["tome"] = _tome
