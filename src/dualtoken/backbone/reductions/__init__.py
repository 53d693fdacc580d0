"""Plain vision transformers of timm that drop or merge tokens on their way: fewer of them cost less.

    create_model("deit_small_patch16_224", reduction="evit", keep=0.7)

The weights keep their names, so those of the whole network fit. A reduction is a file beside this one, or of any
other package, that adds itself to `REDUCTIONS`: for each block of the network a `ReducingBlock`, or None where the
block stays as it is.

Legend: B batch, N tokens with the class token first, C channels, nh heads, hd channels a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from dualtoken.errors import ConfigError
from dualtoken.registry import Registry


class Spot(NamedTuple):
    """Which block of which network is asked for.

    Attributes:
        block: from 0.
        depth: blocks of the network.
        channels: of a token.
        grid: rows and columns of the image's tokens.
        keep: in (0, 1], as the user gave it.
    """

    block: int
    depth: int
    channels: int
    grid: tuple[int, int]
    keep: float

    @property
    def tokens(self) -> int:
        """How many the image gives, without the class token."""
        return self.grid[0] * self.grid[1]

    @property
    def quarter(self) -> bool:
        """Whether a quarter, a half or three quarters of the blocks come before this one."""
        return self.block in {self.depth * part // 4 for part in (1, 2, 3)}


class Beside(NamedTuple):
    """What travels beside the tokens.

    Attributes:
        size: (B, N, 1) how many tokens each one stands for; None where all are 1.
        graph: (B, N - 1, N - 1) how near the image's tokens are to each other; None where nobody asks.
    """

    size: Tensor | None = None
    graph: Tensor | None = None


Reduction = Callable[[nn.Module, Spot], "ReducingBlock | None"]
REDUCTIONS: Registry[Reduction] = Registry("reduction", __name__)


def reduce_tokens(model: nn.Module, reduction: str, keep: float) -> nn.Module:
    """Let a plain vision transformer carry fewer tokens, in place.

    Args:
        model: timm's `VisionTransformer` with one class token, whose blocks are the usual ones.
        reduction: a name in `REDUCTIONS`.
        keep: in (0, 1], the share that is kept; each reduction's class says of what.

    Returns:
        The same model. It classifies; maps of its levels are no longer to be had.

    Raises:
        ConfigError: no such reduction, a share out of range, or another kind of network.
    """
    make = REDUCTIONS.find(reduction)
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise ConfigError(f"keep is {keep!r}, expected a share above 0 and up to 1.", "keep=0.7 keeps 70 %.")
    blocks = getattr(model, "blocks", None)
    if (
        type(model) is not VisionTransformer
        or not isinstance(blocks, nn.Sequential)
        or model.num_prefix_tokens != 1
        or model.global_pool != "token"
        or any(type(block) is not Block or type(block.attn) is not Attention for block in blocks)
    ):
        raise ConfigError(
            f"Tokens cannot be reduced in {type(model).__name__}, expected a plain vision transformer of timm that"
            " answers by one class token.",
            "Such as deit_tiny_patch16_224, deit_small_patch16_224 or vit_base_patch16_224.",
        )
    grid = cast(Any, model.patch_embed).grid_size
    spots = [Spot(index, len(blocks), cast(Any, model).embed_dim, grid, float(keep)) for index in range(len(blocks))]
    model.blocks = ReducedBlocks(*(make(block, spot) or block for block, spot in zip(blocks, spots, strict=True)))
    return model


def added_weights(model: nn.Module) -> set[str]:
    """Names of the weights that a reduction has beyond those of the whole network: they need training."""
    blocks = {place: block for place, block in model.named_modules() if isinstance(block, ReducingBlock)}
    return {
        f"{place}.{name}"
        for place, block in blocks.items()
        for name in block.state_dict()
        if name.partition(".")[0] not in block.taken
    }


class ReducedBlocks(nn.Sequential):
    """Blocks of which some hand on, beside the tokens (B, N, C), what they know of them."""

    def forward(self, x: Tensor) -> Tensor:
        beside = Beside()
        for block in self:
            if isinstance(block, ReducingBlock):
                x, beside = block(x, beside)
            else:
                x = block(x)
        return x


class ReducingBlock(nn.Module, ABC):
    """A block whose `reduce` comes between attention and feed-forward; it takes over the parts of a timm block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.taken = tuple(name for name, _ in block.named_children())
        for name, part in block.named_children():
            self.add_module(name, part)

    def forward(self, x: Tensor, beside: Beside) -> tuple[Tensor, Beside]:
        """(B, N, C) and what travels beside them to fewer of both."""
        parts: Any = self  # of timm's Block
        q, k, v = queries_keys_values(parts.attn, parts.norm1(x))
        weights = weigh(parts.attn, q, k, beside.size)
        x = x + parts.drop_path1(parts.ls1(gather_values(parts.attn, weights, v)))
        x, beside = self.reduce(x, beside, weights, k)
        return self.feed_forward(x), beside

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second half of timm's block: (B, N, C) to the same shape."""
        parts: Any = self
        return x + parts.drop_path2(parts.ls2(parts.mlp(parts.norm2(x))))

    @abstractmethod
    def reduce(self, x: Tensor, beside: Beside, weights: Tensor, keys: Tensor) -> tuple[Tensor, Beside]:
        """To fewer, by the attention weights (B, nh, N, N) and the keys (B, nh, N, hd)."""


# ---------------------------------------------------------------- timm's attention in three steps


def queries_keys_values(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, C) to three of (B, nh, N, hd)"""
    q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return attn.q_norm(q), attn.k_norm(k), v


def weigh(attn: Any, q: Tensor, k: Tensor, size: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """The weights (B, nh, N, N) of queries and keys (B, nh, N, hd); a token that stands for n counts n times.

    Args:
        mask: (B, nh, N, N) which keys a query may look at, at least one; all of them if not given.
    """
    logits = torch.matmul(q * attn.scale, k.transpose(2, 3))
    if size is not None:
        logits = logits + size.log()[:, None, None, :, 0]
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(-1)


def gather_values(attn: Any, weights: Tensor, v: Tensor) -> Tensor:
    """What the attention answers: (B, nh, N, n) and values (B, nh, n, hd) to (B, N, C)."""
    mixed = torch.matmul(attn.attn_drop(weights), v).transpose(1, 2).flatten(2)
    return attn.proj_drop(attn.proj(attn.norm(mixed)))


# ---------------------------------------------------------------- tokens by their places


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, c) and places (B, n) to (B, n, c)"""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def add_at(tokens: Tensor, index: Tensor, more: Tensor) -> Tensor:
    """(B, N, c) plus each of (B, n, c) at its place (B, n); several may have the same."""
    return tokens.scatter_add(1, index[..., None].expand(-1, -1, tokens.shape[2]), more)
