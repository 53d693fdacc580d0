"""A branch: what other papers call their token mixer, without its norm, its scale and its residual.

It is written once and stands in two frames: in its paper's own network (`pyramid.py`), and as a mixer of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from dualtoken.backbone.config import BackboneConfig
from dualtoken.backbone.layers import ChannelNorm
from dualtoken.backbone.mixers import MIXERS
from dualtoken.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """Where a branch stands.

    Attributes:
        channels: of the map.
        heads: of attention; a divisor of the channels.
        stage: by its stride, whatever the frame: 0, 1, 2, 3, 4 at strides 4, 8, 16, 32, 64.
        block: within the stage, from 0.
        depth: blocks of the stage.
        ratio: hidden channels of the feed-forward over its input.
        options: what this paper's parts ask for beyond that.
    """

    channels: int
    heads: int
    stage: int
    block: int = 0
    depth: int = 1
    ratio: float = 4
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> int:
        """The side of the map of images of `side` (an option, 224) pixels."""
        side: int = self.options.get("side", 224)
        return -(-side // 2 ** (self.stage + 2))


class BranchMixer(nn.Module):
    """x + branch(norm(x)): a branch in our block. The global tokens pass by."""

    def __init__(
        self,
        make: Callable[..., nn.Module],
        config: BackboneConfig,
        stage: int,
        block: int = 0,
        drop_path: float = 0.0,
        **dd: Any,
    ) -> None:
        super().__init__()
        channels, heads = config.channels[stage], config.heads[stage]
        place = Place(channels, heads, stage + 1, block, config.depths[stage], config.ffn_ratios[stage])
        self.norm = ChannelNorm(channels, **dd)
        self.branch = make(place, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, H, W, C) and g (B, h, w, C), or None, to the same shapes; g is as it came."""
        return x + self.drop_path(self.branch(self.norm(x))), g


def register_branch(name: str, make: Callable[..., nn.Module]) -> None:
    """Offer a branch to both frames.

    Args:
        name: as in `mixer=NAME`.
        make: `make(place, device, dtype)` gives a module of maps (B, H, W, C) to the same shape, normed ones in our
            block; a class or a function that chooses by `place.stage` and `place.block`.
    """
    MIXERS[name] = partial(BranchMixer, make)


def find_branch(name: str) -> Callable[..., nn.Module]:
    """The branch of this name.

    Raises:
        ConfigError: there is none, or it is a mixer of our own frame alone.
    """
    mixer = MIXERS.find(name)
    if not isinstance(mixer, partial):
        raise ConfigError(f"The mixer {name!r} carries global tokens and stands in our own frame alone.")
    make: Callable[..., nn.Module] = mixer.args[0]
    return make
