"""Plain vision transformers of timm that drop or merge tokens on their way: fewer of them cost less.

    create_model("deit_small_patch16_224", reduction="evit", keep=0.7)

The weights keep their names, so those of the whole network fit. A reduction is an entry of `REDUCTIONS`: for each block
of the network a `ReducingBlock`, or None where the block stays as it is.

Legend: B batch, N tokens with the class token first, C channels, nh heads, hd channels a head.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from dualtoken.errors import ConfigError
from dualtoken.registry import Registry

Reduction = Callable[[nn.Module, int, int, int, float], "ReducingBlock | None"]
REDUCTIONS: Registry[Reduction] = Registry("reduction")  # (block, its index, blocks, image tokens, keep)


def reduce_tokens(model: nn.Module, reduction: str, keep: float) -> nn.Module:
    """Let a plain vision transformer carry fewer tokens, in place.

    Args:
        model: timm's `VisionTransformer` with one class token, whose blocks are the usual ones.
        reduction: a name in `REDUCTIONS`.
        keep: in (0, 1], the share of the image tokens that is kept; each reduction's class says when.

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
    tokens = int(cast(Any, model.patch_embed).num_patches)
    made = [make(block, index, len(blocks), tokens, float(keep)) for index, block in enumerate(blocks)]
    model.blocks = ReducedBlocks(*(new or old for new, old in zip(made, blocks, strict=True)))
    return model


class ReducedBlocks(nn.Sequential):
    """Blocks of which some hand on, beside the tokens (B, N, C), how many tokens each of them stands for (B, N, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        size: Tensor | None = None
        for block in self:
            if isinstance(block, ReducingBlock):
                x, size = block(x, size)
            else:
                x = block(x)
        return x


class ReducingBlock(nn.Module, ABC):
    """A block whose `reduce` comes between attention and feed-forward; it takes over the parts of a timm block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)

    def forward(self, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, N, C) and the sizes (B, N, 1), or None where all are 1, to fewer of both."""
        parts: Any = self  # of timm's Block
        mixed, weights, keys = _attend(parts.attn, parts.norm1(x), size)
        x, size = self.reduce(x + parts.drop_path1(parts.ls1(mixed)), size, weights, keys)
        return x + parts.drop_path2(parts.ls2(parts.mlp(parts.norm2(x)))), size

    @abstractmethod
    def reduce(self, x: Tensor, size: Tensor | None, weights: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens and sizes, with the attention weights (B, nh, N, N) and the keys (B, nh, N, hd), to fewer."""


def _attend(attn: Any, x: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """timm's attention; a token that stands for n counts n times. Its answer, its weights and its keys."""
    q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attn.q_norm(q), attn.k_norm(k)
    logits = torch.matmul(q * attn.scale, k.transpose(2, 3))
    if size is not None:
        logits = logits + size.log()[:, None, None, :, 0]
    weights = attn.attn_drop(logits.softmax(-1))
    mixed = torch.matmul(weights, v).transpose(1, 2).flatten(2)
    return attn.proj_drop(attn.proj(attn.norm(mixed))), weights, k


class EViT(ReducingBlock):
    """Keep the tokens that the class token looks at most; the others become one, weighed by that look.

    Liang et al. 2022, arXiv 2202.07800; facts from github.com/youweiliang/evit. After a quarter, a half and three
    quarters of the blocks the share `keep` is kept of the tokens that are left.
    """

    def __init__(self, block: nn.Module, keep: float) -> None:
        super().__init__(block)
        self.keep = keep

    def reduce(self, x: Tensor, size: Tensor | None, weights: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, C) to (B, 1 + ceil(keep * (N - 1)) + 1, C)"""
        number = x.shape[1] - 1
        kept = math.ceil(self.keep * number)
        look, order = weights[:, :, 0, 1:].mean(1).topk(number)  # (B, N - 1), the most first
        tokens = _take(x[:, 1:], order)
        rest = (tokens[:, kept:] * look[:, kept:, None]).sum(1, keepdim=True)
        return torch.cat([x[:, :1], tokens[:, :kept], rest], 1), None


class ToMe(ReducingBlock):
    """Merge the pairs of tokens whose keys are most alike, one of each pair from the even places.

    Bolya et al. 2023, arXiv 2210.09461; facts from github.com/facebookresearch/ToMe. Every block merges as many, so
    that behind the last one the share `keep` is left.
    """

    def __init__(self, block: nn.Module, merged: int) -> None:
        super().__init__(block)
        self.merged = merged

    def reduce(self, x: Tensor, size: Tensor | None, weights: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, C) to (B, N - merged, C), but to no fewer than half of the tokens"""
        merged = min(self.merged, (x.shape[1] - 1) // 2)
        if merged <= 0:
            return x, size
        with torch.no_grad():
            key = torch.nn.functional.normalize(keys.mean(1), dim=-1)
            alike = torch.matmul(key[:, ::2], key[:, 1::2].transpose(1, 2))  # (B, even places, odd places)
            alike = torch.cat([torch.full_like(alike[:, :1], -torch.inf), alike[:, 1:]], 1)  # never the class token
            most, partner = alike.max(-1)
            order = most.topk(most.shape[1]).indices
            leaving, staying = order[:, :merged], order[:, merged:].sort(1).values
            partner = partner.gather(1, leaving)  # (B, merged)
            odd = torch.arange(alike.shape[2], device=x.device)
            to = (partner[:, None] == odd[:, None]).to(x.dtype)  # (B, odd places, merged)
        counted = x.new_ones(x.shape[0], x.shape[1], 1) if size is None else size

        def merge(tokens: Tensor) -> Tensor:
            even, odd = tokens[:, ::2], tokens[:, 1::2]
            return torch.cat([_take(even, staying), odd + torch.matmul(to, _take(even, leaving))], 1)

        counts = merge(counted)
        return merge(x * counted) / counts, counts


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) and places (B, n) to (B, n, C)"""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))


def _evit(block: nn.Module, index: int, depth: int, tokens: int, keep: float) -> ReducingBlock | None:
    return EViT(block, keep) if keep < 1 and index in {depth * part // 4 for part in (1, 2, 3)} else None


def _tome(block: nn.Module, index: int, depth: int, tokens: int, keep: float) -> ReducingBlock | None:
    return ToMe(block, round((1 - keep) * tokens / depth))


REDUCTIONS["evit"] = _evit
REDUCTIONS["tome"] = _tome
