"""The sizes and switches of the backbone, and the one table of variants that everything reads.

`create_model`, `dualtoken models`, the README's table and the tests that compare parameters and MACs
with the published figures all read `VARIANTS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
        mixer: a key of `dualtoken.backbone.mixers.MIXERS`.
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
        for name, most in {"token_grid": 32, "normal_tokens": 1024}.items():
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected a whole number from 1 to {most}.")
        if not 0 <= self.token_weight <= 1:
            raise ConfigError(f"token_weight is {self.token_weight}, expected a number from 0 to 1.")
        stages = len(self.channels)
        for name in ("depths", "heads", "ffn_ratios"):
            if len(getattr(self, name)) != stages:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {stages} numbers, one per stage.")
        for channels, heads in zip(self.channels, self.heads, strict=True):
            if channels % heads or channels % 2:
                raise ConfigError(f"A stage has {channels} channels, expected an even multiple of its {heads} heads.")

    @property
    def token_shape(self) -> tuple[int, int] | None:
        """Height and width of the grid of global tokens that travels, or None where none does."""
        if self.global_tokens == "normal":
            return 1, self.normal_tokens
        return None if self.global_tokens == "none" else (self.token_grid, self.token_grid)


CHOICES = {
    "mixer": ("dual_token", "lightvit"),
    "token_mlp": ("mix", "mlp", "none"),
    "global_tokens": ("position", "position_attention", "normal", "none"),
    "local_mixer": ("conv", "window"),
    "downsample": ("stepwise", "onestep"),
}


@dataclass(frozen=True)
class Variant:
    """A named network with what its paper publishes (ImageNet-1K, 224 x 224); None where it says nothing.

    Attributes:
        gmacs: 10^9 multiply-accumulates an image, which the papers call FLOPs.
        mparams: 10^6 parameters.
        top1: per cent.
    """

    config: BackboneConfig
    gmacs: float | None = None
    mparams: float | None = None
    top1: float | None = None
    paper: str = "arXiv 2309.12424"


def _tiny(**switches: Any) -> BackboneConfig:
    return BackboneConfig(channels=(48, 96, 192), depths=(2, 5, 3), **switches)


def _small(**switches: Any) -> BackboneConfig:
    return BackboneConfig(channels=(64, 128, 256), depths=(2, 6, 4), **switches)


def _lightvit(width: int, depths: tuple[int, ...], tokens: int) -> BackboneConfig:
    heads = width // 32
    return BackboneConfig(
        channels=(width, 2 * width, 4 * width),
        depths=depths,
        heads=(heads, 2 * heads, 4 * heads),
        mixer="lightvit",
        global_tokens="normal",
        joint_tokens=True,
        normal_tokens=tokens,
    )


_LIGHTVIT = "arXiv 2207.05557"
VARIANTS: dict[str, Variant] = {
    "dualtoken_vit_t": Variant(_tiny(token_mlp="mlp")),
    "dualtoken_vit_t_mix": Variant(_tiny(), gmacs=0.5, top1=75.4),
    "dualtoken_vit_s": Variant(_small(token_mlp="mlp"), top1=79.5),
    "dualtoken_vit_s_mix": Variant(_small(), gmacs=1.0, top1=79.4),
    "lightvit_t": Variant(_lightvit(64, (2, 6, 6), tokens=8), 0.7, 9.4, 78.7, _LIGHTVIT),
    "lightvit_s": Variant(_lightvit(96, (2, 6, 6), tokens=16), 1.7, 19.2, 80.9, _LIGHTVIT),
    "lightvit_b": Variant(_lightvit(128, (3, 8, 6), tokens=24), 3.9, 35.2, 82.1, _LIGHTVIT),
}
