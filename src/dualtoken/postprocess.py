"""From raw outputs to answers, in numpy: evaluation, prediction and every other engine share these bits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import ConfigError, ModelError
from dualtoken.preprocess import Placement

Floats = NDArray[np.float32]

_NMS_BLOCK = 200  # boxes that are compared with each other at a time
_BLOCK = 8_000_000  # numbers that one block of an image's rows may take


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """Probabilities of logits (K,) or (N, K), along the last axis: softmax(logits / temperature).

    Computed in float64 and from the largest logit down, so that nothing overflows.

    Raises:
        ConfigError: the temperature is not a finite number above 0.
    """
    _check_temperature(temperature)
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def sigmoid(logits: NDArray[np.floating]) -> Floats:
    """Probabilities of logits of any shape, each by itself. Computed in float64, so that nothing overflows."""
    exact = np.asarray(logits, np.float64)
    return (1 / (1 + np.exp(-exact.clip(-700)))).astype(np.float32)


def require_finite(*outputs: NDArray[Any]) -> None:
    """Refuse raw outputs that are not all numbers.

    Raises:
        ModelError: one of them is infinite or NaN.
    """
    if not all(np.isfinite(output).all() for output in outputs):
        raise ModelError(
            "The network gives outputs that are not numbers.",
            "Its training has probably diverged: train again with a lower learning rate (--lr).",
        )


def regions(
    logits: Floats, placement: Placement, size: tuple[int, int], temperature: float = 1.0
) -> tuple[NDArray[np.uint8], Floats]:
    """The class of every pixel of an image, from the logits of the network's input that it was placed in.

    The image's part is cut out, each class resized bilinearly to the image, and the largest wins; pixels that the
    input did not hold (a central crop) take the nearest that it held. Worked out in blocks of rows: memory is that
    of the result, however many classes there are.

    Args:
        logits: (K, height, width) of the input, K at most 255.
        placement: where the image lies in the input.
        size: (height, width) of the image.
        temperature: the logits are divided by it.

    Returns:
        The class (height, width) uint8, and its probability, float32 in [0, 1].

    Raises:
        ConfigError: the temperature is not a finite number above 0.
    """
    _check_temperature(temperature)
    height, width = size
    (placed_height, placed_width), _, left, top = placement
    columns = _samples(np.arange(width), placed_width / width, left, placed_width, logits.shape[2])
    mask, confidence = np.empty(size, np.uint8), np.empty(size, np.float32)
    step = max(1, _BLOCK // (len(logits) * width))
    for start in range(0, height, step):
        block = slice(start, min(start + step, height))
        lines = np.arange(block.start, block.stop)
        rows = _samples(lines, placed_height / height, top, placed_height, logits.shape[1])
        part = _resampled(logits, rows, columns)  # (K, step, width)
        winner = part.argmax(axis=0)
        largest = np.take_along_axis(part, winner[None], axis=0)
        part -= largest
        part /= np.float32(temperature)
        mask[block] = winner
        confidence[block] = 1 / np.exp(part, out=part).sum(axis=0)
    return mask, confidence


def place_masks(
    soft: Floats, boxes: Floats, size: tuple[int, int], threshold: float = 0.5
) -> tuple[tuple[NDArray[np.bool_], ...], NDArray[np.int64]]:
    """The small masks of a mask head to masks in the image, as torchvision pastes them.

    Each mask is framed by zeros, resized bilinearly to the pixels of its box, and cut off at the image's border.

    Args:
        soft: (n, rows, columns), probabilities, such as 28 x 28.
        boxes: (n, 4) left, top, right, bottom in the image's pixels.
        size: (height, width) of the image.
        threshold: a pixel that is more probable than this belongs to the object.

    Returns:
        For each object the part of its mask in the image, and (n, 2) the left and top pixel of these parts:
        `masks` and `corners` of `Detections`.
    """
    framed = np.pad(np.asarray(soft, np.float32), ((0, 0), (1, 1), (1, 1)))
    corners = np.zeros((len(framed), 2), np.int64)
    masks = []
    for number, (mask, box) in enumerate(zip(framed, _framed_boxes(boxes, soft.shape[1:]), strict=True)):
        left, top, right, bottom = box.tolist()
        rows = _samples_inside(top, bottom, len(mask), size[0])
        columns = _samples_inside(left, right, mask.shape[1], size[1])
        masks.append(_resampled(mask[None], rows, columns)[0] > threshold)
        corners[number] = min(max(left, 0), size[1]), min(max(top, 0), size[0])
    return tuple(masks), corners


def nms(
    boxes: Floats,
    scores: Floats,
    labels: NDArray[np.int64],
    iou: float = 0.5,
    cut: NDArray[np.bool_] | None = None,
    most: int | None = None,
) -> NDArray[np.int64]:
    """Which boxes remain where several are about the same object: of each class the best, none that repeats it.

    Args:
        boxes: (n, 4) left, top, right, bottom.
        scores: (n,).
        labels: (n,), only boxes of one class repeat each other.
        iou: two boxes are about the same object where their intersection over union is larger.
        cut: (n,) boxes that end where a tile ends, and so may be parts of an object. Whole ones go before them, and
            a part also falls where a larger share than `iou` of it lies in a box that remains.
        most: how many may remain; the search stops there.

    Returns:
        The places of those that remain, the most confident first.
    """
    parts = np.zeros(len(scores), np.bool_) if cut is None else cut
    order = np.lexsort((-scores, parts))  # stable: the whole ones, then the parts, each the most confident first
    every = _Boxes.of(np.asarray(boxes, np.float64).reshape(-1, 4), labels, parts)
    places = order[:0]
    for start in range(0, len(order), _NMS_BLOCK):
        waiting = order[start : start + _NMS_BLOCK]
        waiting = waiting[~_repeats(every.at(places), every.at(waiting), iou).any(axis=0)]
        places = np.concatenate([places, waiting[_first_of_their_kind(every.at(waiting), iou)]])
        if most is not None and len(places) >= most:
            places = places[:most]
            break
    return places[np.argsort(-scores[places], kind="stable")]


def _check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature}, expected a finite number above 0.")


class _Boxes(NamedTuple):
    """What decides whether boxes repeat each other: sides (4, n), areas, classes and whether each is a part, (n,)."""

    sides: NDArray[np.float64]
    areas: NDArray[np.float64]
    labels: NDArray[np.int64]
    parts: NDArray[np.bool_]

    @classmethod
    def of(cls, boxes: NDArray[np.float64], labels: NDArray[np.int64], parts: NDArray[np.bool_]) -> _Boxes:
        return cls(boxes.T, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), labels, parts)

    def at(self, places: NDArray[np.int64]) -> _Boxes:
        return _Boxes(self.sides[:, places], self.areas[places], self.labels[places], self.parts[places])


def _repeats(first: _Boxes, second: _Boxes, iou: float) -> NDArray[np.bool_]:
    """(n, m) whether box j of `second` repeats box i of `first`, if that remains."""
    left, top, right, bottom = (side[:, None] for side in first.sides)
    width = np.minimum(right, second.sides[2]) - np.maximum(left, second.sides[0])
    height = np.minimum(bottom, second.sides[3]) - np.maximum(top, second.sides[1])
    shared = width.clip(0) * height.clip(0)
    union = first.areas[:, None] + second.areas - shared
    smallest = np.where(second.parts, second.areas, union) if second.parts.any() else union
    return (shared > iou * smallest) & (first.labels[:, None] == second.labels)


def _first_of_their_kind(boxes: _Boxes, iou: float) -> NDArray[np.bool_]:
    """Which of a few boxes, the most confident first, repeat none before them that remains.

    A guess that all remain is corrected until nothing changes: each round is right for one more of every chain of
    boxes where one strikes out the next, and chains are short.
    """
    repeats = np.triu(_repeats(boxes, boxes, iou), k=1)
    remain = np.ones(len(boxes.areas), np.bool_)
    while True:
        corrected = np.logical_not((repeats & remain[:, None]).any(axis=0))
        if np.array_equal(corrected, remain):
            return remain
        remain = corrected


def _framed_boxes(boxes: Floats, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Boxes that grow with the frame of one mask pixel on each side, in whole pixels as torchvision rounds them."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    rows, columns = shape
    growth = np.array([(columns + 2) / columns, (rows + 2) / rows], np.float32)
    middle = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * growth
    return np.concatenate([middle - half, middle + half], axis=1).astype(np.int64)


class _Samples(NamedTuple):
    """Between which two places of an axis each wanted one lies, and how far along from the first, 0 to 1."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    along: Floats


def _samples(wanted: NDArray[np.int64], scale: float, offset: int, placed: int, length: int) -> _Samples:
    """Places of the input's axis for the pixels `wanted` of the image's.

    `scale` pixels of the input make one of the image, whose first lies at `offset`; only what lies both among the
    `placed` pixels of the image and the `length` of the input is read.
    """
    exact = (wanted + 0.5) * scale - 0.5 + offset
    first, last = max(offset, 0), min(offset + placed, length) - 1
    exact = exact.clip(first, last)
    low = np.floor(exact).astype(np.int64)
    return _Samples(low, np.minimum(low + 1, last), (exact - low).astype(np.float32))


def _samples_inside(start: int, end: int, length: int, limit: int) -> _Samples:
    """For a mask of `length` over the pixels `start` to `end`, both included: those from 0 to before `limit`."""
    pixels = max(end - start + 1, 1)
    wanted = np.arange(max(start, 0), min(start + pixels, limit)) - start
    return _samples(wanted, length / pixels, 0, length, length)


def _resampled(maps: Floats, rows: _Samples, columns: _Samples) -> Floats:
    """Maps (K, h, w) at the places of `rows` and `columns`, bilinearly: (K, len(rows), len(columns))."""
    above, below = maps[:, rows.low], maps[:, rows.high]
    lines = above + (below - above) * rows.along[:, None]
    left, right = lines[:, :, columns.low], lines[:, :, columns.high]
    right -= left
    right *= columns.along
    right += left
    return right
