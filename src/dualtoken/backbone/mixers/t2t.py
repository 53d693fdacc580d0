"""T2T-ViT's stem: patches that overlap, mixed before they are joined to larger ones (Yuan 2021, arXiv 2101.11986).

Facts from github.com/yitu-opensource/T2T-ViT, whose stem goes on in the same way to stride 16; here it ends at stride
8, for pyramids that begin there: `create_model("lsnet_t", stem="t2t")`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.parts import STEMS

_CHANNELS = 64  # of a token between two splits
_FEATURES = 32  # that stand for a query or key


class Performer(nn.Module):
    """Attention in time linear in the tokens: exponentials of fixed random directions stand for queries and keys.

    The values are the residual, since the tokens come with other channels than they leave with.
    """

    directions: Tensor

    def __init__(self, inputs: int, **dd: Any) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(inputs, **dd)
        self.kqv = nn.Linear(inputs, 3 * _CHANNELS, **dd)
        self.proj = nn.Linear(_CHANNELS, _CHANNELS, **dd)
        self.drop = nn.Dropout(0.1)
        self.norm2 = nn.LayerNorm(_CHANNELS, **dd)
        self.mlp = nn.Sequential(
            nn.Linear(_CHANNELS, _CHANNELS, **dd), nn.GELU(), nn.Linear(_CHANNELS, _CHANNELS, **dd), nn.Dropout(0.1)
        )
        self.register_buffer("directions", torch.empty(_FEATURES, _CHANNELS, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Directions at right angles to each other; they are never trained."""
        nn.init.orthogonal_(self.directions)
        self.directions.mul_(math.sqrt(_FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, inputs) to (B, N, 64)"""
        k, q, v = self.kqv(self.norm1(x)).chunk(3, dim=-1)
        keys, queries = self._features(k), self._features(q)  # (B, N, 32)
        total = torch.matmul(queries, keys.sum(1)[..., None])  # (B, N, 1)
        whole = torch.matmul(keys.mT, v.to(keys.dtype))  # (B, 32, 64)
        x = v + self.drop(self.proj((torch.matmul(queries, whole) / (total + 1e-8)).to(v.dtype)))
        return x + self.mlp(self.norm2(x))

    def _features(self, x: Tensor) -> Tensor:
        whole = x if x.dtype == torch.float64 else x.float()  # the exponentials leave the range of half precision
        along = torch.matmul(whole, self.directions.to(whole.dtype).mT)
        return (along - whole.square().sum(-1, keepdim=True) / 2).exp() / math.sqrt(_FEATURES)


class TokensToTokens(nn.Module):
    """7 x 7 patches every 4 pixels, mixed; 3 x 3 of those every 2, and a linear layer."""

    def __init__(self, in_chans: int, channels: int, **dd: Any) -> None:
        super().__init__()
        self.mix = Performer(in_chans * 49, **dd)
        self.proj = nn.Linear(9 * _CHANNELS, channels, **dd)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, H, W) to (B, ceil(H/8), ceil(W/8), C)"""
        height, width = (-(-side // 4) for side in images.shape[2:])
        images = F.pad(images, (0, 4 * width - images.shape[3], 0, 4 * height - images.shape[2]))
        tokens = self.mix(F.unfold(images, 7, padding=2, stride=4).mT)  # (B, N, 64)
        joined = F.unfold(tokens.mT.unflatten(2, (height, width)), 3, padding=1, stride=2).mT
        return self.proj(joined).unflatten(1, (-(-height // 2), -(-width // 2)))


STEMS["t2t"] = TokensToTokens
