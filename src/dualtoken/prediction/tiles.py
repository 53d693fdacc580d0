"""Big images piece by piece: overlapping tiles, each answered on its own, and their answers made one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dualtoken.errors import ConfigError
from dualtoken.outputs import Detections, Segmentation
from dualtoken.postprocess import nms

Found = TypeVar("Found", Detections, Segmentation)

OVERLAP = 0.25  # share of a tile's side that the next one repeats


class Tile(NamedTuple):
    """A rectangle of an image, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def tiles(size: tuple[int, int], tile: int | tuple[int, int], overlap: float = OVERLAP) -> list[Tile]:
    """Rectangles that cover an image, row by row, evenly spread.

    Args:
        size: (height, width) of the image.
        tile: (height, width) of a tile, or one number for both; a smaller image makes one smaller tile.
        overlap: the least share of a tile's side that it has in common with the next, from 0 to 0.9.

    Raises:
        ConfigError: the tile has no pixels, or the overlap is out of its range.
    """
    sides = (tile, tile) if isinstance(tile, int) else tile
    if min(sides) < 1:
        raise ConfigError(f"tile is {tile}, expected 1 pixel or more.")
    if not 0 <= overlap <= 0.9:
        raise ConfigError(f"overlap is {overlap}, expected a share of the tile from 0 to 0.9.")
    rows, columns = (_spans(length, side, overlap) for length, side in zip(size, sides, strict=True))
    return [Tile(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def predict_tiled(
    answer_one: Callable[[Image.Image], Found],
    image: Image.Image,
    tile: int | tuple[int, int],
    overlap: float = OVERLAP,
    *,
    iou: float = 0.5,
    whole: bool = True,
) -> Found:
    """Answer a big image tile by tile, so that small things keep their pixels.

    Objects that two tiles found are one: of each class the best remains. A box that ends where its tile ends may be
    a part of an object; it yields to a whole one that covers it. Where tiles of regions overlap, the more confident
    one says the class; without confidences the one in whose middle the pixel lies.

    Args:
        answer_one: from an image to what is found in it.
        image: RGB.
        tile, overlap: as in `tiles`. An object that is larger than the overlap may be cut by every tile.
        iou: boxes of one class that overlap more are the same object.
        whole: for objects, answer the whole image too: what is larger than a tile is found there.

    Returns:
        The answer for the whole image; its path is that of the first tile's answer.

    Raises:
        ConfigError: as in `tiles`.
    """
    size = (image.height, image.width)
    places = tiles(size, tile, overlap)
    if len(places) == 1:
        return answer_one(image)
    first = answer_one(image.crop(places[0]))
    answers = chain([first], (answer_one(image.crop(place)) for place in places[1:]))
    if isinstance(first, Segmentation):
        return _one_segmentation(size, zip(places, answers, strict=True))
    found = [_moved(answer, place, size) for place, answer in zip(places, answers, strict=True)]
    cut = [_cut(answer, place, size) for answer, place in zip(found, places, strict=True)]
    if whole:
        found.append(answer_one(image))
        cut.append(np.zeros(len(found[-1]), np.bool_))
    return _one_detections(found, np.concatenate(cut), iou)


def _spans(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    step = max(1.0, side * (1 - overlap))
    number = math.ceil((length - side) / step - 1e-9) + 1
    starts = np.linspace(0, length - side, number).astype(int).tolist()
    return [(start, start + side) for start in starts]


def _moved(answer: Detections, place: Tile, size: tuple[int, int]) -> Detections:
    corner = (place.left, place.top)
    return replace(
        answer,
        size=size,
        boxes=answer.boxes + np.array(corner * 2, np.float32),
        corners=None if answer.corners is None else answer.corners + np.array(corner),
    )


def _cut(answer: Detections, place: Tile, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(n,) boxes that come within two pixels of an edge of their tile that is not the image's."""
    height, width = size
    inner = np.array([place.left > 0, place.top > 0, place.right < width, place.bottom < height])
    near: NDArray[np.bool_] = np.abs(answer.boxes - np.array(place)) <= 2
    return (near & inner).any(axis=1)


def _one_detections(found: list[Detections], cut: NDArray[np.bool_], iou: float) -> Detections:
    boxes, scores, labels = (
        np.concatenate([getattr(answer, name) for answer in found]) for name in ("boxes", "scores", "labels")
    )
    kept = nms(boxes, scores, labels, iou, cut)
    one = replace(found[0], boxes=boxes[kept], scores=scores[kept], labels=labels[kept], masks=None, corners=None)
    masks = [mask for answer in found for mask in answer.masks or ()]
    if found[0].masks is None:
        return one
    corners = np.concatenate([answer.corners for answer in found if answer.corners is not None])
    return replace(one, masks=tuple(masks[place] for place in kept.tolist()), corners=corners[kept])


def _one_segmentation(size: tuple[int, int], answers: Iterable[tuple[Tile, Segmentation]]) -> Segmentation:
    mask, best = np.zeros(size, np.uint8), np.full(size, -1, np.float32)
    one: Segmentation | None = None
    for place, answer in answers:
        one = one or answer
        part = (slice(place.top, place.bottom), slice(place.left, place.right))
        strength = _depth(answer.size) if one.confidence is None else answer.confidence
        if strength is None:
            raise ValueError("the first tile's prediction has confidences, another's has none.")
        better = strength > best[part]
        mask[part][better] = answer.mask[better]
        best[part][better] = strength[better]
    if one is None:
        raise ValueError("there are no tiles.")
    return Segmentation(one.classes, mask, None if one.confidence is None else best, one.path)


def _depth(size: tuple[int, int]) -> NDArray[np.float32]:
    """(height, width) how far each pixel is from the nearest edge, as a share of the side."""
    rows, columns = (np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) / n for n in size)
    return np.minimum(rows[:, None], columns).astype(np.float32)
