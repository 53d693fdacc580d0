"""T2T-ViT's stem: patches that overlap, mixed before they are joined to larger ones (Yuan 2021, arXiv 2101.11986).

Behind it stands a plain vision transformer (`plain.py`). Facts from github.com/yitu-opensource/T2T-ViT, its Performer
variant. At stride 8 the stem also serves pyramids that begin there: `create_model("lsnet_t", stem="t2t")`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualtoken.backbone.official import OFFICIAL, Official, numbered
from dualtoken.backbone.parts import STEMS

_CHANNELS = 64  # of a token between two splits
_FEATURES = 32  # that stand for a query or key
_LEAST = _FEATURES * 1e-8  # of a sum of weights: 1e-8 of their mean, which exporters to ONNX would take for nothing


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
        x = v + self.drop(self.proj((torch.matmul(queries, whole) / (total + _LEAST)).to(v.dtype)))
        return x + self.mlp(self.norm2(x))

    def _features(self, x: Tensor) -> Tensor:
        whole = x if x.dtype == torch.float64 else x.float()  # the exponentials leave the range of half precision
        along = torch.matmul(whole, self.directions.to(whole.dtype).mT)
        return (along - whole.square().sum(-1, keepdim=True) / 2).exp()


class TokensToTokens(nn.Module):
    """7 x 7 patches every 4 pixels, mixed; then 3 x 3 of them every 2, mixed if such a step follows; a linear layer.

    Args:
        stride: 8 or 16.
    """

    def __init__(self, in_chans: int, channels: int, stride: int = 8, **dd: Any) -> None:
        super().__init__()
        joined = 9 * _CHANNELS
        self.mixes = nn.ModuleList(Performer(inputs, **dd) for inputs in (in_chans * 49, joined)[: stride // 8])
        self.proj = nn.Linear(joined, channels, **dd)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, H, W) to (B, ceil(H/stride), ceil(W/stride), C)"""
        height, width = (-(-side // 4) for side in images.shape[2:])
        images = F.pad(images, (0, 4 * width - images.shape[3], 0, 4 * height - images.shape[2]))
        tokens = F.unfold(images, 7, padding=2, stride=4).mT
        for mix in self.mixes:
            mixed = mix(tokens).mT.unflatten(2, (height, width))  # (B, 64, height, width)
            tokens = F.unfold(mixed, 3, padding=1, stride=2).mT
            height, width = -(-height // 2), -(-width // 2)
        return self.proj(tokens).unflatten(1, (height, width))


STEMS["t2t"] = TokensToTokens
STEMS["t2t_16"] = partial(TokensToTokens, stride=16)

OFFICIAL["t2t_vit"] = Official(
    (
        (r"^patch_embed\.stem\.mixes\.(\d)", numbered("tokens_to_token.attention{}", 1, 1)),
        (r"^patch_embed\.stem\.proj", "tokens_to_token.project"),
        (r"\.directions$", ".w"),
    ),
    crop_pct=0.9,
)
