"""A backbone as heads see it: images to maps at known strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from dualtoken.backbone import create_model, require_known
from dualtoken.errors import ConfigError, ModelError


class Body(nn.Module):
    """The maps of a timm backbone at `strides`, finest first.

    timm's usual feature wrapper replays a network's children one after the other, which loses the global tokens that
    travel beside the maps of ours; our networks are registered with the wrapper that asks them instead.

    Args:
        architecture: a name of timm's registry.
        strides: pixels of the image for one position of each map; the backbone must have a level for each.
        **args: of the backbone.

    Attributes:
        channels: of each map.
        strides: of each map.

    Raises:
        ModelError: the backbone gives no feature maps.
        ConfigError: it has no level at one of the strides.
    """

    def __init__(self, architecture: str, strides: Sequence[int] = (8, 16, 32), **args: Any) -> None:
        super().__init__()
        reductions = levels_of(architecture)
        missing = [stride for stride in strides if stride not in reductions]
        if missing:
            raise ConfigError(
                f"strides is {list(strides)}, but {architecture} has maps at {reductions} only.",
                "Choose among those: --set head_args='{strides: [...]}'",
            )
        indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides]
        self.maps = cast(Any, create_model(architecture, features_only=True, out_indices=indices, **args))
        self.channels: list[int] = self.maps.feature_info.channels()
        self.strides: list[int] = list(strides)
        self.channels_last = getattr(self.maps, "output_fmt", "NCHW") == "NHWC"

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to maps (B, channels[i], H / strides[i], W / strides[i])"""
        maps: list[Tensor] = self.maps(images)
        return [level.permute(0, 3, 1, 2) for level in maps] if self.channels_last else maps


def levels_of(architecture: str) -> list[int]:
    """The strides of all maps that a backbone offers, finest first.

    Raises:
        ModelError: no such name, or the backbone gives no feature maps.
    """
    require_known(architecture)
    try:
        with torch.device("meta"):
            network: Any = timm.create_model(architecture, features_only=True)
        reductions: list[int] = network.feature_info.reduction()
    except (RuntimeError, AttributeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ModelError(
            f"{architecture} gives no feature maps, which boxes and masks are found in ({error}).",
            "Choose another: `dualtoken models` lists ours; timm's with features_only work too.",
        ) from error
    return reductions


def undecayed(network: nn.Module) -> set[str]:
    """Names of parameters that weight decay leaves alone, as the backbone inside `network` states them."""
    return {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if prefix and hasattr(module, "no_weight_decay")
        for name in cast(Any, module).no_weight_decay()
    }
