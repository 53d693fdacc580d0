"""Layers that every part shares. All of them read and write maps (B, H, W, C), channels last.

Then norms and linears read contiguous rows of C numbers, a convolution sees the same memory through a permuted view
(`channels_first`), and an exported graph holds no transposes but those.

Legend: B batch, C channels, H W image-token grid, h w global-token grid, N = H * W, nh heads, hd channels a head.
"""

from typing import Any, cast

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


class TokenLinear(nn.Linear):
    """The same linear layer over the positions of each channel, as one matrix product without a transpose."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, C) to (B, tokens, C)"""
        return torch.baddbmm(self.bias[:, None], self.weight.expand(x.shape[0], -1, -1), x)


class DepthwiseConv(nn.Conv2d):
    """An odd k x k convolution of each channel of a map by itself, padded so that the size stays.

    Its gradient is slow on a CPU, and slowest on small maps, whose windows are padding for the most part: there a
    training step takes each channel as a dense layer over the positions.
    """

    def __init__(self, channels: int, kernel: int, bias: bool = True, **dd: Any) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias, **dd)

    def dilate(self, dilation: int) -> None:
        """Look at tokens `dilation` apart: the same field of view on a map that was not halved."""
        self.dilation, self.padding = (dilation, dilation), (self.kernel_size[0] // 2 * dilation,) * 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)"""
        if not torch.jit.is_scripting() and self._as_dense(x):  # type: ignore[attr-defined]
            return self._dense(x)
        y = F.conv2d(channels_first(x), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return channels_last(y)

    @torch.jit.unused
    def _as_dense(self, x: Tensor) -> bool:
        if not self.training or torch.compiler.is_compiling() or x.device.type != "cpu" or self.dilation != (1, 1):
            return False
        return x.shape[1] * x.shape[2] <= min(x.shape[0], 49)  # a larger batch pays for making the layer

    @torch.jit.unused
    def _dense(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        rows, columns = cast(tuple[int, int], self.padding)  # never the name of one here
        down, right = height - 1 - rows, width - 1 - columns
        reach = F.pad(self.weight[:, 0], (right, right, down, down))  # (C, 2H - 1, 2W - 1): all offsets there are
        windows = reach.unfold(1, height, 1).unfold(2, width, 1)  # (C, H, W, H, W), the first output position last
        layer = windows.flip(1, 2).flatten(3).flatten(1, 2)  # (C, N, N): from each position to each
        y = torch.bmm(layer, x.flatten(1, 2).permute(2, 1, 0).contiguous())  # (C, N, B)
        if y.requires_grad:
            y.register_hook(Tensor.contiguous)  # else each of the C products of the gradient copies its part
        y = y.permute(2, 1, 0)
        return (y if self.bias is None else y + self.bias).unflatten(1, (height, width))


class Mlp(nn.Module):
    """Linear, GELU, Linear over the channels of a map."""

    def __init__(self, channels: int, hidden: int, **dd: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, **dd)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, C, H, W), as convolutions, poolings and heads want it: a view."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H, W, C): a view."""
    return x.permute(0, 2, 3, 1)


def modulo(x: Tensor, size: int) -> Tensor:
    """x % size for whole numbers; ONNX has a remainder for sizes that are fixed alone."""
    return x - x // size * size


def rows_and_columns(x: Tensor) -> tuple[Tensor, Tensor]:
    """In which row and in which column of a map (B, H, W, C) each position stands, in reading order: (N), (N)."""
    place = torch.arange(x.shape[1] * x.shape[2], device=x.device)
    return place // x.shape[2], modulo(place, x.shape[2])


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, H, W, C) to (B, nh, N, hd)"""
    return x.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor, height: int, width: int) -> Tensor:
    """(B, nh, N, hd) back to (B, H, W, C)."""
    return x.transpose(1, 2).flatten(2).unflatten(1, (height, width))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, repeats: Tensor | None = None) -> Tensor:
    """Multi-head attention from the positions of one map to those of another.

    Args:
        q: (B, H, W, C).
        k, v: (B, h, w, C).
        repeats: (h * w) how often each key is there; once if not given.

    Returns:
        (B, H, W, C)
    """
    bias = None if repeats is None else repeats.log().to(q.dtype)[None]  # (1, h * w): n equal keys add log n
    x = F.scaled_dot_product_attention(
        split_heads(q, heads), split_heads(k, heads), split_heads(v, heads), attn_mask=bias
    )
    return join_heads(x, q.shape[1], q.shape[2])


def join_tokens(x: Tensor, g: Tensor) -> Tensor:
    """Image tokens (B, H, W, C) and global tokens (B, h, w, C) as one column (B, H * W + h * w, 1, C)."""
    return torch.cat([x.flatten(1, 2), g.flatten(1, 2)], dim=1)[:, :, None]


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
        """Maps q, k, v (B, H, W, C), each side a multiple of the window, to (B, H, W, C)."""
        batch, height, width, channels = q.shape
        window = self.window
        area = window * window
        bias = self.bias[self.index].view(area, area, self.heads).permute(2, 0, 1)  # (nh, area, area)
        x = F.scaled_dot_product_attention(self._split(q), self._split(k), self._split(v), attn_mask=bias)
        x = x.transpose(2, 3).reshape(batch, height // window, width // window, window, window, channels)
        return x.transpose(2, 3).reshape(batch, height, width, channels)

    def _split(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, windows, nh, area, hd)"""
        batch, height, width, channels = x.shape
        window = self.window
        rows, columns = height // window, width // window
        x = x.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
        return x.reshape(batch, rows * columns, window * window, self.heads, channels // self.heads).transpose(2, 3)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros at the bottom and right of a map until `multiple` divides both sides."""
    height, width = x.shape[1], x.shape[2]
    pad_h, pad_w = -height % multiple, -width % multiple
    if isinstance(height, int) and isinstance(width, int) and pad_h == 0 and pad_w == 0:
        return x
    return F.pad(x, (0, 0, 0, pad_w, 0, pad_h))


register_notrace_function(pad_to_multiple)


def start_weights(module: nn.Module) -> None:
    """Fresh weights of one module: truncated normal for linears, as its `reset_parameters` says for all others."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif hasattr(module, "reset_parameters"):
        cast(Any, module).reset_parameters()
