"""COCO's run lengths: a mask, column by column, as the lengths of its runs of zeros and ones in turn.

Compressed, each length is the difference to the one two before it, in groups of five bits from the lowest on, each
group a printable character: bit 32 says that more follow, bit 16 of the last group is the sign, 48 is added.
They are read here and not in C so that a damaged string is refused and never written past the end of an array.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def unpack(runs: str) -> list[int]:
    """The run lengths of a compressed string.

    Raises:
        ValueError: it is none.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in runs:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError(f"{character!r} is no part of compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the compressed run lengths end in the middle of a number")
    return lengths


def pack(lengths: Sequence[int]) -> str:
    """Run lengths as a compressed string."""
    characters = []
    for place, length in enumerate(lengths):
        value = length - (lengths[place - 2] if place > 2 else 0)
        while True:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            characters.append(chr(group + 48 + 32 * more))
            if not more:
                break
    return "".join(characters)


def check(lengths: Sequence[int], size: tuple[int, int]) -> None:
    """Raise ValueError unless the runs fill a mask of `size` (height, width)."""
    if any(length < 0 for length in lengths):
        raise ValueError("a run length is negative")
    if sum(lengths) != size[0] * size[1]:
        raise ValueError(f"the run lengths make {sum(lengths):,} pixels, the mask has {size[0] * size[1]:,}")


def area_and_box(lengths: Sequence[int], height: int) -> tuple[int, tuple[int, int, int, int] | None]:
    """Pixels of the mask, and the box (left, top, right, bottom) around them, None where there are none."""
    ends = np.cumsum(np.array(lengths, np.int64))
    starts, ends = ends[:-1][::2], ends[1::2]  # of the runs of ones
    starts, ends = starts[: len(ends)], ends
    full = ends > starts
    starts, last = starts[full], ends[full] - 1
    if not len(starts):
        return 0, None
    area = int((last - starts + 1).sum())
    over = starts // height != last // height  # a run that goes on in the next column touches both edges
    top = 0 if over.any() else int((starts % height).min())
    bottom = height if over.any() else int((last % height).max()) + 1
    return area, (int((starts // height).min()), top, int((last // height).max()) + 1, bottom)


def lengths_of(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths of a (height, width) mask."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(flat)]])
    lengths = np.diff(edges).tolist()
    return [0, *lengths] if len(flat) and flat[0] else lengths
