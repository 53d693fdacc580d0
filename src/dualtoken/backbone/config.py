"""The sizes and switches of one network, judged before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dualtoken.backbone.mixers import MIXERS
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
        if not (Path(__file__).parent / "mixers" / f"{self.mixer}.py").is_file():  # ours need no torch to be known
            MIXERS.find(self.mixer)
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
    "token_mlp": ("mix", "mlp", "none"),
    "global_tokens": ("position", "position_attention", "normal", "none"),
    "local_mixer": ("conv", "window"),
    "downsample": ("stepwise", "onestep"),
}
