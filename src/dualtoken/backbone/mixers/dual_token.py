"""The paper's block, as its figure draws it: local tokens by a convolution, global tokens by attention, and their sum.

    x -> Conv Encoder -> x_local -> + ----------------------------> x
                            |       ^
                        Downsample  |                   Position-aware Token Module
                            |       |
                    aggregation  broadcast
                            |       ^
    g ---------> a G + (1 - a) Xga -> MixMLP ----------------------> g

The ablations replace one part each (ablations.py). Both streams are maps with the channels last.

Legend: B batch, C channels, H W image-token grid, h w global-token grid.
"""

# Annotations stay objects here (no __future__ import): TorchScript reads those of methods that it leaves to Python.
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from dualtoken.backbone.ablations import CrossAttention, WindowEncoder, WithoutTokens
from dualtoken.backbone.area import area_resize, distinct_cells, halve
from dualtoken.backbone.config import BackboneConfig
from dualtoken.backbone.layers import ChannelNorm, DepthwiseConv, Mlp, TokenLinear, attend
from dualtoken.backbone.mixers import MIXERS


class DualTokenMixer(nn.Module):
    """Mix the image tokens locally, then with the global tokens, and update the global tokens.

    Args:
        config: the switches.
        stage: 0, 1 or 2; decides channels, heads and the number of down-sampling steps.
        block: of the stage; all are alike.
        drop_path: probability of dropping each residual branch.
    """

    def __init__(self, config: BackboneConfig, stage: int, block: int = 0, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        channels, heads = config.channels[stage], config.heads[stage]
        local = ConvEncoder if config.local_mixer == "conv" else partial(WindowEncoder, heads=heads)
        self.local = local(channels, drop_path=drop_path, **dd)
        self.tokens = PositionAwareTokens(config, stage, drop_path, **dd)

    @torch.jit.ignore
    def dilate(self, dilation: int) -> None:
        """Look at tokens `dilation` apart: the same field of view on a map that was not halved."""
        if isinstance(self.local, ConvEncoder):
            self.local.depthwise.dilate(dilation)

    def forward(self, x: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Image tokens x (B, H, W, C) and global tokens g (B, h, w, C), or None, to the same shapes."""
        x_local = self.local(x)
        x_global, g = self.tokens(x_local, g)
        return x_local + x_global, g  # fusion of the two tokens


class ConvEncoder(nn.Module):
    """Local tokens: a depth-wise 7 x 7 convolution and two point-wise ones (a ConvNeXt block)."""

    def __init__(self, channels: int, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(channels, 7, **dd)
        self.norm = ChannelNorm(channels, **dd)
        self.pointwise = Mlp(channels, 4 * channels, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.pointwise(self.norm(self.depthwise(x))))


class PositionAwareTokens(nn.Module):
    """The Position-aware Token Module: image tokens to the token grid and back.

    Down-sample the image tokens to the grid, let them attend to each other (aggregation), merge them
    into the travelling global tokens (enrich), and let each image token attend to those (broadcast).
    """

    def __init__(self, config: BackboneConfig, stage: int, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        channels, heads = config.channels[stage], config.heads[stage]
        steps = len(config.channels) - 1 - stage  # 28 -> 14 -> 7, 14 -> 7, 7 at 224 pixels
        self.downsample = Downsample(channels, steps if config.downsample == "stepwise" else 0, config.token_grid, **dd)
        self.aggregate = SelfAttention(channels, heads, drop_path, **dd)
        fuse: dict[str, Callable[[], nn.Module]] = {
            "position": partial(WeightedSum, config.token_weight),
            "none": WithoutTokens,
        }
        attention = partial(CrossAttention, channels, heads, drop_path, **dd)  # `normal`, `position_attention`
        self.fuse = fuse.get(config.global_tokens, attention)()
        height, width = config.token_shape or (config.token_grid, config.token_grid)
        mlp: dict[str, Callable[[], nn.Module]] = {
            "mix": partial(MixMlp, channels, height * width, drop_path, **dd),
            "mlp": partial(TokenMlp, channels, channels, drop_path, **dd),
            "none": nn.Identity,
        }
        self.enrich = mlp[config.token_mlp]()
        self.broadcast = Broadcast(channels, heads, drop_path, **dd)

    def forward(self, x: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, H, W, C) and g (B, h, w, C) to Xglobal (B, H, W, C) and the new g (B, h, w, C)."""
        if not torch.jit.is_scripting() and self._repeats_cells(x):  # type: ignore[attr-defined]
            aggregated = self._aggregate_once(x)
        else:
            aggregated = self.aggregate(self.downsample(x))  # (B, grid, grid, C)
        tokens = self.enrich(self.fuse(g, aggregated))
        return self.broadcast(x, tokens), None if g is None else tokens

    @torch.jit.unused
    def _repeats_cells(self, x: Tensor) -> bool:
        """Whether most cells of the grid are equal to a neighbour: small images; in training, where it pays."""
        size = x.shape[1:3]  # symbolic in an export
        fixed = isinstance(size[0], int) and isinstance(size[1], int)
        return self.training and fixed and not len(self.downsample.steps) and 2 * max(size) < self.downsample.grid

    @torch.jit.unused
    def _aggregate_once(self, x: Tensor) -> Tensor:
        """The same aggregation, with equal cells computed once."""
        grid = self.downsample.grid
        first, kind_of, repeats = distinct_cells(x.shape[1], x.shape[2], grid)
        cells = self.downsample(x).flatten(1, 2).index_select(1, torch.tensor(first, device=x.device))[:, :, None]
        mixed = self.aggregate(cells, torch.tensor(repeats, device=x.device))  # (B, kinds, 1, C)
        return mixed[:, :, 0].index_select(1, torch.tensor(kind_of, device=x.device)).unflatten(1, (grid, grid))


class Downsample(nn.Module):
    """Image tokens to the token grid: learned halving steps, and the area average for what is left.

    A step halves a side only while that leaves it no smaller than the grid: small images keep their
    positions. With no steps it is the `onestep` ablation, which has no parameters.
    """

    def __init__(self, channels: int, steps: int, grid: int, **dd: Any) -> None:
        super().__init__()
        self.grid = grid
        self.steps = nn.ModuleList(DownsampleStep(channels, grid, **dd) for _ in range(steps))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, grid, grid, C)"""
        for step in self.steps:
            x = step(x)
        return area_resize(x, self.grid, self.grid)


class DownsampleStep(nn.Module):
    """Depth-wise 3 x 3 convolution, point-wise convolution, 2 x 2 average."""

    def __init__(self, channels: int, grid: int, **dd: Any) -> None:
        super().__init__()
        self.grid = grid
        self.pool_first = False
        self.depthwise = DepthwiseConv(channels, 3, **dd)
        self.pointwise = nn.Linear(channels, channels, **dd)

    def reset_parameters(self) -> None:
        """Start as the plain average: fresh layers would pass a thirtieth of the image on, and G would not hear it."""
        nn.init.dirac_(self.depthwise.weight, self.depthwise.groups)
        nn.init.eye_(self.pointwise.weight)
        nn.init.zeros_(cast(Tensor, self.depthwise.bias))
        nn.init.zeros_(self.pointwise.bias)

    def fold(self) -> None:
        """Average before the point-wise convolution: both are linear, and it then has a quarter of the positions."""
        self.pool_first = True

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H // 2, W // 2, C), but no side below the grid (or below its own size)."""
        x = self.depthwise(x)
        if self.pool_first:
            return self.pointwise(halve(x, self.grid))
        return halve(self.pointwise(x), self.grid)


class SelfAttention(nn.Module):
    """Global aggregation: multi-head self-attention over the token grid, pre-norm and residual."""

    def __init__(self, channels: int, heads: int, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels, **dd)
        self.qkv = nn.Linear(channels, 3 * channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, repeats: Tensor | None = None) -> Tensor:
        """(B, h, w, C) to (B, h, w, C); each token may stand for `repeats` (h * w) equal ones."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return x + self.drop_path(self.proj(attend(q, k, v, self.heads, repeats)))


class WeightedSum(nn.Module):
    """The paper's fusion of position-aware tokens: a * G + (1 - a) * Xga, with a fixed weight a."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, g: Tensor | None, aggregated: Tensor) -> Tensor:
        assert g is not None
        return torch.lerp(aggregated.to(g.dtype), g, self.weight)  # under autocast the two differ


class MixMlp(nn.Module):
    """MixMLP: mix over the tokens (ratio 1), then over the channels (ratio 0.5), each pre-norm and residual."""

    def __init__(self, channels: int, tokens: int, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, **dd)
        self.fc1 = TokenLinear(tokens, tokens, **dd)
        self.act = nn.GELU()
        self.fc2 = TokenLinear(tokens, tokens, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.channel_mlp = TokenMlp(channels, channels // 2, drop_path, **dd)

    def forward(self, g: Tensor) -> Tensor:
        tokens = self.norm(g).flatten(1, 2)  # (B, h * w, C)
        mixed = self.fc2(self.act(self.fc1(tokens)))
        return self.channel_mlp(g + self.drop_path(mixed.unflatten(1, g.shape[1:3])))


class TokenMlp(nn.Module):
    """The normal MLP over the channels of the global tokens, pre-norm and residual."""

    def __init__(self, channels: int, hidden: int, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, **dd)
        self.mlp = Mlp(channels, hidden, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, g: Tensor) -> Tensor:
        return g + self.drop_path(self.mlp(self.norm(g)))


class Broadcast(nn.Module):
    """Global broadcast: each image token attends to the global tokens. No output projection, no residual."""

    def __init__(self, channels: int, heads: int, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        self.heads = heads
        self.norm_x = ChannelNorm(channels, **dd)
        self.norm_g = ChannelNorm(channels, **dd)
        self.q = nn.Linear(channels, channels, **dd)
        self.kv = nn.Linear(channels, 2 * channels, **dd)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """x (B, H, W, C) and g (B, h, w, C) to Xglobal (B, H, W, C)."""
        k, v = self.kv(self.norm_g(g)).chunk(2, dim=-1)
        return self.drop_path(attend(self.q(self.norm_x(x)), k, v, self.heads))


MIXERS["dual_token"] = DualTokenMixer
