"""What the paper's ablations put in the place of a part; `BackboneConfig` names them."""

from __future__ import annotations

from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from dualtoken.backbone.layers import ChannelNorm, WindowAttention, attend, pad_to_multiple


class WindowEncoder(nn.Module):
    """Local tokens by self-attention within 7 x 7 windows: the ablation of the Conv Encoder."""

    def __init__(self, channels: int, heads: int, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, **dd)
        self.qkv = nn.Linear(channels, 3 * channels, **dd)
        self.attention = WindowAttention(heads, **dd)
        self.proj = nn.Linear(channels, channels, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        padded = pad_to_multiple(self.norm(x), self.attention.window)
        q, k, v = self.qkv(padded).chunk(3, dim=-1)
        mixed = self.attention(q, k, v)[:, : x.shape[1], : x.shape[2]]
        return x + self.drop_path(self.proj(mixed))


class CrossAttention(nn.Module):
    """The ablations' fusion: the global tokens attend to the aggregated map. No output projection (LightViT style)."""

    def __init__(self, channels: int, heads: int, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.heads = heads
        self.norm_g = ChannelNorm(channels, **dd)
        self.norm_x = ChannelNorm(channels, **dd)
        self.q = nn.Linear(channels, channels, **dd)
        self.kv = nn.Linear(channels, 2 * channels, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, g: Tensor | None, aggregated: Tensor) -> Tensor:
        assert g is not None
        k, v = self.kv(self.norm_x(aggregated)).chunk(2, dim=-1)
        return g + self.drop_path(attend(self.q(self.norm_g(g)), k, v, self.heads))


class WithoutTokens(nn.Module):
    """No tokens travel: the aggregated map takes their place within the block."""

    def forward(self, g: Tensor | None, aggregated: Tensor) -> Tensor:
        return aggregated
