"""NiNformer: a small MLP-Mixer is the gate of a linear layer (Abdullah et al. 2024, arXiv 2403.02411).

Facts from github.com/Abdullah-88/NiNformer, published for small data alone. The mixer over tokens belongs to one grid
(of images of 224 pixels): maps of another size are resized to it and back (ours).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dualtoken.backbone.area import area_resize
from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.layers import Mlp, TokenLinear


class MixerGate(nn.Module):
    """linear(x) * mixer(x), where the mixer is an MLP over the positions and one over the channels, with residuals."""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels, self.grid, hidden = place.channels, place.grid, int(place.channels * place.ratio)
        self.norm1 = nn.LayerNorm(channels, **dd)
        self.tokens = nn.Sequential(
            TokenLinear(self.grid**2, hidden, **dd), nn.GELU(), TokenLinear(hidden, self.grid**2, **dd)
        )
        self.norm2 = nn.LayerNorm(channels, **dd)
        self.channels = Mlp(channels, hidden, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        tokens = self.tokens(area_resize(self.norm1(x), self.grid, self.grid).flatten(1, 2))  # (B, N, C)
        gate = x + area_resize(tokens.unflatten(1, (self.grid, self.grid)), x.shape[1], x.shape[2])
        return self.proj(x) * (gate + self.channels(self.norm2(gate)))


register_branch("ninformer", MixerGate)
