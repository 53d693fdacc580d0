"""Which answers found which objects, and the average precision that follows: COCO's rules, in numpy.

An image becomes a few rows of numbers (`match`), and nothing else of it is kept. `Ranking` sorts all rows once; the
average precision of any weighting of the images, as the bootstrap asks for, is then a handful of array operations.
Objects and answers may have areas out of the range that is measured: they are then ignored, as crowds always are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualtoken.data import Objects
from dualtoken.outputs import Detections

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the overlap (IoU) from which on an object counts as found
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}

# A field per area range has the order of AREAS; bit t of `matched` and `skipped` belongs to THRESHOLDS[t].
ANSWERS = np.dtype(
    [
        ("image", np.int32),
        ("label", np.int32),
        ("score", np.float32),
        ("matched", np.uint16, (len(AREAS),)),  # found an object
        ("skipped", np.uint16, (len(AREAS),)),  # found an ignored one: neither right nor wrong
        ("inside", np.uint8),  # bit a: its own area lies in range a, so that it counts where it found nothing
        ("object", np.int32),  # number of the object found at the lowest threshold, any area; -1 for none
    ]
)
TRUTHS = np.dtype([("image", np.int32), ("label", np.int32), ("inside", np.uint8)])  # bit a: counts in range a

Floats = NDArray[np.float64]
Rows = NDArray[np.void]


class Crop(NamedTuple):
    """The part of an image where an object lies: `mask` (rows, columns) bool, its corner, its pixels that are set."""

    mask: NDArray[np.bool_]
    left: int
    top: int
    area: int


def truth_rows(objects: Objects, image: int) -> Rows:
    """(g,) `TRUTHS`; a crowd counts in no range."""
    rows = np.zeros(len(objects.labels), TRUTHS)
    rows["image"], rows["label"] = image, objects.labels
    rows["inside"] = np.where(objects.crowd, 0, _ranges(objects.areas))
    return rows


def match(
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    areas: Floats,
    objects: Objects,
    overlaps: Floats,
    image: int,
) -> Rows:
    """(n,) `ANSWERS` of one image.

    The highest score chooses first: the object of its class that it overlaps most and nobody has. An ignored object
    is chosen only where no other overlaps enough; a crowd may be chosen again and again.

    Args:
        labels, scores, areas: (n,) of the answers, the most confident first, as `most_confident` leaves them.
        objects: of the image.
        overlaps: (n, g) of answers and objects.
        image: number that the rows carry.
    """
    rows = np.zeros(len(labels), ANSWERS)
    rows["image"], rows["label"], rows["score"], rows["object"] = image, labels, scores, -1
    rows["inside"] = _ranges(areas)
    truths = truth_rows(objects, image)
    near = (overlaps >= THRESHOLDS[0]) & (labels[:, None] == objects.labels)
    choices = _choices(near, overlaps)
    if not choices:
        return rows
    crowd = objects.crowd.tolist()
    for area in range(len(AREAS)):
        counts = (truths["inside"] >> area & 1).tolist()
        for place, matched, skipped, first in _greedy(choices, counts, crowd):
            rows["matched"][place, area], rows["skipped"][place, area] = matched, skipped
            if area == 0:
                rows["object"][place] = first
    return rows


def _ranges(areas: NDArray[Any]) -> NDArray[np.uint8]:
    """(n,) bit a: the area lies in range a, ends included."""
    bits = np.zeros(len(areas), np.uint8)
    for place, (low, high) in enumerate(AREAS.values()):
        bits |= ((areas >= low) & (areas <= high)).astype(np.uint8) << np.uint8(place)
    return bits


def _choices(near: NDArray[np.bool_], overlaps: Floats) -> list[tuple[int, list[tuple[int, int]]]]:
    """For each answer that has a choice: its place, and the objects with the bits of the thresholds they pass.

    Objects come in the order of preference: most overlap first, the later one among equals.
    """
    places, objects = np.nonzero(near)
    values = overlaps[places, objects]
    order = np.lexsort((-objects, -values, places))
    bits = (1 << np.searchsorted(THRESHOLDS, values, side="right")) - 1
    found: list[tuple[int, list[tuple[int, int]]]] = []
    for place, number, passed in zip(
        places[order].tolist(), objects[order].tolist(), bits[order].tolist(), strict=True
    ):
        if not found or found[-1][0] != place:
            found.append((place, []))
        found[-1][1].append((number, passed))
    return found


def _greedy(
    choices: list[tuple[int, list[tuple[int, int]]]], counts: list[int], crowd: list[bool]
) -> list[tuple[int, int, int, int]]:
    """(place, matched, skipped, object): bits of the thresholds at which each answer found something.

    All thresholds are settled at once: a bit is a threshold, an object has a bit for each at which it is taken.
    """
    taken = [0] * len(counts)
    settled = []
    for place, found in choices:
        matched = skipped = 0
        first = -1
        for number, passed in found:
            if counts[number]:
                own = passed & ~taken[number] & ~matched
                taken[number] |= own
                matched |= own
                first = number if own & 1 else first
        for number, passed in found:
            if not counts[number]:
                own = passed & ~(matched | skipped) & (-1 if crowd[number] else ~taken[number])
                taken[number] |= own
                skipped |= own
        settled.append((place, matched, skipped, first))
    return settled


def most_confident(labels: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Places of the first `most` answers of each class, in their order."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < most])


def box_areas(boxes: NDArray[np.float32]) -> Floats:
    """(n,) areas of the boxes (n, 4), square pixels."""
    wide = boxes.astype(np.float64)
    return (wide[:, 2] - wide[:, 0]) * (wide[:, 3] - wide[:, 1])


def box_overlaps(boxes: NDArray[np.float32], objects: Objects) -> Floats:
    """(n, g) intersection over union of boxes (n, 4) and objects; over the answer's own area where it is a crowd."""
    shared = _shared_areas(boxes.astype(np.float64), objects.boxes.astype(np.float64))
    return _over_union(shared, box_areas(boxes), box_areas(objects.boxes), objects.crowd)


def mask_overlaps(answers: Sequence[Crop], truths: Sequence[Crop], crowd: NDArray[np.bool_]) -> Floats:
    """(n, g), as `box_overlaps`, of masks. Pairs that cannot reach the lowest threshold are 0."""
    first, second = _areas(answers), _areas(truths)
    shared = _shared_areas(_rectangles(answers), _rectangles(truths))
    most = np.minimum(shared, np.minimum(first[:, None], second))
    near = _over_union(most, first, second, crowd) >= THRESHOLDS[0]
    shared = np.zeros(near.shape)
    for i, j in zip(*(places.tolist() for places in np.nonzero(near)), strict=True):
        shared[i, j] = _shared_pixels(answers[i], truths[j])
    return _over_union(shared, first, second, crowd)


def answer_crops(answers: Detections) -> list[Crop]:
    """The masks of the answers.

    Raises:
        ValueError: there are answers, and they have no masks.
    """
    if not len(answers):
        return []
    if answers.masks is None or answers.corners is None:
        raise ValueError("masks are to be measured, but the detections have boxes only.")
    return [
        Crop(mask, left, top, int(np.count_nonzero(mask)))
        for mask, (left, top) in zip(answers.masks, answers.corners.tolist(), strict=True)
    ]


def object_crops(objects: Objects) -> list[Crop]:
    """The masks of the objects, rasterised one after the other: many whole masks of a big image would fill memory."""
    return [_crop(_alone(objects, number).masks()[0]) for number in range(len(objects.labels))]


def _alone(objects: Objects, number: int) -> Objects:
    """Object `number`, in an image that ends behind its outline: less to rasterise, and the same pixels."""
    part, rings = slice(number, number + 1), objects.outlines[number]
    height, width = objects.size
    if rings and not objects.runs[number]:
        right, bottom = (int(max(ring[:, axis].max() for ring in rings)) + 3 for axis in (0, 1))
        height, width = min(height, max(bottom, 1)), min(width, max(right, 1))
    return Objects(
        (height, width), objects.boxes[part], objects.labels[part], objects.crowd[part], objects.areas[part],
        objects.outlines[part], objects.runs[part],
    )  # fmt: skip


def _crop(mask: NDArray[np.bool_]) -> Crop:
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return Crop(mask[:0, :0], 0, 0, 0)
    band = mask[rows[0] : rows[-1] + 1]
    columns = np.flatnonzero(band.any(axis=0))
    part = np.ascontiguousarray(band[:, columns[0] : columns[-1] + 1])
    return Crop(part, int(columns[0]), int(rows[0]), int(np.count_nonzero(part)))


def _areas(crops: Sequence[Crop]) -> Floats:
    return np.array([crop.area for crop in crops], np.float64)


def _rectangles(crops: Sequence[Crop]) -> Floats:
    edges = [(c.left, c.top, c.left + c.mask.shape[1], c.top + c.mask.shape[0]) for c in crops]
    return np.array(edges, np.float64).reshape(-1, 4)


def _shared_areas(first: Floats, second: Floats) -> Floats:
    """(n, g) areas where boxes (n, 4) and (g, 4) lie over each other."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    return np.maximum(high - low, 0).prod(axis=2)


def _shared_pixels(a: Crop, b: Crop) -> int:
    left, top = max(a.left, b.left), max(a.top, b.top)
    right = min(a.left + a.mask.shape[1], b.left + b.mask.shape[1])
    bottom = min(a.top + a.mask.shape[0], b.top + b.mask.shape[0])
    first = a.mask[top - a.top : bottom - a.top, left - a.left : right - a.left]
    second = b.mask[top - b.top : bottom - b.top, left - b.left : right - b.left]
    return int(np.count_nonzero(first & second))


def _over_union(shared: Floats, first: Floats, second: Floats, crowd: NDArray[np.bool_]) -> Floats:
    union = np.where(crowd, first[:, None], first[:, None] + second - shared)
    return np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)


@dataclass(frozen=True)
class _Steps:
    """Where the objects were found: S steps, sorted by group and then by score.

    Attributes:
        group: (S,) area, threshold and class as one number.
        precision: (S,) the best precision from here on.
        recalls: (S,) how many of `RECALLS` this step reaches first.
        positives: (areas, K) objects to be found, weighted.
    """

    group: NDArray[np.int64]
    precision: Floats
    recalls: NDArray[np.int64]
    positives: Floats


class Ranking:
    """All answers, sorted once, for the average precision of any weighting of the images.

    Args:
        answers: (n,) `ANSWERS`; among equal scores the earlier row comes first.
        truths: (g,) `TRUTHS`.
        classes: K, the number of classes.
        areas: names of the `AREAS` to measure.
    """

    def __init__(self, answers: Rows, truths: Rows, classes: int, areas: Sequence[str] = tuple(AREAS)) -> None:
        ranges = [list(AREAS).index(area) for area in areas]
        answers = answers[np.lexsort((-answers["score"], answers["label"]))]
        self.shape = (len(ranges), len(THRESHOLDS), classes)
        self._rank_truths(truths, ranges)
        self._rank_counted(answers, ranges)
        self._rank_events(answers, ranges)

    def _rank_truths(self, truths: Rows, ranges: list[int]) -> None:
        parts = [truths[(truths["inside"] >> area & 1) > 0] for area in ranges]
        self._truth_image = np.concatenate([part["image"] for part in parts])
        keys = [place * self.shape[2] + part["label"] for place, part in enumerate(parts)]
        self._truth_key = np.concatenate(keys).astype(np.int64)

    def _rank_counted(self, answers: Rows, ranges: list[int]) -> None:
        """Answers that count where they found nothing: those of all areas, one after the other."""
        inside = [(answers["inside"] >> area & 1) > 0 for area in ranges]
        self._counted_image = np.concatenate([answers["image"][part] for part in inside])
        before = np.concatenate([[0], np.cumsum([part.sum() for part in inside])])
        # For each area and sorted answer, how many counted ones lie before it and up to it.
        self._before = [
            start + np.concatenate([[0], np.cumsum(part)]) for start, part in zip(before, inside, strict=False)
        ]

    def _rank_events(self, answers: Rows, ranges: list[int]) -> None:
        """Answers that found something, by area, threshold and class: only there can recall grow.

        Between them lie answers that found nothing; `_counted_image` tells how many.
        """
        areas, thresholds, classes = self.shape
        first_of_class = np.searchsorted(answers["label"], np.arange(classes))
        columns: list[list[NDArray[Any]]] = [[], [], [], [], [], []]
        for place, area in enumerate(ranges):
            touched = np.flatnonzero(answers["matched"][:, area] | answers["skipped"][:, area])
            matched, skipped = answers["matched"][touched, area], answers["skipped"][touched, area]
            inside = answers["inside"][touched] >> area & 1 > 0
            for threshold in range(thresholds):
                hit, skip = matched >> threshold & 1 > 0, skipped >> threshold & 1 > 0
                change = (hit & ~inside).astype(np.int8) - (skip & inside)  # against being counted as inside
                kept = np.flatnonzero(hit | (change != 0))
                rows = touched[kept]
                labels = answers["label"][rows]
                parts = (
                    answers["image"][rows],
                    (place * thresholds + threshold) * classes + labels.astype(np.int64),
                    hit[kept],
                    change[kept],
                    self._before[place][rows + 1],
                    self._before[place][first_of_class[labels]],
                )
                for column, part in zip(columns, parts, strict=True):
                    column.append(part)
        image, group, hit, change, self._upto, self._from = (np.concatenate(column) for column in columns)
        self._event_image, self._event_hit = image, hit.astype(np.float64)
        self._event_change = change.astype(np.float64) if change.any() else None
        self._hits = np.flatnonzero(hit)
        self._group = group[self._hits]
        self._first_event = np.searchsorted(group, self._group)
        self._upto, self._from = self._upto[self._hits], self._from[self._hits]
        self._new_group = np.diff(self._group, prepend=-1) > 0
        # Added to a precision of at most 1 it keeps groups apart in one running maximum from the end.
        self._apart = 2.0 * (areas * thresholds * classes - 1 - self._group)

    def average_precision(self, weights: NDArray[np.int64] | None = None) -> Floats:
        """(areas, thresholds, K) average precision, NaN for classes without objects.

        Args:
            weights: (images,) how often each image counts, whole numbers; once if not given.
        """
        steps = self._steps(weights)
        sums = np.bincount(steps.group, steps.recalls * steps.precision, int(np.prod(self.shape)))
        missing = np.broadcast_to(steps.positives[:, None, :] == 0, self.shape)
        return np.where(missing, np.nan, sums.reshape(self.shape) / len(RECALLS))

    def curves(self) -> NDArray[np.float32]:
        """(K, 101) precision at `RECALLS`, of the first area and the lowest threshold; NaN rows as above."""
        steps = self._steps(None)
        curves = np.zeros((self.shape[2], len(RECALLS)), np.float32)
        own = steps.group < self.shape[2]
        for label in range(self.shape[2]):
            part = own & (steps.group == label)
            values = np.repeat(steps.precision[part], steps.recalls[part])
            curves[label, : len(values)] = values
        curves[steps.positives[0] == 0] = np.nan
        return curves

    def _steps(self, weights: NDArray[np.int64] | None) -> _Steps:
        once = np.ones(1 + max(self._counted_image.max(initial=0), self._truth_image.max(initial=0)))
        weight = once if weights is None else weights.astype(np.float64)
        areas, thresholds, classes = self.shape
        positives = np.bincount(self._truth_key, weight[self._truth_image], areas * classes)
        found, shown = self._sums(weight)
        key = self._group // (thresholds * classes) * classes + self._group % classes
        recall = found / np.maximum(positives[key], 1)
        precision = found / np.maximum(shown, 1)
        reached = np.searchsorted(RECALLS, recall, side="right")
        recalls = reached - np.where(self._new_group, 0, np.concatenate([[0], reached[:-1]]))
        best = np.maximum.accumulate((precision + self._apart)[::-1])[::-1] - self._apart
        return _Steps(self._group, best, recalls, positives.reshape(areas, classes).astype(np.float64))

    def _sums(self, weight: Floats) -> tuple[Floats, Floats]:
        """At each hit, from the highest score of its class on: objects found, and answers given; both (S,)."""
        events = weight[self._event_image]
        counted = _running(weight[self._counted_image])
        hits = _running(events * self._event_hit)
        found = hits[self._hits + 1] - hits[self._first_event]
        shown = counted[self._upto] - counted[self._from]
        if self._event_change is not None:
            changes = _running(events * self._event_change)
            shown += changes[self._hits + 1] - changes[self._first_event]
        return found, shown


def _running(values: Floats) -> Floats:
    """(n + 1,) sums of the first 0, 1, ... n values."""
    return np.concatenate([[0.0], np.cumsum(values)])
