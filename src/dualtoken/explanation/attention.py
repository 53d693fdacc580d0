"""What the global tokens do: whom they listen to, who listens to them, and how they change from block to block.

The network computes attention in one fused operation that keeps no weights. They are worked out anew here, by the
modules' own norms and projections, from what hooks see of a forward pass; the pass itself is not touched.

Legend: nh heads, H W image-token grid, h w token grid, N = H * W, n = h * w.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualtoken.backbone.ablations import CrossAttention
from dualtoken.backbone.dualtoken import Block, DualTokenViT
from dualtoken.backbone.layers import split_heads
from dualtoken.backbone.mixers.dual_token import Broadcast, SelfAttention
from dualtoken.backbone.mixers.lightvit import LightViTMixer

Grid = tuple[int, int]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Attention:
    """Who looks where, in one operation of one block.

    Attributes:
        weights: (nh, queries, keys) float32; each row sums to 1.
        queries, keys: grids of those that look and of those that are looked at; 1 x 8 for 8 tokens without positions.
    """

    weights: Floats
    queries: Grid
    keys: Grid

    def from_position(self, x: float, y: float) -> Floats:
        """(nh, rows, columns): where the query at x, y looks, both as a share of the width and height, in [0, 1)."""
        rows, columns = self.queries
        query = min(int(y * rows), rows - 1) * columns + min(int(x * columns), columns - 1)
        return self.weights[:, query].reshape(-1, *self.keys)


@dataclass(eq=False)
class BlockRecord:
    """What one block did with the tokens of one image.

    Attributes:
        name: `STAGE.BLOCK`, both counted from 1.
        image_grid: (H, W).
        broadcast: image tokens look at the tokens that are given out to them.
        aggregation: the token grid, made from the image, looks at itself; in LightViT the tokens look at the image.
        fusion: the travelling tokens look at the aggregated grid; None where they are merged by a weighted sum.
        before, after: (h, w, C) the travelling tokens; None where none travel.
    """

    name: str
    image_grid: Grid = (0, 0)
    broadcast: Attention | None = None
    aggregation: Attention | None = None
    fusion: Attention | None = None
    before: Floats | None = None
    after: Floats | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """How the travelling tokens changed in one block.

    Attributes:
        block: `STAGE.BLOCK`.
        change: (h, w) length of each token's change, as a share of its length before.
        cosine: (h, w) cosine of each token to itself at the start of its stage, -1 to 1.
    """

    block: str
    change: Floats
    cosine: Floats


@dataclass(frozen=True, eq=False)
class TokenRecord:
    """What all blocks did with the tokens of one image.

    Attributes:
        blocks: in order.
        positions: whether the travelling tokens are a grid that covers the image.
        notes: what there is not, in words.
    """

    blocks: tuple[BlockRecord, ...]
    positions: bool
    notes: tuple[str, ...] = field(default=())

    def path(self) -> list[Step]:
        """How the tokens changed; empty where none travel."""
        steps, start, stage = [], None, ""
        for block in self.blocks:
            if block.before is None or block.after is None:
                continue
            if block.name.partition(".")[0] != stage:
                stage, start = block.name.partition(".")[0], block.before
            assert start is not None
            change = _length(block.after - block.before) / np.maximum(_length(block.before), 1e-12)
            product = (block.after * start).sum(axis=-1)
            cosine = product / np.maximum(_length(block.after) * _length(start), 1e-12)
            steps.append(Step(block.name, change.astype(np.float32), cosine.astype(np.float32)))
        return steps


def _length(tokens: Floats) -> Floats:
    return np.asarray(np.sqrt(np.square(tokens).sum(axis=-1)), np.float32)


def find_network(model: nn.Module) -> DualTokenViT | None:
    """The network of ours within a model, which may stand below a head; None for other architectures."""
    return next((module for module in model.modules() if isinstance(module, DualTokenViT)), None)


def record(network: DualTokenViT, run: Callable[[], Any]) -> TokenRecord:
    """What the tokens did while `run` gave one image to the network, once.

    Args:
        network: ours, on its own or within a larger one.
        run: calls that larger one.
    """
    blocks = {
        block: BlockRecord(f"{stage}.{number}")
        for stage, part in enumerate(network.stages, 1)
        for number, block in enumerate(part.blocks, 1)  # type: ignore[arg-type]
    }
    with _listening(blocks), torch.no_grad():
        run()
    seen = tuple(block for block in blocks.values() if block.broadcast is not None)
    config = network.config
    positions = config.mixer == "dual_token" and config.global_tokens in ("position", "position_attention")
    return TokenRecord(seen, positions, tuple(_notes(network)))


def _notes(network: DualTokenViT) -> Iterator[str]:
    config = network.config
    if config.mixer == "lightvit":
        yield "LightViT: its tokens have no positions, and gather from the image tokens themselves."
    elif config.global_tokens == "none":
        yield "No global tokens travel (global_tokens=none): each block makes its own grid, so there is no path."
    elif config.global_tokens == "normal":
        yield f"The {config.normal_tokens} global tokens have no positions: they are shown as a row."
    if config.mixer == "lightvit" or config.local_mixer == "window":
        yield "Attention within the 7 x 7 windows is not shown."


@contextmanager
def _listening(blocks: dict[Any, BlockRecord]) -> Iterator[None]:
    """Fill the records from whatever passes through the blocks; the hooks go, whatever happens."""
    handles = []
    try:
        for block, into in blocks.items():
            handles.append(block.register_forward_hook(partial(_of_block, into)))
            for module in block.mixer.modules():
                if hook := _HOOKS.get(type(module)):
                    handles.append(module.register_forward_hook(partial(hook, into)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_block(into: BlockRecord, _block: Block, inputs: Any, output: Any) -> None:
    (x, before), (_, after) = inputs, output
    into.image_grid = (x.shape[1], x.shape[2])
    if before is not None:
        into.before, into.after = _array(before[0]), _array(after[0])


def _of_broadcast(into: BlockRecord, module: Broadcast, inputs: Any, _output: Any) -> None:
    x, g = inputs
    into.broadcast = _attention(broadcast_weights(module, x, g)[0], x, g)


def _of_aggregation(into: BlockRecord, module: SelfAttention, inputs: Any, _output: Any) -> None:
    (x,) = inputs
    into.aggregation = _attention(aggregation_weights(module, x)[0], x, x)


def _of_fusion(into: BlockRecord, module: CrossAttention, inputs: Any, _output: Any) -> None:
    g, aggregated = inputs
    into.fusion = _attention(fusion_weights(module, g, aggregated)[0], g, aggregated)


def _of_lightvit(into: BlockRecord, module: LightViTMixer, inputs: Any, _output: Any) -> None:
    x, g = inputs
    (gather, _), (give, _) = lightvit_weights(module, x, g)
    into.aggregation, into.broadcast = _attention(gather, g, x), _attention(give, x, g)


_HOOKS: dict[type[nn.Module], Callable[..., None]] = {
    Broadcast: _of_broadcast,
    SelfAttention: _of_aggregation,
    CrossAttention: _of_fusion,
    LightViTMixer: _of_lightvit,
}


def _attention(weights: Tensor, queries: Tensor, keys: Tensor) -> Attention:
    """Of the first image, from weights (B, nh, queries, keys) and the maps (B, h, w, C) that they stand between."""
    return Attention(_array(weights[0]), (queries.shape[1], queries.shape[2]), (keys.shape[1], keys.shape[2]))


def _array(values: Tensor) -> Floats:
    return np.ascontiguousarray(values.detach().float().cpu().numpy())


# ---------------------------------------------------------------- weights, as the modules' forward implies them


def weights_of(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Attention's weights, (B, nh, queries, keys), of maps q and k (B, h, w, C): a softmax over the keys."""
    q, k = split_heads(q, heads), split_heads(k, heads)
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)


def broadcast_weights(module: Broadcast, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, nh, N, n) and values (B, nh, n, hd) of the global broadcast of g (B, h, w, C) to x (B, H, W, C)."""
    k, v = module.kv(module.norm_g(g)).chunk(2, dim=-1)
    return weights_of(module.q(module.norm_x(x)), k, module.heads), split_heads(v, module.heads)


def aggregation_weights(module: SelfAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, nh, n, n) and values (B, nh, n, hd) of the token grid x (B, h, w, C) among itself."""
    q, k, v = module.qkv(module.norm(x)).chunk(3, dim=-1)
    return weights_of(q, k, module.heads), split_heads(v, module.heads)


def fusion_weights(module: CrossAttention, g: Tensor, aggregated: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, nh, tokens, n) and values of the tokens g, which look at the aggregated map."""
    k, v = module.kv(module.norm_x(aggregated)).chunk(2, dim=-1)
    return weights_of(module.q(module.norm_g(g)), k, module.heads), split_heads(v, module.heads)


def lightvit_weights(
    module: LightViTMixer, x: Tensor, g: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Weights and values of LightViT's aggregation, (B, nh, n, N), and of its broadcast, (B, nh, N, n)."""
    heads = module.heads
    q, k, v = module.qkv(module.norm(x)).chunk(3, dim=-1)
    q_global = module.qkv(module.norm(g)).chunk(3, dim=-1)[0]
    gather, values = weights_of(q_global, k, heads), split_heads(v, heads)
    tokens = (gather @ values).transpose(1, 2).flatten(2).unflatten(1, (g.shape[1], g.shape[2]))
    k_global, v_global = module.kv_global(tokens).chunk(2, dim=-1)
    return (gather, values), (weights_of(q, k_global, heads), split_heads(v_global, heads))
