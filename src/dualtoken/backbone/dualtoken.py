"""START HERE. DualToken-ViT: a three-stage backbone that carries two kinds of tokens side by side.

    image -> Stem -> stage 1 -> merge -> stage 2 -> merge -> stage 3 -> norm -> neck -> mean -> classifier
                       |  G  ->  merge  ->  G    ->  merge  ->  G

What is new in the paper (Chu et al. 2023, arXiv 2309.12424):
- each block fuses *local* tokens (a convolution) with *global* ones (attention), `DualTokenMixer` below;
- the global tokens G are position-aware: a 7 x 7 grid, learned at the start, updated by every block and
  carried through the whole network;
- they stay 7 x 7 whatever the image size, so the cost grows linearly with the number of pixels.

Stem, merging, bi-dimensional attention, neck and head are LightViT's, which is the baseline and built from
the same parts with another mixer. The paper's ablations replace one part each (ablations.py); what timm asks of a
model is in contract.py. docs/design.md lists what the paper leaves open and how it is settled here.

Both streams are maps with the channels last; images, and the maps that heads read, have them first, as everywhere.

Legend: B batch, C channels, H W image-token grid, h w global-token grid.
"""

# Annotations stay objects here (no __future__ import): TorchScript reads those of methods that it leaves to Python.
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dualtoken.backbone.ablations import CrossAttention, WindowEncoder, WithoutTokens
from dualtoken.backbone.area import area_resize, distinct_cells, halve
from dualtoken.backbone.config import BackboneConfig
from dualtoken.backbone.contract import TimmContract
from dualtoken.backbone.feed_forward import FeedForward
from dualtoken.backbone.layers import (
    ChannelNorm,
    DepthwiseConv,
    Mlp,
    TokenLinear,
    attend,
    channels_first,
    channels_last,
    join_tokens,
    start_weights,
)
from dualtoken.backbone.mixers import MIXERS
from dualtoken.backbone.stem import PatchMerge, Stem, TokenMerge
from dualtoken.errors import ConfigError


class DualTokenViT(TimmContract):
    """The network.

    Args:
        config: sizes and switches; see `VARIANTS` for the named ones.
        in_chans: channels of the images.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: `avg` for the mean over positions, or an empty string for none.
        drop_rate: dropout before the classifier, in [0, 1).
        drop_path_rate: probability of dropping a residual branch in the last block, in [0, 1); less in those before.
        output_stride: 32, or 16 or 8: later stages keep the resolution then and look at tokens further apart
            instead, as DeepLab does. The weights are the same for all three.

    Raises:
        ConfigError: an impossible size or switch.
    """

    def __init__(  # type: ignore[no-untyped-def]
        self,
        config: BackboneConfig | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ConfigError(f"output_stride is {output_stride}, expected 8, 16 or 32.")
        config = config or BackboneConfig()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        self.in_chans, self.num_classes, self.global_pool = in_chans, num_classes, global_pool
        self.joint_tokens = config.joint_tokens
        self.grad_checkpointing = False

        self.stem = Stem(in_chans, config.channels[0], **dd)
        token_shape = config.token_shape
        self.global_tokens = (
            nn.Parameter(torch.empty(1, config.channels[0], *token_shape, **dd)) if token_shape else None
        )
        rates = torch.linspace(0, drop_path_rate, sum(config.depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for stage in range(len(config.depths)):
            first = sum(config.depths[:stage])
            self.stages.append(Stage(config, stage, rates[first : first + config.depths[stage]], output_stride, **dd))

        self.num_features, self.head_hidden_size = config.channels[-1], config.neck
        self.norm: nn.Module = ChannelNorm(self.num_features, **dd)
        self.neck: nn.Module = nn.Sequential(
            nn.Linear(self.num_features, config.neck, **dd), ChannelNorm(config.neck, **dd), nn.GELU()
        )
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(config.neck, num_classes, **dd) if num_classes else nn.Identity()

        stem_channels = config.channels[0] // 2
        self.feature_info = [
            {"num_chs": stem_channels, "reduction": 2, "module": "stem.stride2"},
            {"num_chs": stem_channels, "reduction": 4, "module": "stem.stride4"},
        ] + [
            {"num_chs": channels, "reduction": min(8 * 2**i, output_stride), "module": f"stages.{i}"}
            for i, channels in enumerate(config.channels)
        ]
        self.init_weights()

    # ---------------------------------------------------------------- forward, as in the figure

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_chans, H, W), any size from 32 x 32, to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the last normed map (B, C3, ceil(H/32), ceil(W/32)).

        With `joint_tokens` (LightViT) the head reads all tokens: (B, C3, image and global tokens, 1).
        """
        _, _, x = self.stem(images)  # (B, H/8, W/8, C1)
        g = self._start_tokens(x)  # (B, 7, 7, C1)
        for stage in self.stages:
            x, g = stage(x, g)
        return self.final(x, g)

    @torch.jit.ignore
    def levels(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Image and global tokens at strides 2, 4, 8, 16, 32; the stem's two maps first."""
        half, quarter, x = self.stem(images)
        yield channels_last(half), None
        yield channels_last(quarter), None
        g = self._start_tokens(x)
        for stage in self.stages:
            x, g = stage(x, g)
            yield x, g

    def final(self, x: Tensor, g: Tensor | None) -> Tensor:
        """What the head reads: the normed map, its channels first."""
        x = self.norm(join_tokens(x, g) if self.joint_tokens and g is not None else x)
        return channels_first(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last normed map (B, C3, H, W) to logits, or with `pre_logits` to the neck's features (B, 1280).

        Without pooling each position is classified: (B, num_classes, H, W).
        """
        x = self.neck(channels_last(x))  # (B, H, W, 1280)
        pooled = self.global_pool == "avg"
        if pooled:
            x = x.mean((1, 2))  # (B, 1280)
        if not pre_logits and self.num_classes:
            x = self.head(self.head_drop(x))
        return x if pooled else channels_first(x)

    def _start_tokens(self, x: Tensor) -> Tensor | None:
        if self.global_tokens is None:
            return None
        return channels_last(self.global_tokens).expand(x.shape[0], -1, -1, -1)

    # ---------------------------------------------------------------- weights and inference

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Fresh weights: truncated normal for linears (std 1 / sqrt(inputs)) and tokens (0.02), torch's own elsewhere.

        The usual 0.02 suits 768 channels. With 48 to 256 each branch would start almost silent, and short trainings
        would end before the branches have grown.
        """
        self.apply(start_weights)
        if self.global_tokens is not None:
            trunc_normal_(self.global_tokens, std=0.02)


class Stage(nn.Module):
    """Patch merging (but in the first stage), then the blocks of one resolution; both streams pass through."""

    def __init__(
        self, config: BackboneConfig, stage: int, drop_path: list[float], output_stride: int = 32, **dd: Any
    ) -> None:
        super().__init__()
        dilation = max(1, 8 * 2**stage // output_stride)  # of this stage; half of it was in the one before
        self.grad_checkpointing = False
        self.merge: nn.Module = nn.Identity()
        self.token_merge: nn.Module = nn.Identity()
        if stage > 0:
            inputs, outputs = config.channels[stage - 1], config.channels[stage]
            self.merge = PatchMerge(inputs, outputs, spacing=dilation // 2 or None, **dd)
            if config.token_shape is not None:
                self.token_merge = TokenMerge(inputs, outputs, **dd)
        self.blocks = nn.ModuleList(Block(config, stage, block, rate, **dd) for block, rate in enumerate(drop_path))
        for encoder in self.blocks.modules():
            if isinstance(encoder, ConvEncoder):
                encoder.dilate(dilation)

    def forward(self, x: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, H, W, C) and g (B, h, w, C), or None, to this stage's channels and resolution."""
        x = self.merge(x)
        if g is not None:
            g = self.token_merge(g)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
                x, g = checkpoint(block, x, g, use_reentrant=False)
            else:
                x, g = block(x, g)
        return x, g


class Block(nn.Module):
    """x, g = mixer(x, g); x = x + BiDim(FFN(norm(x))). It never asks which mixer it holds."""

    def __init__(self, config: BackboneConfig, stage: int, block: int = 0, drop_path: float = 0.0, **dd: Any) -> None:
        super().__init__()
        channels = config.channels[stage]
        self.mixer = MIXERS.find(config.mixer)(config, stage, block, drop_path, **dd)
        self.joint_tokens = config.joint_tokens
        self.feed_forward = FeedForward(channels, int(channels * config.ffn_ratios[stage]), drop_path, **dd)

    def forward(self, x: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, H, W, C) and g (B, h, w, C), or None, to the same shapes."""
        x, g = self.mixer(x, g)
        if self.joint_tokens and g is not None:
            n = x.shape[1] * x.shape[2]
            both = self.feed_forward(join_tokens(x, g))[:, :, 0]  # (B, N + h * w, C)
            return both[:, :n].unflatten(1, x.shape[1:3]), both[:, n:].unflatten(1, g.shape[1:3])
        return self.feed_forward(x), g


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

    def dilate(self, dilation: int) -> None:
        """Look at tokens `dilation` apart: the same field of view on a map that was not halved."""
        self.depthwise.dilate(dilation)

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
