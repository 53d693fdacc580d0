"""The sizes and switches of one network, judged before anything is built."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from dualtoken.errors import ConfigError, nearest


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes and switches of one network. The first stage is at stride 8, each later one at twice the last.

    The switches `token_mlp` to `token_weight` are the paper's ablations; they are read by the
    `dual_token` mixer. Choices that the paper leaves open are listed in docs/design.md.

    Attributes:
        channels: channels of each stage.
        depths: blocks in each stage.
        heads: attention heads of each stage.
        ffn_ratios: hidden channels of the feed-forward over its input, per stage.
        mixer: a name in `dualtoken.backbone.mixers.MIXERS`.
        token_mlp: how the global tokens are enriched: `mix` (MixMLP), `mlp` (over channels only), `none`.
        global_tokens: how they are applied: `position` (weighted sum with the aggregated map),
            `position_attention` (the same grid, fused by multi-head attention), `normal` (tokens without
            positions, fused by multi-head attention), `none` (the aggregated map alone).
        normal_tokens: how many tokens travel where they have no positions (`normal`, and LightViT).
        token_grid: the grid of position-aware tokens has this height and width.
        local_mixer: `conv` (Conv Encoder) or `window` (7 x 7 window self-attention).
        downsample: how a stage's map reaches the token grid: `stepwise` or `onestep`.
        token_weight: the fixed weight a of the travelling tokens in a * G + (1 - a) * Xga, in [0, 1].
        joint_tokens: the feed-forward and the head treat the global tokens like image tokens (LightViT).
        neck: channels between the last stage and the classifier.
    """

    network: ClassVar[str] = "DualTokenViT"

    channels: tuple[int, ...] = (64, 128, 256)
    depths: tuple[int, ...] = (2, 6, 4)
    heads: tuple[int, ...] = (2, 4, 8)
    ffn_ratios: tuple[float, ...] = (8, 4, 4)
    mixer: str = "dual_token"
    token_mlp: str = "mix"
    global_tokens: str = "position"
    normal_tokens: int = 8
    token_grid: int = 7
    local_mixer: str = "conv"
    downsample: str = "stepwise"
    token_weight: float = 0.8
    joint_tokens: bool = False
    neck: int = 1280

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                near = nearest(str(value), choices)
                raise ConfigError(
                    f"{name} is {value!r}, expected one of {', '.join(choices)}.",
                    f"Did you mean {near!r}?" if near else "",
                )
        _require_word("MIXERS", self.mixer)
        for name, most in {"token_grid": 32, "normal_tokens": 1024}.items():
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a whole number from 1 to {most}.")
        if not 0 <= self.token_weight <= 1:
            raise ConfigError(f"token_weight is {self.token_weight}, expected a number from 0 to 1.")
        _one_per_stage(self, "depths", "heads", "ffn_ratios")
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % heads or channels % 2:
                raise ConfigError(f"A stage has {channels} channels, expected an even multiple of its {heads} heads.")

    @property
    def levels(self) -> tuple[int, ...]:
        """Maps that `features_only` gives: those of the stages, and two of the stem."""
        return tuple(range(len(self.channels) + 2))

    @property
    def last_stride(self) -> int:
        """Of the last stage's map."""
        return 4 * 2 ** len(self.channels)

    @property
    def token_shape(self) -> tuple[int, int] | None:
        """Height and width of the grid of global tokens that travels, or None where none does."""
        if self.global_tokens == "normal":
            return 1, self.normal_tokens
        return None if self.global_tokens == "none" else (self.token_grid, self.token_grid)


@dataclass(frozen=True)
class PyramidConfig:
    """The network of another paper, in words: four stages around its mixer, each at half the resolution of the last.

    Each word names an entry of the table of its part in `dualtoken.backbone.parts`, to which the files of
    `backbone/mixers/` add what their papers alone have.

    Attributes:
        channels: channels of each stage.
        depths: blocks in each stage.
        mixer: a name in `dualtoken.backbone.mixers.MIXERS`.
        heads: attention heads of each stage; one for 32 channels if empty.
        stride: of the first stage's map, 4 or 8; each later one has twice the last.
        ffn_ratios: hidden channels of the feed-forward over its input, per stage.
        stem: image to the first stage's map.
        downsample: what halves the map before each later stage, or one for each of them.
        stage_position: added before the blocks of a stage, or `none`.
        position: residual branch before the mixer, or `none`.
        second_position: the same before the feed-forward.
        norm: before mixer and feed-forward.
        epsilon: of those norms.
        ffn: the feed-forward.
        layer_scale: what the learned factor of each branch's channels starts at, per stage; 0 for none.
        skip_scale: the same for what a branch is added to.
        stage_norm: a norm behind every stage, not only behind the last.
        head: from the last map to logits.
        block: how the parts are put together.
        options: what a paper's parts ask for beyond this.
    """

    network: ClassVar[str] = "Pyramid"

    channels: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    mixer: str = "pool"
    heads: tuple[int, ...] = ()
    stride: int = 4
    ffn_ratios: tuple[float, ...] = (4, 4, 4, 4)
    stem: str = "conv7_layer"
    downsample: str | tuple[str, ...] = "conv3_layer"
    stage_position: str = "none"
    position: str = "none"
    second_position: str = "none"
    norm: str = "layer"
    epsilon: float = 1e-6
    ffn: str = "mlp"
    layer_scale: tuple[float, ...] = (0, 0, 0, 0)
    skip_scale: tuple[float, ...] = (0, 0, 0, 0)
    stage_norm: bool = False
    head: str = "norm_mean"
    block: str = "residual"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for table, word in {
            "MIXERS": self.mixer, "STEMS": self.stem, "NORMS": self.norm, "FFNS": self.ffn, "HEADS": self.head,
            "BLOCKS": self.block,
        }.items():  # fmt: skip
            _require_word(table, word)
        for word in self.downsamples:
            _require_word("DOWNSAMPLES", word)
        for word in {self.stage_position, self.position, self.second_position} - {"none"}:
            _require_word("POSITIONS", word)
        if self.stride not in (4, 8):
            raise ConfigError(f"stride is {self.stride}, expected 4 or 8.")
        _one_per_stage(self, "depths", "ffn_ratios", "layer_scale", "skip_scale", *(["heads"] if self.heads else []))

    @property
    def downsamples(self) -> tuple[str, ...]:
        """The word for each stage but the first."""
        later = len(self.channels) - 1
        words = (self.downsample,) * later if isinstance(self.downsample, str) else tuple(self.downsample)
        if len(words) != later:
            raise ConfigError(f"downsample is {words}, expected one word or {later}, one for each stage but the first.")
        return words

    @property
    def levels(self) -> tuple[int, ...]:
        """Maps that `features_only` gives: those of the stages."""
        return tuple(range(len(self.channels)))

    @property
    def last_stride(self) -> int:
        """Of the last stage's map."""
        return self.stride * 2 ** (len(self.channels) - 1)

    @property
    def level(self) -> int:
        """Of the first stage, as `Place.stage` counts: 0 at stride 4, 1 at stride 8."""
        return self.stride // 4 - 1


@dataclass(frozen=True)
class PlainConfig:
    """A plain vision transformer of timm behind a stem: as many tokens, as wide, in every block.

    Attributes:
        channels: of a token.
        depth: blocks.
        heads: of attention.
        ffn_ratio: hidden channels of the feed-forward over its input.
        stem: images to the tokens, at stride 16: a word of the same table as a pyramid's.
    """

    network: ClassVar[str] = "plain_vit"
    last_stride: ClassVar[int] = 16

    channels: int = 256
    depth: int = 7
    heads: int = 4
    ffn_ratio: float = 2
    stem: str = "t2t_16"

    def __post_init__(self) -> None:
        _require_word("STEMS", self.stem)
        if self.channels % self.heads:
            raise ConfigError(f"A token has {self.channels} channels, expected a multiple of its {self.heads} heads.")

    @property
    def levels(self) -> tuple[int, ...]:
        """Maps that `features_only` gives: those of the last three blocks, as timm has it."""
        return tuple(range(self.depth)[-3:])


@cache
def _words_of_files() -> frozenset[tuple[str, str]]:
    """(table, word) of all that our own files register, read from their source: names need no torch to be known."""
    entry = re.compile(r"""^(?:([A-Z]+)\[|register_branch\()"(\w+)\"""", re.MULTILINE)
    files = [*Path(__file__).parent.glob("*.py"), *Path(__file__).parent.glob("mixers/*.py")]
    texts = (file.read_text(encoding="utf-8") for file in files)
    return frozenset((table or "MIXERS", word) for text in texts for table, word in entry.findall(text))


def _require_word(table: str, word: str) -> None:
    if (table, word) not in _words_of_files():  # another package's, or a mistake
        home = "dualtoken.backbone.mixers" if table == "MIXERS" else "dualtoken.backbone.parts"
        getattr(importlib.import_module(home), table).find(word)


def _one_per_stage(config: BackboneConfig | PyramidConfig, *names: str) -> None:
    stages = len(config.channels)
    for name in names:
        if len(getattr(config, name)) != stages:
            raise ConfigError(f"{name} is {getattr(config, name)}, expected {stages} numbers, one per stage.")


CHOICES = {
    "token_mlp": ("mix", "mlp", "none"),
    "global_tokens": ("position", "position_attention", "normal", "none"),
    "local_mixer": ("conv", "window"),
    "downsample": ("stepwise", "onestep"),
}
