"""START HERE. DualToken-ViT: a three-stage backbone that carries two kinds of tokens side by side.

    image -> Stem -> stage 1 -> merge -> stage 2 -> merge -> stage 3 -> norm -> neck -> mean -> classifier
                       |  G  ->  merge  ->  G    ->  merge  ->  G

What is new in the paper (Chu et al. 2023, arXiv 2309.12424):
- each block fuses *local* tokens (a convolution) with *global* ones (attention): mixers/dual_token.py, read it next;
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
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dualtoken.backbone.config import BackboneConfig
from dualtoken.backbone.contract import TimmContract
from dualtoken.backbone.feed_forward import FeedForward
from dualtoken.backbone.layers import ChannelNorm, channels_first, channels_last, join_tokens, start_weights
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
        blocks = [Block(config, stage, block, rate, **dd) for block, rate in enumerate(drop_path)]
        for block in blocks:
            block.dilate(dilation)
        self.blocks = nn.ModuleList(blocks)

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

    @torch.jit.ignore
    def dilate(self, dilation: int) -> None:
        """Look at tokens `dilation` apart, where the mixer can: the same field of view on a map that was not halved."""
        mixer: Any = self.mixer
        if hasattr(mixer, "dilate"):
            mixer.dilate(dilation)

    def forward(self, x: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, H, W, C) and g (B, h, w, C), or None, to the same shapes."""
        x, g = self.mixer(x, g)
        if self.joint_tokens and g is not None:
            n = x.shape[1] * x.shape[2]
            both = self.feed_forward(join_tokens(x, g))[:, :, 0]  # (B, N + h * w, C)
            return both[:, :n].unflatten(1, x.shape[1:3]), both[:, n:].unflatten(1, g.shape[1:3])
        return self.feed_forward(x), g
