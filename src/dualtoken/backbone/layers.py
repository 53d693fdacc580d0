"""Layers that every part shares. All of them read and write maps (B, C, H, W).

Memory is laid out channels last: then the permutes below are views, norms and linears run on contiguous
rows of C numbers, and no copy is made between a convolution and a linear.

Legend: B batch, C channels, H W image-token grid, h w global-token grid, N = H * W, nh heads, hd channels a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function, trunc_normal_
from torch import Tensor, nn

# Annotations stay objects here (no __future__ import): TorchScript reads the class-level one of WindowAttention.
EPSILON = 1e-6  # of every LayerNorm, as in LightViT


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def __init__(self, channels: int, **dd: Any) -> None:
        super().__init__(channels, eps=EPSILON, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # (B, C, H, W), channels last in memory


class ChannelLinear(nn.Linear):
    """The same linear layer at each position of a map: a point-wise convolution, as one matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class TokenLinear(nn.Linear):
    """The same linear layer over the positions of each channel, as one matrix product without a transpose."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, C) to (B, tokens, C)"""
        return torch.baddbmm(self.bias[:, None], self.weight.expand(x.shape[0], -1, -1), x)


class Mlp(nn.Module):
    """Linear, GELU, Linear over the channels of a map."""

    def __init__(self, channels: int, hidden: int, **dd: Any) -> None:
        super().__init__()
        self.fc1 = ChannelLinear(channels, hidden, **dd)
        self.act = nn.GELU()
        self.fc2 = ChannelLinear(hidden, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, C, H, W) to (B, nh, N, hd), a view where the map is channels last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor, height: int, width: int) -> Tensor:
    """(B, nh, N, hd) back to (B, C, H, W)."""
    return x.transpose(1, 2).flatten(2).unflatten(1, (height, width)).permute(0, 3, 1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention from the positions of one map to those of another.

    Args:
        q: (B, C, H, W).
        k, v: (B, C, h, w).

    Returns:
        (B, C, H, W)
    """
    x = F.scaled_dot_product_attention(split_heads(q, heads), split_heads(k, heads), split_heads(v, heads))
    return join_heads(x, q.shape[2], q.shape[3])


def chunk_channels(x: Tensor, parts: int) -> list[Tensor]:
    """Split the channels of a map into equal parts, so that the gradients are joined channels last."""
    return [part.permute(0, 3, 1, 2) for part in x.permute(0, 2, 3, 1).chunk(parts, dim=-1)]


def join_tokens(x: Tensor, g: Tensor) -> Tensor:
    """Image tokens (B, C, H, W) and global tokens (B, C, h, w) as one column (B, C, H * W + h * w, 1)."""
    rows = [stream.permute(0, 2, 3, 1).flatten(1, 2) for stream in (x, g)]
    return torch.cat(rows, dim=1)[:, :, None].permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Attention within windows of a map, with a learned bias for each relative position (LightViT's local attention).

    Maps that the window does not divide are padded with zeros at the bottom and right.
    """

    index: Tensor

    def __init__(self, heads: int, window: int = 7, **dd: Any) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads, **dd))
        self.register_buffer("index", torch.empty(window**4, **dd | {"dtype": torch.long}), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh biases, and the index of each pair of positions into them."""
        trunc_normal_(self.bias, std=0.02)
        y, x = torch.arange(self.window**2) // self.window, torch.arange(self.window**2) % self.window
        dy, dx = y[:, None] - y[None, :] + self.window - 1, x[:, None] - x[None, :] + self.window - 1
        self.index.copy_((dy * (2 * self.window - 1) + dx).flatten())

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Maps q, k, v (B, C, H, W), each side a multiple of the window, to (B, C, H, W)."""
        batch, channels, height, width = q.shape
        window = self.window
        area = window * window
        bias = self.bias[self.index].view(area, area, self.heads).permute(2, 0, 1)  # (nh, area, area)
        x = F.scaled_dot_product_attention(self._split(q), self._split(k), self._split(v), attn_mask=bias)
        x = x.transpose(2, 3).reshape(batch, height // window, width // window, window, window, channels)
        return x.transpose(2, 3).reshape(batch, height, width, channels).permute(0, 3, 1, 2)

    def _split(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, windows, nh, area, hd)"""
        batch, channels, height, width = x.shape
        window = self.window
        rows, columns = height // window, width // window
        x = x.permute(0, 2, 3, 1).reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
        return x.reshape(batch, rows * columns, window * window, self.heads, channels // self.heads).transpose(2, 3)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros at the bottom and right of a map until `multiple` divides both sides."""
    height, width = x.shape[2], x.shape[3]
    pad_h, pad_w = -height % multiple, -width % multiple
    if isinstance(height, int) and isinstance(width, int) and pad_h == 0 and pad_w == 0:
        return x
    return F.pad(x, (0, pad_w, 0, pad_h))


def area_resize(x: Tensor, height: int, width: int) -> Tensor:
    """Average a map over an even grid of height x width cells; a pixel counts by the share of it in the cell.

    Pooling where the cells are larger than a pixel, interpolation where they are smaller, the identity
    where they agree: one formula for any size, written as two matrix products so that sizes may stay
    symbolic in an export.

    Args:
        x: (B, C, H, W), any size.

    Returns:
        (B, C, height, width)
    """
    if isinstance(x.shape[2], int) and isinstance(x.shape[3], int):  # sizes are symbolic in a dynamic export
        if x.shape[2] == height and x.shape[3] == width:
            return x
        if x.shape[2] == 2 * height and x.shape[3] == 2 * width:
            return F.avg_pool2d(x, 2)
    rows = _overlap(x.shape[2], height, x)  # (height, H)
    columns = _overlap(x.shape[3], width, x)  # (width, W)
    maps = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    maps = torch.matmul(rows, maps.flatten(2)).unflatten(2, (-1, x.shape[1]))  # (B, height, W, C)
    return torch.matmul(columns, maps).permute(0, 3, 1, 2)  # (B, C, height, width)


def halve(x: Tensor, least: int) -> Tensor:
    """Halve both sides of a map by averaging, but none below `least` (a smaller side stays as it is)."""
    return area_resize(x, _halved(x.shape[2], least), _halved(x.shape[3], least))


def _halved(size: int, least: int) -> int:
    if not torch.jit.is_scripting() and isinstance(size, torch.SymInt):  # type: ignore[attr-defined]
        return torch.sym_max(size // 2, torch.sym_min(size, least))
    return max(size // 2, min(size, least))


def _overlap(size: int, cells: int, like: Tensor) -> Tensor:
    """(cells, size): the share of each of `size` pixels in each of `cells` equal cells; rows sum to one."""
    pixel = torch.arange(size, device=like.device, dtype=torch.float32)
    cell = torch.arange(cells, device=like.device, dtype=torch.float32)[:, None]
    scale = size / cells
    share = torch.minimum((cell + 1) * scale, pixel + 1) - torch.maximum(cell * scale, pixel)
    return (share.clamp(min=0) / scale).to(like.dtype)


register_notrace_function(pad_to_multiple)
register_notrace_function(area_resize)
register_notrace_function(halve)
register_notrace_function(chunk_channels)
