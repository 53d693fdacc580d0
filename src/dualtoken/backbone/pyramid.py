"""The second frame: four stages at strides 4, 8, 16 and 32, which most papers of token mixers share (LSNet's: 8 to 64).

    image -> stem -> stage 1 -> halve -> stage 2 -> halve -> stage 3 -> halve -> stage 4 -> norm -> mean -> classifier

    block:  x = x + position(x)
            x = x + scale * mixer(norm(x))
            x = x + second_position(x)
            x = x + scale * ffn(norm(x))

Each part is a word of a `PyramidConfig`: the table `VARIANTS` says which network has which, `parts.py` what the words
mean, and a file of `mixers/` what a paper alone has. Norms, scales and residuals are the frame's; a mixer is a branch.

Legend: B batch, C channels, H W grid of the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dualtoken.backbone.branch import Place, find_branch
from dualtoken.backbone.config import PyramidConfig
from dualtoken.backbone.contract import TimmContract
from dualtoken.backbone.layers import channels_first, channels_last, start_weights
from dualtoken.backbone.modules import Scale
from dualtoken.backbone.parts import BLOCKS, DOWNSAMPLES, FFNS, HEADS, NORMS, POSITIONS, STEMS


class Pyramid(TimmContract):
    """The network of another paper.

    Args:
        config: its parts and sizes; see `VARIANTS` for the named ones.
        in_chans: channels of the images.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: `avg` for the mean over positions, or an empty string for none.
        drop_rate: dropout before the classifier, in [0, 1).
        drop_path_rate: probability of dropping a residual branch in the last block, in [0, 1); less in those before.

    Raises:
        ConfigError: a word that no part has, or an impossible size.
    """

    def __init__(  # type: ignore[no-untyped-def]
        self,
        config: PyramidConfig | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        config = config or PyramidConfig()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        self.in_chans, self.num_classes, self.global_pool = in_chans, num_classes, global_pool
        self.grad_checkpointing = False

        self.stem = STEMS.find(config.stem)(in_chans, config.channels[0], **dd)
        rates = torch.linspace(0, drop_path_rate, sum(config.depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for stage in range(len(config.depths)):
            first = sum(config.depths[:stage])
            self.stages.append(PyramidStage(config, stage, rates[first : first + config.depths[stage]], **dd))

        self.num_features = config.channels[-1]
        head = HEADS.find(config.head)(self.num_features, **dd)
        self.norm, self.neck, self.pooled_neck = head.norm, head.neck, head.pooled
        self.head_hidden_size, self.make_head = head.size, head.classifier
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.make_head(head.size, num_classes, **dd) if num_classes else nn.Identity()
        self.feature_info = [
            {"num_chs": channels, "reduction": config.stride * 2**i, "module": f"stages.{i}"}
            for i, channels in enumerate(config.channels)
        ]
        self.init_weights()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the last normed map (B, C4, H/32, W/32)."""
        x = self.stem(images)  # (B, H/4, W/4, C1)
        for stage in self.stages:
            x = stage(x)
        return self.final(x)

    def levels(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The maps at strides 4, 8, 16 and 32."""
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
            yield x, None

    def final(self, x: Tensor, g: Tensor | None = None) -> Tensor:
        """What the head reads: the normed map, its channels first."""
        return channels_first(self.norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last normed map (B, C4, H, W) to logits, or with `pre_logits` to what the classifier reads.

        Without pooling each position is classified: (B, num_classes, H, W).
        """
        x = self.neck(channels_last(x))
        pooled = self.global_pool == "avg"
        if pooled:
            x = x.mean((1, 2))  # (B, C4)
        x = self.pooled_neck(x)
        if not pre_logits and self.num_classes:
            x = self.head(self.head_drop(x))
        return x if pooled else channels_first(x)

    def init_weights(self) -> None:
        """Fresh weights, as our own network draws them; convolutions as torch does, scales as the config says."""
        self.apply(start_weights)


class PyramidStage(nn.Module):
    """What halves the map (but in the first stage), then the blocks of one resolution."""

    def __init__(self, config: PyramidConfig, stage: int, drop_path: list[float], **dd: Any) -> None:
        super().__init__()
        self.grad_checkpointing = False
        channels, ratio = config.channels[stage], config.ffn_ratios[stage]
        heads = config.heads[stage] if config.heads else max(1, channels // 32)
        self.merge: nn.Module = nn.Identity()
        if stage > 0:
            self.merge = DOWNSAMPLES.find(config.downsamples[stage - 1])(config.channels[stage - 1], channels, **dd)
        make, depth = BLOCKS.find(config.block), len(drop_path)
        places = [
            Place(channels, heads, config.level + stage, block, depth, ratio, config.options) for block in range(depth)
        ]
        self.position: nn.Module | None = None
        if config.stage_position != "none":
            self.position = POSITIONS.find(config.stage_position)(places[0], **dd)
        self.blocks = nn.ModuleList(
            make(config, place, rate, **dd) for place, rate in zip(places, drop_path, strict=True)
        )
        self.norm: nn.Module = nn.Identity()
        if config.stage_norm:
            self.norm = NORMS.find(config.norm)(channels, config.epsilon, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to this stage's channels and resolution."""
        x = self.merge(x)
        if self.position is not None:
            x = x + self.position(x)
        carried: Tensor | None = None
        for block in self.blocks:
            given = (x, carried) if isinstance(block, CarryingBlock) else (x,)
            made = checkpoint(block, *given, use_reentrant=False) if self.grad_checkpointing else block(*given)
            x, carried = made if isinstance(block, CarryingBlock) else (made, None)
        return self.norm(x)


class CarryingBlock(nn.Module):
    """A block that hands something to the later ones of its stage: `forward(x, carried)` gives both, None at first."""


class ResidualBlock(nn.Module):
    """Mixer and feed-forward, each with its norm, its scales and its residual, and what gives positions before them."""

    def __init__(self, config: PyramidConfig, place: Place, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        norm, channels = NORMS.find(config.norm), place.channels
        stage = place.stage - config.level
        layer_scale, skip_scale = config.layer_scale[stage], config.skip_scale[stage]

        def scale(start: float) -> nn.Module:
            return Scale(channels, start, **dd) if start else nn.Identity()

        def position(word: str) -> nn.Module | None:
            return None if word == "none" else POSITIONS.find(word)(place, **dd)

        self.position = position(config.position)
        self.norm1 = norm(channels, config.epsilon, **dd)
        self.mixer = find_branch(config.mixer)(place, **dd)
        self.scale1, self.skip1 = scale(layer_scale), scale(skip_scale)
        self.second_position = position(config.second_position)
        self.norm2 = norm(channels, config.epsilon, **dd)
        self.ffn = FFNS.find(config.ffn)(place, **dd)
        self.scale2, self.skip2 = scale(layer_scale), scale(skip_scale)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        if self.position is not None:
            x = x + self.position(x)
        x = self.skip1(x) + self.drop_path(self.scale1(self.mixer(self.norm1(x))))
        if self.second_position is not None:
            x = x + self.second_position(x)
        return self.skip2(x) + self.drop_path(self.scale2(self.ffn(self.norm2(x))))


class OneBranchBlock(nn.Module):
    """x + scale * ffn(norm(mixer(x))): mixer and feed-forward share one residual."""

    def __init__(self, config: PyramidConfig, place: Place, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        start = config.layer_scale[place.stage - config.level]
        self.mixer = find_branch(config.mixer)(place, **dd)
        self.norm = NORMS.find(config.norm)(place.channels, config.epsilon, **dd)
        self.ffn = FFNS.find(config.ffn)(place, **dd)
        self.scale = Scale(place.channels, start, **dd) if start else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        return x + self.drop_path(self.scale(self.ffn(self.norm(self.mixer(x)))))


BLOCKS["residual"] = ResidualBlock
BLOCKS["one_branch"] = OneBranchBlock
