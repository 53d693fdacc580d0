"""How well objects are found. A metric for boxes is added here: one entry of `METRICS`, and masks have it too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers import matching
from dualtoken.answers.bootstrap import draws, intervals
from dualtoken.answers.class_meter import BINS, bin_of, bins
from dualtoken.answers.matching import AREAS, THRESHOLDS, Floats, Ranking, Rows
from dualtoken.answers.meter import Meter, Weights, measured
from dualtoken.data import Objects
from dualtoken.decode import MAX_DETECTIONS
from dualtoken.outputs import Bin, Detections, Interval, Metric

SIZES = {"small": "below 32 x 32 pixels", "medium": "32 x 32 to 96 x 96 pixels", "large": "above 96 x 96 pixels"}
_DEFAULT_THRESHOLD = 0.5  # where nothing found is right, no score is better than another
_FIFTY, _SEVENTY_FIVE = 0, 5  # places in THRESHOLDS
_PAIRS = np.dtype([("answer", np.int64), ("object", np.int64), ("overlap", np.float32)])


def mean(values: Floats) -> float:
    """Of the values that are numbers; NaN if none is."""
    there = ~np.isnan(values)
    return float(values[there].mean()) if there.any() else float("nan")


def _of_size(place: int) -> Callable[[Floats], float]:
    return lambda precision: mean(precision[place])


# What is measured of objects, by name, in the order of reports; each entry has `of`, from the average precision (areas,
# IoU thresholds, K) of `matching.AREAS` and `matching.THRESHOLDS`, NaN for classes without objects, to a number.
METRICS: dict[str, Metric] = {
    "ap": Metric(
        "AP", True, "average precision, mean over the classes and IoU 0.50, 0.55, ... 0.95",
        lambda precision: mean(precision[0]), exact=True, always=True, hub="mean_average_precision",
    ),
    "ap50": Metric(
        "AP50", True, "average precision, mean over the classes, at IoU 0.5",
        lambda precision: mean(precision[0, _FIFTY]), exact=True, always=True,
    ),
    "ap75": Metric(
        "AP75", True, "average precision, mean over the classes, at IoU 0.75",
        lambda precision: mean(precision[0, _SEVENTY_FIVE]), exact=True, always=True,
    ),
} | {
    f"ap_{size}": Metric(f"AP {size}", True, f"AP of objects {SIZES[size]}", _of_size(place), exact=True)
    for place, size in enumerate(AREAS)
    if size in SIZES
}  # fmt: skip


def metrics_of(masks: bool) -> dict[str, Metric]:
    """`METRICS` of boxes, and where there are masks the same of them, as `mask_...`."""
    table = {name: replace(metric, title=f"Box {metric.title}") for name, metric in METRICS.items()}
    if masks:
        table |= {
            f"mask_{name}": replace(
                metric, title=f"Mask {metric.title}", about=f"of masks: {metric.about}", hub="mask_ap" * (name == "ap")
            )
            for name, metric in METRICS.items()
        }
    return table


@dataclass(frozen=True)
class ObjectScores:
    """How well the objects of one class are found.

    Attributes:
        name: of the class.
        support: its objects, without crowds.
        detections: found objects of this class with a score of the threshold or more.
        ap, ap50: of boxes, over IoU 0.50 to 0.95 and at 0.5; None for a class without objects.
        mask_ap, mask_ap50: of masks; None also where only boxes were measured.
    """

    name: str
    support: int
    detections: int
    ap: Interval | None
    ap50: Interval | None
    mask_ap: Interval | None = None
    mask_ap50: Interval | None = None

    @property
    def main(self) -> Interval | None:
        """AP of the masks where they were measured, else of the boxes."""
        return self.mask_ap or self.ap


@dataclass(frozen=True, eq=False)
class ObjectCounts:
    """One number an image, N images in the order of the split; of boxes, at IoU 0.5 and the threshold.

    Attributes:
        index: (N,) int64, place in the samples of the split.
        f1: (N,) float64, 2 found / (objects + found + false); 1 where there is nothing and nothing was found.
        objects: (N,) int64, objects without crowds.
        found: (N,) int64, objects that were found, with the right class.
        false: (N,) int64, false positives.
    """

    index: NDArray[np.int64]
    f1: NDArray[np.float64]
    objects: NDArray[np.int64]
    found: NDArray[np.int64]
    false: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)


class BoxMeter(Meter):
    """Measures boxes; of each image only a few numbers a detection are kept.

    Args:
        classes: K class names.
        most: detections of a class in an image that count, the most confident ones: COCO's rule is 100.

    Attributes:
        masks: whether masks are measured as well.
    """

    task = "detection"
    masks = False
    resamples = 200  # each ranks all detections anew; the ends of an interval move by about a tenth of its width

    def __init__(self, classes: Sequence[str], most: int = MAX_DETECTIONS) -> None:
        super().__init__(classes)
        self.most = most
        self._truths: list[Rows] = []
        self._boxes: list[Rows] = []
        self._masks: list[Rows] = []
        self._pairs: list[Rows] = []
        self._objects = self._answers = 0

    def add(self, detections: Detections, objects: Objects, index: int) -> None:
        """One image: what was answered, what is there, and its place in the samples of the split.

        Raises:
            ValueError: the answers have other classes or another image size, or no masks where they are measured.
        """
        if detections.classes != self.classes:
            raise ValueError(f"the detections have the classes {detections.classes}, the meter {self.classes}.")
        if detections.size != tuple(objects.size):
            raise ValueError(f"the detections are of an image {detections.size}, the objects of one {objects.size}.")
        image = len(self)
        counted = matching.most_confident(detections.labels, self.most)
        detections = detections if len(counted) == len(detections) else detections.take(counted)
        overlaps = matching.box_overlaps(detections.boxes, objects)
        areas = matching.box_areas(detections.boxes)
        boxes = matching.match(detections.labels, detections.scores, areas, objects, overlaps, image)
        boxes["object"][boxes["object"] >= 0] += self._objects
        self._pairs.append(self._other_classes(detections, objects, overlaps))
        if self.masks:
            self._masks.append(_masks_matched(detections, objects, image))
        self._boxes.append(boxes)
        self._truths.append(matching.truth_rows(objects, image))
        self._indices.append(int(index))
        self._objects += len(objects.labels)
        self._answers += len(detections)

    def join(self, other: Self) -> None:
        """As `Meter.join`: rows carry numbers of images, objects and answers, which go on from its own."""
        for rows in (*other._boxes, *other._masks, *other._truths):
            rows["image"] += len(self)
        for rows in (*other._boxes, *other._pairs):
            rows["object"][rows["object"] >= 0] += self._objects
        for rows in other._pairs:
            rows["answer"] += self._answers
        self._objects, self._answers = self._objects + other._objects, self._answers + other._answers
        super().join(other)

    def _other_classes(self, detections: Detections, objects: Objects, overlaps: Floats) -> Rows:
        """Answers and objects of different classes that lie over each other: candidates for the confusion."""
        differ = (detections.labels[:, None] != objects.labels) & ~objects.crowd
        answers, numbers = np.nonzero(differ & (overlaps >= THRESHOLDS[_FIFTY]))
        pairs = np.zeros(len(answers), _PAIRS)
        pairs["answer"], pairs["object"] = answers + self._answers, numbers + self._objects
        pairs["overlap"] = overlaps[answers, numbers]
        return pairs

    def figures(self) -> dict[str, float]:
        """AP and AP50 of the boxes, and `mask_ap`, `mask_ap50` where masks are measured: quick, without intervals.

        They are 0 where there are no objects.
        """
        found: dict[str, float] = {}
        for prefix, masks in self._kinds():
            values = self.ranking(masks=masks, areas=("all",)).average_precision()[0]
            found |= {f"{prefix}ap": mean(values), f"{prefix}ap50": mean(values[_FIFTY])}
        return {name: float(np.nan_to_num(value)) for name, value in found.items()}

    def _kinds(self) -> list[tuple[str, bool]]:
        return [("", False), ("mask_", True)] if self.masks else [("", False)]

    def ranking(self, *, masks: bool = False, areas: Sequence[str] = tuple(AREAS)) -> Ranking:
        """All answers so far, ready for `average_precision`; image i is the one with the i-th smallest index.

        Args:
            masks: rank by the overlap of masks, not of boxes.
            areas: names of `matching.AREAS`.
        """
        place = self._places()
        answers = _joined(self._masks if masks else self._boxes, matching.ANSWERS)
        truths = _joined(self._truths, matching.TRUTHS)
        answers["image"], truths["image"] = place[answers["image"]], place[truths["image"]]
        order = np.argsort(answers["image"], kind="stable")  # so that equal scores do not depend on who came first
        return Ranking(answers[order], truths, len(self.classes), areas)

    def _places(self) -> NDArray[np.int64]:
        """(N,) the place of each image, in the order they came, among the rising indices."""
        places = np.empty(len(self), np.int64)
        places[self.order()] = np.arange(len(self))
        return places

    def support(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Objects of each class, without crowds, and images that have some: both (K,)."""
        truths = _joined(self._truths, matching.TRUTHS)
        truths = truths[truths["inside"] > 0]
        seen = np.unique(np.stack([truths["image"], truths["label"]]), axis=1)[1]
        return np.bincount(truths["label"], minlength=len(self.classes)), np.bincount(seen, minlength=len(self.classes))

    def _trials(self) -> dict[str, int]:
        """Images that each metric rests on: those with an object, of the size that the name says."""
        truths = _joined(self._truths, matching.TRUTHS)
        number = [len(np.unique(truths["image"][(truths["inside"] >> area & 1) > 0])) for area in range(len(AREAS))]
        return {"": number[0]} | {f"ap_{size}": count for size, count in zip(AREAS, number, strict=True)}

    def truths(self) -> int:
        """Objects, without crowds."""
        return int(self.support()[0].sum())

    def counter(self) -> Callable[[Weights | None], Floats]:
        """Average precision (1, IoU thresholds, K) of the masks where they are measured, else of the boxes."""
        return self.ranking(masks=self.masks, areas=("all",)).average_precision

    def image_scores(self) -> NDArray[np.float64]:
        """(N,) F1 of boxes at the threshold that suits all images best."""
        return self._outcome().counts(self._places(), self.indices()).f1

    def _outcome(self) -> _Outcome:
        return _Outcome(_joined(self._boxes, matching.ANSWERS), _joined(self._truths, matching.TRUTHS))

    def results(self, seed: int, resamples: int) -> dict[str, Any]:
        """Without any object AP is 0, with an interval from 0 to 1: nothing is known."""
        support, images = self.support()
        per_class: dict[str, list[Interval | None]] = {}
        metrics: dict[str, Interval] = {}
        for prefix, masks in self._kinds():
            found, columns = self._measure(masks, images, seed, resamples)
            metrics |= {prefix + name: interval for name, interval in found.items()}
            per_class |= {prefix + name: column for name, column in columns.items()}
        outcome = self._outcome()
        confusion = outcome.confusion(_joined(self._pairs, _PAIRS), len(self.classes))
        return {
            "metrics": metrics,
            "per_class": tuple(
                ObjectScores(
                    name, int(support[label]), int(confusion[:, label].sum()),
                    **{key: column[label] for key, column in per_class.items()},
                )
                for label, name in enumerate(self.classes)
            ),
            "curves": self.ranking(areas=("all",)).curves(),
            "confusion": confusion,
            "reliability": outcome.reliability(),
            "settings": {"threshold": outcome.threshold, "max_objects": self.most},
            "images": outcome.counts(self._places(), self.indices()),
        }  # fmt: skip

    def fit(self) -> dict[str, Any]:
        """The score from which on objects are shown: it gives the best F1 over all of them."""
        return {"threshold": self._outcome().threshold}

    def _measure(
        self, masks: bool, images: NDArray[np.int64], seed: int, resamples: int
    ) -> tuple[dict[str, Interval], dict[str, list[Interval | None]]]:
        """The metrics, and AP and AP50 of each class."""
        ranking = self.ranking(masks=masks)
        point = ranking.average_precision()
        redrawn = [*map(ranking.average_precision, draws(len(self), seed=seed, resamples=resamples))]
        values, *drawn = [np.stack([found[0].mean(axis=0), found[0, _FIFTY]]) for found in (point, *redrawn)]
        columns = {
            name: intervals(values[row], np.array(drawn).reshape(-1, *values.shape)[:, row], images)
            for row, name in enumerate(("ap", "ap50"))
        }
        return measured(METRICS, point, redrawn, self._trials()), columns


class InstanceMeter(BoxMeter):
    """Measures masks beside the boxes."""

    task = "instance_segmentation"
    masks = True


def _masks_matched(detections: Detections, objects: Objects, image: int) -> Rows:
    answers, truths = matching.answer_crops(detections), matching.object_crops(objects)
    areas = np.array([crop.area for crop in answers], np.float64)
    overlaps = matching.mask_overlaps(answers, truths, objects.crowd)
    return matching.match(detections.labels, detections.scores, areas, objects, overlaps, image)


def _joined(parts: list[Rows], dtype: np.dtype[Any]) -> Rows:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


class _Outcome:
    """What became of every answer and object at IoU 0.5 and at the score from which on answers count.

    Args:
        answers, truths: of boxes, in the order the images came.
    """

    def __init__(self, answers: Rows, truths: Rows) -> None:
        self.answers, self.truths = answers, truths
        self.right = (answers["matched"][:, 0] >> _FIFTY & 1) > 0
        self.counted = (answers["skipped"][:, 0] >> _FIFTY & 1) == 0
        self.real = truths["inside"] > 0  # no crowd
        self.threshold = self._threshold()
        self.above = self.counted & (answers["score"] >= np.float32(self.threshold))
        self.found = np.zeros(len(truths), bool)
        self.found[answers["object"][self.above & self.right]] = True

    def _threshold(self) -> float:
        """The score that gives the best F1 over all objects, the highest of several."""
        scores, right = self.answers["score"][self.counted], self.right[self.counted]
        order = np.argsort(-scores, kind="stable")
        scores, right = scores[order], np.cumsum(right[order])
        if not len(scores) or right[-1] == 0:
            return _DEFAULT_THRESHOLD
        f1 = 2 * right / (np.arange(1, len(scores) + 1) + self.real.sum())
        f1[:-1][scores[1:] == scores[:-1]] = 0  # equal scores are above a threshold all or none
        return float(scores[f1.argmax()])

    def confusion(self, pairs: Rows, classes: int) -> NDArray[np.int64]:
        """(K + 1, K + 1) counts of objects; a row is the truth, a column an answer, the last one the background.

        Answers that are right come first. What is left over on both sides is paired, the largest overlap first, and
        among equals the most confident prediction.
        """
        wrong, missed = self.above & ~self.right, self.real & ~self.found
        matrix = np.zeros((classes + 1, classes + 1), np.int64)
        labels = self.answers["label"]
        np.add.at(matrix, (labels[self.above & self.right],) * 2, 1)
        pairs = pairs[wrong[pairs["answer"]] & missed[pairs["object"]]]
        order = np.lexsort((pairs["answer"], -pairs["overlap"]))
        for answer, number, _ in pairs[order].tolist():
            if wrong[answer] and missed[number]:
                wrong[answer] = missed[number] = False
                matrix[self.truths["label"][number], labels[answer]] += 1
        matrix[classes, :classes] = np.bincount(labels[wrong], minlength=classes)
        matrix[:classes, classes] = np.bincount(self.truths["label"][missed], minlength=classes)
        return matrix

    def reliability(self) -> tuple[Bin, ...]:
        """How often answers of a score are right."""
        scores, right = self.answers["score"][self.counted], self.right[self.counted]
        place = bin_of(scores)
        return bins(
            np.bincount(place, minlength=BINS), np.bincount(place, scores, BINS), np.bincount(place, right, BINS)
        )

    def counts(self, places: NDArray[np.int64], indices: NDArray[np.int64]) -> ObjectCounts:
        """What was found in each image, in the order of `indices`; image i stands at `places[i]` there."""

        def count(rows: Rows) -> NDArray[np.int64]:
            return np.bincount(places[rows["image"]], minlength=len(indices))

        objects, found = count(self.truths[self.real]), count(self.truths[self.found])
        false = count(self.answers[self.above & ~self.right])
        f1 = np.divide(2.0 * found, objects + found + false, out=np.ones(len(indices)), where=objects + false > 0)
        return ObjectCounts(indices, f1, objects, found, false)
