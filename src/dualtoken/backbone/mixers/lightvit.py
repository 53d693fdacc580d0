"""The baseline's mixer: window attention and normal global tokens (LightViT, Huang et al. 2022, arXiv 2207.05557)."""

from __future__ import annotations

from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from dualtoken.backbone.config import BackboneConfig
from dualtoken.backbone.layers import ChannelNorm, WindowAttention, attend, pad_to_multiple
from dualtoken.backbone.mixers import MIXERS


class LightViTMixer(nn.Module):
    """Image tokens attend within their window and to the global tokens, which first attend to all image tokens.

    One norm, one query-key-value projection and one output projection serve both streams.
    """

    def __init__(self, config: BackboneConfig, stage: int, block: int = 0, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        channels, self.heads = config.channels[stage], config.heads[stage]
        self.norm = ChannelNorm(channels, **dd)
        self.qkv = nn.Linear(channels, 3 * channels, **dd)
        self.local = WindowAttention(self.heads, **dd)
        self.kv_global = nn.Linear(channels, 2 * channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, H, W, C) and g (B, 1, tokens, C) to the same shapes."""
        assert g is not None
        height, width = x.shape[1], x.shape[2]
        qkv = self.qkv(pad_to_multiple(self.norm(x), self.local.window))
        q, k, v = qkv.chunk(3, dim=-1)
        x_local = self.local(q, k, v)[:, :height, :width]

        q, k, v = qkv[:, :height, :width].chunk(3, dim=-1)
        q_global = self.qkv(self.norm(g)).chunk(3, dim=-1)[0]
        tokens = attend(q_global, k, v, self.heads)  # aggregation: (B, 1, tokens, C)
        k_global, v_global = self.kv_global(tokens).chunk(2, dim=-1)
        x_global = attend(q, k_global, v_global, self.heads)  # broadcast: (B, H, W, C)

        mixed, update = self.proj(x_local + x_global), self.proj(tokens)
        return x + self.drop_path(mixed), g + self.drop_path(update)


MIXERS["lightvit"] = LightViTMixer
