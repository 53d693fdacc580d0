"""SOFT: Gaussian kernels in place of softmax, through a few landmarks (Lu et al. 2021, arXiv 2110.11945).

Facts from github.com/fudan-zvg/SOFT. The mixer alone: the network carries a class token in its last stage, where
attention is plain, and puts its norms behind the residuals.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import join_heads, split_heads
from dualtoken.backbone.modules import Attention, Patches

_STEPS = 20  # of Newton's iteration
_RIDGE = 0.01


class KernelAttention(nn.Module):
    """K(x, landmarks) K(landmarks, landmarks)^-1 K(landmarks, x) v, and a convolution of the values for each head."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, self.heads = place.channels, place.heads
        per_head, kernel = channels // self.heads, (9, 5, 3)[place.stage]
        self.q = nn.Linear(channels, channels, **dd)
        self.v = nn.Linear(channels, channels, **dd)
        self.landmarks = Patches(per_head, per_head, 8 >> place.stage, bias=False, **dd)
        self.norm = nn.LayerNorm(per_head, **dd)
        self.act = nn.GELU()
        self.local = nn.Conv2d(self.heads, self.heads, kernel, padding=kernel // 2, groups=self.heads, bias=False, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        height, width = x.shape[1:3]
        v = self.v(x)
        q = self.q(x).unflatten(-1, (self.heads, -1)).permute(0, 3, 1, 2, 4)  # (B, nh, H, W, hd)
        q = q * q.shape[-1] ** -0.25
        marks = self.landmarks(q.flatten(0, 1)).flatten(1, 2).unflatten(0, (-1, self.heads))  # (B, nh, M, hd)
        marks = self.act(self.norm(marks))
        to_marks = _gaussian(q.flatten(2, 3), marks)  # (B, nh, N, M)
        values = torch.matmul(to_marks.transpose(2, 3), split_heads(v, self.heads))  # (B, nh, M, hd)
        mixed = torch.matmul(torch.matmul(to_marks, _inverse(_gaussian(marks, marks))), values)
        parts = v.unflatten(-1, (self.heads, -1)).permute(0, 4, 3, 1, 2)  # (B, hd, nh, H, W)
        local = self.local(parts.flatten(0, 1)).unflatten(0, (x.shape[0], -1)).permute(0, 3, 4, 2, 1).flatten(3)
        return self.proj(join_heads(mixed, height, width) + local)


def _gaussian(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a - b|^2 / 2) of all pairs: (..., N, d) and (..., M, d) to (..., N, M)"""
    squares = (a**2).sum(-1, keepdim=True) + (b**2).sum(-1)[..., None, :]
    return torch.exp(torch.matmul(a, b.transpose(-1, -2)) - squares / 2)


def _inverse(kernel: Tensor) -> Tensor:
    """Of (..., M, M), nearly: Newton's iteration, with the gradient of a true inverse."""
    ridge = kernel + _RIDGE * torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    with torch.no_grad():
        start = 1.8 / kernel.sum(-1).amax(-1)[..., None, None] ** 2
        inverse = start * ridge
        for _ in range(_STEPS):
            inverse = 2 * inverse - torch.matmul(torch.matmul(inverse, ridge), inverse)
    if kernel.requires_grad:  # nothing is added but the derivative
        inverse = inverse - torch.matmul(torch.matmul(inverse, ridge - ridge.detach()), inverse)
    return inverse


def _by_stage(place: Place, **dd: Any) -> nn.Module:
    return Attention(place, **dd) if place.stage > 2 else KernelAttention(place, **dd)


register_branch("soft", _by_stage)
