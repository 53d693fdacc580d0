"""Attention under a mixture of Gaussians of the distance (Li and Zhang 2023, arXiv 2309.05375), for small data sets.

Facts from github.com/CatworldLee/Gaussian-Mixture-Mask-Attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import join_heads, rows_and_columns, split_heads

_COMPONENTS = 3


class MaskedAttention(nn.Module):
    """The logits times a sum of three Gaussians, each with a learned width and weight for every head."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        self.heads = place.heads
        self.sigma, self.alpha = (nn.Parameter(torch.empty(_COMPONENTS, self.heads, 1, 1, **dd)) for _ in range(2))
        self.qkv = nn.Linear(place.channels, 3 * place.channels, bias=False, **dd)
        self.proj = nn.Linear(place.channels, place.channels, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Widths of about 10 positions, weights of either sign, as the official code draws them."""
        nn.init.normal_(self.sigma, 10, 10)
        nn.init.normal_(self.alpha, 0, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))  # (B, nh, N, hd)
        down, right = rows_and_columns(x)
        far = (down[:, None] - down) ** 2 + (right[:, None] - right) ** 2  # (N, N)
        mask = (self.alpha * torch.exp(-far.to(x.dtype) / (2 * (self.sigma**2 + 1e-5)))).sum(0)  # (nh, N, N)
        logits = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3)) * mask
        return self.proj(join_heads(torch.matmul(logits.softmax(-1), v), height, width))


register_branch("gmm", MaskedAttention)
