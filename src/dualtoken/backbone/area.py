"""Averages of a map over an even grid, for sizes that may be symbolic in an export."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor

from dualtoken.backbone.layers import channels_first, channels_last


def area_resize(x: Tensor, height: int, width: int) -> Tensor:
    """Average a map over an even grid of height x width cells; a pixel counts by the share of it in the cell.

    Pooling where the cells are larger than a pixel, interpolation where they are smaller, the identity
    where they agree: one formula for any size, written as two matrix products so that sizes may stay
    symbolic in an export.

    Args:
        x: (B, H, W, C), any size.

    Returns:
        (B, height, width, C)
    """
    fixed = isinstance(x.shape[1], int) and isinstance(x.shape[2], int)  # sizes are symbolic in a dynamic export
    if fixed and isinstance(height, int) and isinstance(width, int):
        if x.shape[1] == height and x.shape[2] == width:
            return x
        if x.shape[1] == 2 * height and x.shape[2] == 2 * width:
            return channels_last(F.avg_pool2d(channels_first(x), 2))
    rows = _overlap(x.shape[1], height, x)  # (height, H)
    columns = _overlap(x.shape[2], width, x)  # (width, W)
    maps = torch.matmul(rows, x.flatten(2)).unflatten(2, (-1, x.shape[3]))  # (B, height, W, C)
    return torch.matmul(columns, maps)  # (B, height, width, C)


def halve(x: Tensor, least: int) -> Tensor:
    """Halve both sides of a map by averaging, but none below `least` (a smaller side stays as it is)."""
    return area_resize(x, _halved(x.shape[1], least), _halved(x.shape[2], least))


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


def distinct_cells(height: int, width: int, grid: int) -> tuple[list[int], list[int], list[int]]:
    """Cells of `area_resize` to grid x grid that lie within the same pixel are equal: each kind of cell once.

    Returns:
        The first cell of each kind, the kind of each cell, and how many cells each kind has.
    """

    def spans(size: int) -> list[tuple[int, ...]]:  # a pixel's number, or the cell's own borders if it has several
        borders = [(i * size // grid, -(-(i + 1) * size // grid), i) for i in range(grid)]
        return [(first,) if last - first == 1 else (first, last, i) for first, last, i in borders]

    cells = [(row, column) for row in spans(height) for column in spans(width)]
    kinds = list(dict.fromkeys(cells))
    return [cells.index(kind) for kind in kinds], [kinds.index(cell) for cell in cells], [*map(cells.count, kinds)]


register_notrace_function(area_resize)
register_notrace_function(halve)
