"""Where the names of objects go in a picture: beside their boxes, inside the picture, not upon each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_COVERED = 0.05  # share of a tag that may lie on others; else another place or a shorter text is looked for
_PER_PLACE = 0.015  # what each less usual place costs, in shares of the tag


class Tag(NamedTuple):
    """The tag of object number `item`: which of its texts it shows, and its left and top pixel."""

    item: int
    text: int
    left: int
    top: int


def place_tags(
    boxes: NDArray[np.float32], sizes: Sequence[Sequence[tuple[int, int]]], picture: tuple[int, int]
) -> list[Tag]:
    """Find places for tags, the first object's first.

    A tag goes above its box, into it, below it, at its left or right end, wherever it hides least of other tags and
    small objects. Where every place hides too much, a shorter text is tried; where that is so of all texts, the object
    stays without one.

    Args:
        boxes: (n, 4) left, top, right, bottom.
        sizes: for the first objects, those that may have a tag, the (width, height) of their texts, the best first.
        picture: (width, height).

    Returns:
        The tags that found a place, in the order of the objects.
    """
    taken = np.empty((0, 4))
    tags = []
    for index, texts in enumerate(sizes):
        others = boxes[_near(boxes, index, np.max(texts, axis=0))]
        for number, size in enumerate(texts):
            rectangle, covered = _best_place(boxes[index], size, picture, taken, others)
            if covered <= _MOST_COVERED:
                taken = np.concatenate([taken, rectangle[None]])
                tags.append(Tag(index, number, int(rectangle[0]), int(rectangle[1])))
                break
    return tags


def _near(boxes: NDArray[np.float32], index: int, size: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) which other boxes a tag of `size` (width, height) beside box `index` may lie on."""
    own = boxes[index]
    near = ((boxes[:, :2] < own[2:] + size) & (boxes[:, 2:] > own[:2] - size)).all(axis=1)
    near[index] = False
    return near


def _best_place(
    box: NDArray[np.float32],
    size: tuple[int, int],
    picture: tuple[int, int],
    taken: NDArray[np.float64],
    others: NDArray[np.float32],
) -> tuple[NDArray[np.float64], float]:
    """The place that hides least, and the share of it that lies on other tags."""
    left, top, right, bottom = box.tolist()
    width, height = size
    corners = [
        (left, top - height), (left, top), (right - width, top - height), (left, bottom), (right - width, top),
        (left, bottom - height), (right - width, bottom), (right - width, bottom - height), (right, top),
        ((left + right - width) / 2, top - height), ((left + right - width) / 2, top), (left - width, top),
    ]  # fmt: skip
    places = np.array(corners).clip(0, [max(picture[0] - width, 0), max(picture[1] - height, 0)]).round()
    places = np.concatenate([places, places + size], axis=1)  # (places, 4)
    covered = _shared(places, taken).sum(axis=1) / (width * height)
    areas = ((others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])).clip(1)
    hidden = (_shared(places, others.astype(np.float64)) / areas).sum(axis=1)
    best = int(np.argmin(covered + 0.3 * hidden + _PER_PLACE * np.arange(len(places))))
    return places[best], float(covered[best])


def _shared(places: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """(p, n) areas that p and n rectangles share."""
    sides = np.minimum(places[:, None, 2:], others[None, :, 2:]) - np.maximum(places[:, None, :2], others[None, :, :2])
    return sides.clip(0).prod(axis=2)
