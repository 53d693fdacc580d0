"""From a detector's raw outputs to boxes, in numpy: training's validation, prediction and every engine share it.

The numbers are torchvision's: how many candidates each level gives, how boxes are coded, what is cut off and what
is left out as a repetition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtoken.engines import Engine, outputs_of
from dualtoken.errors import ConfigError, ModelError, unknown_name
from dualtoken.postprocess import Floats, nms, require_finite, sigmoid, softmax
from dualtoken.registry import Registry


@dataclass(frozen=True)
class HeadKind:
    """How the outputs of a detection head are read.

    Attributes:
        dense: every position predicts by itself, without a second stage.
        masks: objects have masks.
        octaves: sizes of anchors on each map; 0 where a position has one point in place of anchors, as in FCOS.
    """

    dense: bool = False
    masks: bool = False
    octaves: int = 1


HEADS: Registry[HeadKind] = Registry("head")  # `heads.register_detector` adds to it
HEADS["retinanet"] = HeadKind(dense=True, octaves=3)
HEADS["fcos"] = HeadKind(dense=True, octaves=0)
HEADS["faster_rcnn"] = HeadKind()
HEADS["mask_rcnn"] = HeadKind(masks=True)

Found = dict[str, NDArray[Any]]
Weights = tuple[float, float, float, float]

MAX_DETECTIONS = 100  # of an image, as COCO counts them
_PROPOSAL_IOU = 0.7
_SMALLEST_PROPOSAL, _SMALLEST_BOX = 1e-3, 1e-2  # pixels of a side
_PLAIN: Weights = (1.0, 1.0, 1.0, 1.0)
_SECOND_STAGE: Weights = (10.0, 10.0, 5.0, 5.0)
_MOST_GROWTH = math.log(1000 / 16)  # of a side from its anchor, as a logarithm


@dataclass(frozen=True)
class DetectorSpec:
    """Everything that must be known of a detector to read its outputs. The defaults of `head_args` stand here.

    Attributes:
        head: a key of `HEADS`.
        classes: number of classes, the background not counted.
        strides: of the backbone's maps that the pyramid stands on.
        channels: of the pyramid's maps and the head, a multiple of 32 from 64 up; the paper's detectors have 256.
        anchor_scale: side of the smallest anchor on each map, in strides; 4 is COCO's 32 pixels at stride 8. Smaller
            for smaller objects; FCOS has none.
        score_threshold: answers at or below it are not given.
        iou_threshold: of two boxes of one class that overlap more, the surer stays.
        max_detections: answers for one image.
        candidates: of each level, and proposals of each image, go on to the suppression of repetitions.

    Raises:
        ConfigError: an unknown head or impossible value.
    """

    head: str
    classes: int
    strides: tuple[int, ...] = (8, 16, 32)
    channels: int = 128
    anchor_scale: float = 4.0
    score_threshold: float = 0.02
    iou_threshold: float = 0.5
    max_detections: int = MAX_DETECTIONS
    candidates: int = 1000

    def __post_init__(self) -> None:
        HEADS.find(self.head)
        for name, (right, expected) in _EXPECTED.items():
            value = getattr(self, name)
            try:
                good = right(value)
            except (TypeError, IndexError):  # a word, no number, or one where several belong
                good = False
            if not good:
                raise ConfigError(f"{name} is {value!r}, expected {expected}.", "It is set by head_args.")
        object.__setattr__(self, "strides", tuple(self.strides))

    @classmethod
    def of(cls, head: str, classes: int, head_args: Mapping[str, Any]) -> DetectorSpec:
        """The spec of a trained model: its head, number of classes and arguments of the head.

        Raises:
            ConfigError: an unknown name or impossible value.
        """
        for key in head_args:
            if key not in HEAD_ARGS:
                raise ConfigError(unknown_name("head argument", key, HEAD_ARGS), "They are set by head_args.")
        return cls(head, classes, **head_args)

    @property
    def dense(self) -> bool:
        """Whether every position answers by itself, without a second stage."""
        return HEADS[self.head].dense

    @property
    def masks(self) -> bool:
        """Whether objects have masks."""
        return HEADS[self.head].masks

    @property
    def levels(self) -> tuple[int, ...]:
        """The strides of all levels of the pyramid: the backbone's, and the coarser ones that follow."""
        last = self.strides[-1]
        return (*self.strides, 2 * last, *((4 * last,) if self.dense else ()))

    @property
    def anchor_sizes(self) -> tuple[tuple[float, ...], ...]:
        """For each level the sides of its square anchors, in pixels."""
        octaves = HEADS[self.head].octaves
        if not octaves:
            return tuple((stride,) for stride in self.levels)
        return tuple(tuple(self.anchor_scale * stride * 2 ** (i / 3) for i in range(octaves)) for stride in self.levels)

    @property
    def anchor_ratios(self) -> tuple[float, ...]:
        """Height over width of the anchors of each size."""
        return (0.5, 1.0, 2.0) if HEADS[self.head].octaves else (1.0,)


def _whole(number: Any) -> bool:
    """Not 100.0 either, which could not count places."""
    return isinstance(number, int)


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "strides": (lambda those: those[0] > 0 and list(those) == sorted(set(those)), "pixels, the smallest first"),
    "channels": (lambda number: _whole(number) and number >= 64 and number % 32 == 0, "a multiple of 32 from 64 up"),
    "anchor_scale": (lambda number: number > 0, "a number above 0"),
    "score_threshold": (lambda share: 0 <= share <= 1, "a number from 0 to 1"),
    "iou_threshold": (lambda share: 0 <= share <= 1, "a number from 0 to 1"),
    "max_detections": (lambda number: _whole(number) and number >= 1, "a whole number from 1 up"),
    "candidates": (lambda number: _whole(number) and number >= 1, "a whole number from 1 up"),
}

HEAD_ARGS = tuple(field.name for field in fields(DetectorSpec))[2:]


def most_objects(number: int) -> dict[str, int]:
    """The `head_args` under which up to so many objects of an image are found: ten candidates for each, as usual."""
    return {"max_detections": number, "candidates": max(DetectorSpec.candidates, 10 * number)}


def detect(spec: DetectorSpec, engine: Engine, images: NDArray[np.float32]) -> list[Found]:
    """The objects in each image of a batch, as torchvision's detectors find them.

    Args:
        spec: of the detector.
        engine: computes its parts.
        images: (B, 3, H, W) float32, normalised; sides are multiples of the coarsest of `spec.strides`.

    Returns:
        For each image `boxes` (n, 4) float32 in the input's pixels, `scores` (n,) float32, best first, `labels`
        (n,) int64 from 0, and for Mask R-CNN `masks` (n, 28, 28) float32 from 0 to 1, within the boxes.

    Raises:
        ModelError: the network gives something that is no number, or not as much as `spec` says.
    """
    size = (int(images.shape[2]), int(images.shape[3]))
    anchors = _anchors(spec.levels, spec.anchor_sizes, spec.anchor_ratios, size)
    number = 2 + (spec.head == "fcos" or not spec.dense)
    scores, deltas, *rest = outputs_of(engine, "network", [images], number, more=not spec.dense)
    require_finite(scores, deltas)
    expected = sum(map(len, anchors))
    if scores.shape[1] != expected:
        raise ModelError(
            f"The network gives {scores.shape[1]} positions for an input of {size[0]} x {size[1]} pixels,"
            f" expected {expected}.",
            f"Its sides must be multiples of {spec.strides[-1]}, and the model's own config must lie beside it.",
        )
    if spec.dense:
        centerness = rest[0] if spec.head == "fcos" else [None] * len(scores)
        return [_dense(spec, *raw, anchors, size) for raw in zip(scores, deltas, centerness, strict=True)]
    proposals = [_proposals(spec, *raw, anchors, size) for raw in zip(scores, deltas, strict=True)]
    return _second_stage(spec, engine, rest, proposals, size)


# ---------------------------------------------------------------- anchors


@lru_cache(maxsize=16)
def _anchors(
    strides: Sequence[int], sizes: Sequence[Sequence[float]], ratios: Sequence[float], image: tuple[int, int]
) -> list[Floats]:
    """For each level (positions, 4): row by row, column by column, the anchors around each position."""
    height, width = image
    result = []
    for stride, own in zip(strides, sizes, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        lines, places = np.arange(rows) * (height // rows), np.arange(columns) * (width // columns)
        y, x = (grid.ravel() for grid in np.meshgrid(lines, places, indexing="ij"))
        centres = np.stack([x, y, x, y], axis=1).astype(np.float32)
        result.append((centres[:, None] + _around_zero(own, ratios)).reshape(-1, 4))
    return result


def _around_zero(sizes: Sequence[float], ratios: Sequence[float]) -> Floats:
    """(ratios x sizes, 4), in whole pixels."""
    sides = np.array(sizes, np.float32)
    growth = np.sqrt(np.array(ratios, np.float32))[:, None]
    widths, heights = (1 / growth * sides).ravel(), (growth * sides).ravel()
    return np.round(np.stack([-widths, -heights, widths, heights], axis=1) / 2)


# ---------------------------------------------------------------- one stage


class _Best(NamedTuple):
    """Candidates of one level, the most confident first: scores (n,), and the position and class of each."""

    scores: Floats
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]


def _dense(
    spec: DetectorSpec,
    logits: Floats,
    deltas: Floats,
    centerness: Floats | None,
    anchors: list[Floats],
    size: tuple[int, int],
) -> Found:
    """The objects of one image from the answers (N, K), (N, 4) and for FCOS (N, 1) of every position."""
    boxes, scores, labels = [], [], []
    for part, own in _by_level(anchors):
        best = _best(spec, logits[part], None if centerness is None else centerness[part])
        chosen, around = deltas[part][best.positions], own[best.positions]
        found = _decoded(chosen, around, _PLAIN) if centerness is None else _decoded_distances(chosen, around)
        boxes.append(_clipped(found, size))
        scores.append(best.scores)
        labels.append(best.labels)
    return _without_repetitions(spec, np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels))


def _by_level(anchors: list[Floats]) -> list[tuple[slice, Floats]]:
    """The places of each level among all positions, and its anchors."""
    ends = np.cumsum([len(own) for own in anchors]).tolist()
    return [(slice(end - len(own), end), own) for end, own in zip(ends, anchors, strict=True)]


def _best(spec: DetectorSpec, logits: Floats, centerness: Floats | None) -> _Best:
    """The most confident predictions of a level above the threshold, from (N, K) and for FCOS (N, 1)."""
    flat, threshold = logits.reshape(-1), spec.score_threshold
    # A cheap look at the logits leaves few; FCOS' score is the root of a product whose other factor is at most 1.
    least = threshold if centerness is None else threshold**2
    places = np.flatnonzero(flat > _logit(least) - 1e-3)
    scores = sigmoid(flat[places])
    if centerness is not None:
        scores = np.sqrt(scores * sigmoid(centerness.reshape(-1)[places // logits.shape[1]]))
    above = np.flatnonzero(scores > threshold)
    chosen = above[_largest(scores[above], spec.candidates)]
    positions, labels = np.divmod(places[chosen], logits.shape[1])
    return _Best(scores[chosen], positions, labels)


def _largest(values: Floats, number: int) -> NDArray[np.int64]:
    """Places of the `number` largest values, the largest first."""
    if len(values) <= number:
        return np.argsort(-values, kind="stable")
    limit = np.partition(values, -number)[-number]
    chosen = np.flatnonzero(values >= limit)  # a few more where several are equal
    return chosen[np.argsort(-values[chosen], kind="stable")][:number]


def _logit(probability: float) -> float:
    """The inverse of `sigmoid`."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


# ---------------------------------------------------------------- two stages


def _proposals(
    spec: DetectorSpec, objectness: Floats, deltas: Floats, anchors: list[Floats], size: tuple[int, int]
) -> Floats:
    """Where a closer look pays in one image, (n, 4), from (N,) and (N, 4)."""
    boxes, scores, levels = [], [], []
    for level, (part, own) in enumerate(_by_level(anchors)):
        chosen = _largest(objectness[part], spec.candidates)
        boxes.append(_clipped(_decoded(deltas[part][chosen], own[chosen], _PLAIN), size))
        scores.append(sigmoid(objectness[part][chosen]))
        levels.append(np.full(len(chosen), level, np.int64))
    found = np.concatenate(boxes)
    large = np.flatnonzero(_sides(found).min(axis=1) >= _SMALLEST_PROPOSAL)
    found, likely, of = found[large], np.concatenate(scores)[large], np.concatenate(levels)[large]
    return found[nms(found, likely, of, _PROPOSAL_IOU, most=spec.candidates)]


def _second_stage(
    spec: DetectorSpec,
    engine: Engine,
    maps: Sequence[NDArray[Any]],
    proposals: list[Floats],
    size: tuple[int, int],
) -> list[Found]:
    """A closer look at the proposals of each image: class, a better box and, if wanted, a mask."""
    if not sum(map(len, proposals)):
        return [_nothing(spec) for _ in proposals]
    logits, deltas = outputs_of(engine, "boxes", [*maps, _regions(proposals)], 2)
    require_finite(logits, deltas)
    found = [
        _refined(spec, softmax(logits[part]), deltas[part], own, size) for part, own in _by_level(proposals)
    ]  # fmt: skip
    return _with_masks(engine, maps, found) if spec.masks else found


def _refined(spec: DetectorSpec, scores: Floats, deltas: Floats, around: Floats, size: tuple[int, int]) -> Found:
    """The objects of one image from the answers (n, K + 1) and (n, 4 (K + 1)) for its proposals (n, 4)."""
    places, labels = np.nonzero(scores[:, 1:] > spec.score_threshold)
    chosen = deltas.reshape(len(scores), -1, 4)[places, labels + 1]
    boxes = _clipped(_decoded(chosen, around[places], _SECOND_STAGE), size)
    large = np.flatnonzero(_sides(boxes).min(axis=1) >= _SMALLEST_BOX)
    return _without_repetitions(spec, boxes[large], scores[places, labels + 1][large], labels[large])


def _with_masks(engine: Engine, maps: Sequence[NDArray[Any]], found: list[Found]) -> list[Found]:
    boxes, labels = [one["boxes"] for one in found], np.concatenate([one["labels"] for one in found])
    masks = np.empty((0, 28, 28), np.float32)
    if len(labels):
        (masks,) = outputs_of(engine, "masks", [*maps, _regions(boxes), labels + 1], 1)
        require_finite(masks)
    return [one | {"masks": masks[part]} for one, (part, _) in zip(found, _by_level(boxes), strict=True)]


def _regions(boxes: list[Floats]) -> Floats:
    """Boxes (n, 4) of each image to (R, 5): the image's number, then the box."""
    numbers = np.repeat(np.arange(len(boxes), dtype=np.float32), [len(own) for own in boxes])
    return np.concatenate([numbers[:, None], np.concatenate(boxes)], axis=1)


def _nothing(spec: DetectorSpec) -> Found:
    nothing: Found = {
        "boxes": np.empty((0, 4), np.float32),
        "scores": np.empty(0, np.float32),
        "labels": np.empty(0, np.int64),
    }
    return nothing | ({"masks": np.empty((0, 28, 28), np.float32)} if spec.masks else {})


# ---------------------------------------------------------------- boxes


def _decoded(deltas: Floats, around: Floats, weights: Weights) -> Floats:
    """Boxes (n, 4) from shifts and growths (n, 4) of other boxes (n, 4)."""
    sides = _sides(around)
    middles = around[:, :2] + np.float32(0.5) * sides
    coded = deltas / np.array(weights, np.float32)
    half = np.float32(0.5) * np.exp(np.minimum(coded[:, 2:], np.float32(_MOST_GROWTH))) * sides
    middles = coded[:, :2] * sides + middles
    return np.concatenate([middles - half, middles + half], axis=1)


def _decoded_distances(deltas: Floats, around: Floats) -> Floats:
    """Boxes (n, 4) from the distances of their four sides from the middle of others, in sides of those."""
    middles = np.float32(0.5) * (around[:, :2] + around[:, 2:])
    scaled = deltas * np.tile(_sides(around), 2)
    return np.concatenate([middles - scaled[:, :2], middles + scaled[:, 2:]], axis=1)


def _sides(boxes: Floats) -> Floats:
    """(n, 2) width and height."""
    return boxes[:, 2:] - boxes[:, :2]


def _clipped(boxes: Floats, size: tuple[int, int]) -> Floats:
    height, width = size
    return boxes.clip(0, np.array([width, height, width, height], np.float32))


def _without_repetitions(spec: DetectorSpec, boxes: Floats, scores: Floats, labels: NDArray[np.int64]) -> Found:
    kept = nms(boxes, scores, labels, spec.iou_threshold, most=spec.max_detections)
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
