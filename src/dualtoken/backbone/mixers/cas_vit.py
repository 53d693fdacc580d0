"""CAS-ViT: convolutional additive self-attention (Zhang et al. 2024, arXiv 2408.03703).

Queries and keys each pass a spatial and a channel gate, are added, and a convolution of the sum weighs the values:
no softmax, no heads, cost linear in the positions. Facts from github.com/Tianfang-Zhang/CAS-ViT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dualtoken.backbone.branch import Place, register_branch
from dualtoken.backbone.modules import ChannelsFirst
from dualtoken.backbone.official import OFFICIAL, Official, numbered
from dualtoken.backbone.parts import POSITIONS
from dualtoken.backbone.stem import ConvNormAct


class Gates(nn.Module):
    """Weigh each position by a number, then each channel by one; both from sigmoids."""

    def __init__(self, channels: int, **dd: Any) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            ConvNormAct(channels, channels, groups=channels, act=nn.ReLU, bias=True, **dd),
            nn.Conv2d(channels, 1, 1, bias=False, **dd),
        )
        self.channel = nn.Conv2d(channels, channels, 1, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)"""
        x = x * torch.sigmoid(self.spatial(x))
        return x * torch.sigmoid(self.channel(x.mean((2, 3), keepdim=True)))


class AdditiveAttention(nn.Module):
    """conv(conv(gates(q) + gates(k)) * v)"""

    def __init__(self, place: Place, **dd: Any) -> None:
        super().__init__()
        channels = place.channels
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False, **dd)
        self.gates_q, self.gates_k = Gates(channels, **dd), Gates(channels, **dd)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, **dd)
        self.proj = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        q, k, v = self.qkv(x.permute(0, 3, 1, 2)).chunk(3, dim=1)
        return self.proj(self.mix(self.gates_q(q) + self.gates_k(k)) * v).permute(0, 2, 3, 1)


def _local_integration(place: Place, **dd: Any) -> nn.Module:
    """Two point-wise convolutions around a depth-wise one: a block's first residual branch."""
    channels = place.channels
    return ChannelsFirst(
        ConvNormAct(channels, channels, kernel=1, act=None, bias=True, **dd),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, **dd),
        nn.GELU(),
        nn.Conv2d(channels, channels, 1, **dd),
    )


register_branch("cas_vit", AdditiveAttention)
POSITIONS["local_integration"] = _local_integration

OFFICIAL["cas_vit"] = Official(
    (
        (r"^stem\.(\d)\.conv", numbered("patch_embed.{}", 3)),
        (r"^stem\.(\d)\.norm", numbered("patch_embed.{}", 3, 1)),
        (r"^stages\.(\d)\.merge\.0\.conv", numbered("network.{}.proj", 2, -1)),
        (r"^stages\.(\d)\.merge\.0\.norm", numbered("network.{}.norm", 2, -1)),
        (r"^stages\.(\d)\.blocks", numbered("network.{}", 2)),
        (r"\.position\.0\.conv", ".local_perception.network.0"),
        (r"\.position\.0\.norm", ".local_perception.network.1"),
        (r"\.position\.1", ".local_perception.network.2"),
        (r"\.position\.3", ".local_perception.network.4"),
        (r"\.mixer\.", ".attn."),
        (r"\.gates_(q|k)\.channel", r".oper_\1.1.block.1"),
        (r"\.gates_(q|k)\.spatial\.0\.conv", r".oper_\1.0.block.0"),
        (r"\.gates_(q|k)\.spatial\.0\.norm", r".oper_\1.0.block.1"),
        (r"\.gates_(q|k)\.spatial\.1", r".oper_\1.0.block.3"),
        (r"\.mix\.", ".dwc."),
        (r"\.ffn\.", ".mlp."),
        (r"^head\.labels", "head"),
        (r"^head\.teacher", "dist_head"),
    )
)
