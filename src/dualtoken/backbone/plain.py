"""The third frame: timm's plain vision transformer behind a stem of ours, so far that of T2T-ViT.

A class token travels with the image's tokens through blocks that are all alike, and it is classified. What stands in
`reductions` works here as well.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dualtoken.backbone.config import PlainConfig
from dualtoken.backbone.parts import STEMS
from dualtoken.errors import ConfigError


def plain_vit(  # type: ignore[no-untyped-def]
    config: PlainConfig | None = None,
    img_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    num_classes: int = 1000,
    global_pool: str = "token",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    device=None,
    dtype=None,
) -> VisionTransformer:
    """A vision transformer without biases of queries, keys and values, whose positions are sines and never trained.

    Args:
        config: its stem and sizes; see `VARIANTS` for the named ones.
        img_size: sides of the images in pixels, multiples of 16; it takes no others.
        in_chans: channels of the images.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: `token` for the class token, or another of timm's words.
        drop_rate: dropout before the classifier, in [0, 1).
        drop_path_rate: probability of dropping a residual branch in the last block, in [0, 1); less in those before.

    Raises:
        ConfigError: a stem that is not known, or an impossible size.
    """
    config = config or PlainConfig()
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    model = VisionTransformer(
        img_size=(height, width),
        in_chans=in_chans,
        num_classes=num_classes,
        global_pool=global_pool,
        embed_dim=config.channels,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.ffn_ratio,
        qkv_bias=False,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        embed_layer=partial(StemTokens, config.stem),
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
        device=device,
        dtype=dtype,
    )
    sines = positions(model.pos_embed.shape[1], config.channels).to(model.pos_embed)
    model.pos_embed = nn.Parameter(sines[None], requires_grad=False)
    return model


class StemTokens(nn.Module):
    """A stem of stride 16 as timm's vision transformer asks for one."""

    def __init__(
        self, stem: str, img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int, **more: Any
    ) -> None:
        super().__init__()
        if any(side < patch_size or side % patch_size for side in img_size):
            raise ConfigError(f"img_size is {img_size}, expected multiples of {patch_size}.", "Such as 224.")
        dd = {key: more[key] for key in ("device", "dtype")}
        self.stem = STEMS.find(stem)(in_chans, embed_dim, **dd)
        self.patch_size, self.img_size = (patch_size, patch_size), img_size
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the tokens."""
        return self.grid_size

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, H, W) of the one size to (B, N, C)

        Raises:
            ConfigError: images of another size.
        """
        height, width = images.shape[2:]
        if (height, width) != self.img_size:
            raise ConfigError(
                f"Images of {height} x {width} came, expected {self.img_size[0]} x {self.img_size[1]}.",
                f"Make the network for them: img_size=({height}, {width}).",
            )
        return self.stem(images).flatten(1, 2)


def positions(number: int, channels: int) -> Tensor:
    """(number, channels): sines in even channels and cosines in odd ones, slower from pair to pair."""
    channel = torch.arange(channels, dtype=torch.float64)
    slowness = 10000 ** (2 * (channel // 2) / channels)
    angle = torch.arange(number, dtype=torch.float64)[:, None] / slowness
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())
