"""ViR: retention, attention without a softmax that fades along the raster (Hatamizadeh et al. 2023, arXiv 2310.19731).

The authors released no code; facts from github.com/BrianPulfer/vision-retention-networks, a reproduction by others. The
mixer alone: causal, so that a position sees what is above it and left of it only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch


class Retention(nn.Module):
    """Products of queries and keys, each head with its own linear layer on its own channels and with its own decay."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        per_head = place.channels // place.heads
        self.qkv = nn.ModuleList(nn.Linear(per_head, 3 * per_head, **dd) for _ in range(place.heads))
        self.norm = nn.LayerNorm(place.channels, **dd)
        self.act = nn.GELU()
        self.proj = nn.Linear(place.channels, place.channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        heads = len(self.qkv)
        parts = x.flatten(1, 2).chunk(heads, dim=-1)  # each (B, N, hd)
        q, k, v = torch.stack([qkv(part) for qkv, part in zip(self.qkv, parts, strict=True)], 1).chunk(3, dim=-1)
        number = q.shape[2]
        place = torch.arange(number, device=x.device)
        far = place[:, None] - place
        whole = torch.float64 if x.dtype == torch.float64 else torch.float32
        keep = 1 - 2.0 ** (-5 - torch.arange(heads, device=x.device, dtype=whole))
        fade = keep[:, None, None] ** far.clamp(min=0) * (far >= 0)  # (nh, N, N)
        seen = torch.matmul(q * q.shape[-1] ** -0.5, k.mT) * fade.to(q.dtype)
        y = torch.matmul(seen, v).transpose(1, 2).flatten(2)  # (B, N, C)
        return self.proj(self.act(self.norm(y))).unflatten(1, x.shape[1:3])


register_branch("vir", Retention)
