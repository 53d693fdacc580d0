"""How well objects are found: a meter that images pass through, and the comparison of two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.data import Objects
from dualtoken.errors import DataError
from dualtoken.metrics import matching
from dualtoken.metrics.bootstrap import draws, intervals
from dualtoken.metrics.classes import BINS, bin_of, bins
from dualtoken.metrics.matching import AREAS, THRESHOLDS, Floats, Ranking, Rows
from dualtoken.metrics.pairs import SceneComparison, check_pair, difference_of
from dualtoken.outputs import Bin, Detections, Interval
from dualtoken.outputs.object_evaluation import DetectionEvaluation, ObjectScores, SceneScores

RESAMPLES = 200  # each ranks all answers anew; the ends of an interval move by about a tenth of its width
COMPARISON_RESAMPLES = 1000
_DEFAULT_THRESHOLD = 0.5  # where no answer is right, no score is better than another
_FIFTY, _SEVENTY_FIVE = 0, 5  # places in THRESHOLDS
_PAIRS = np.dtype([("answer", np.int64), ("object", np.int64), ("overlap", np.float32)])


class ObjectMeter:
    """Measures the answers to images, one image at a time; of each only a few numbers an answer are kept.

    Args:
        classes: K class names; labels of answers and objects are indices into them.
        masks: measure masks as well as boxes.
    """

    def __init__(self, classes: Sequence[str], *, masks: bool = False) -> None:
        self.classes = tuple(classes)
        self.masks = masks
        self._indices: list[int] = []
        self._truths: list[Rows] = []
        self._boxes: list[Rows] = []
        self._masks: list[Rows] = []
        self._pairs: list[Rows] = []
        self._objects = self._answers = 0

    def __len__(self) -> int:
        """Number of images."""
        return len(self._indices)

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
        counted = matching.surest(detections.labels)
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
            found |= {f"{prefix}ap": _mean(values), f"{prefix}ap50": _mean(values[_FIFTY])}
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

    def indices(self) -> NDArray[np.int64]:
        """(N,) the places in the split of the images so far, rising."""
        return np.sort(np.array(self._indices, np.int64))

    def _places(self) -> NDArray[np.int64]:
        """(N,) the place of each image, in the order they came, among the rising indices."""
        places = np.empty(len(self), np.int64)
        places[np.argsort(np.array(self._indices, np.int64), kind="stable")] = np.arange(len(self))
        return places

    def support(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Objects of each class, without crowds, and images that have some: both (K,)."""
        truths = _joined(self._truths, matching.TRUTHS)
        truths = truths[truths["inside"] > 0]
        seen = np.unique(np.stack([truths["image"], truths["label"]]), axis=1)[1]
        return np.bincount(truths["label"], minlength=len(self.classes)), np.bincount(seen, minlength=len(self.classes))

    def _images_with_objects(self) -> NDArray[np.int64]:
        """(metrics,) images that each of the metrics in `_values` rests on."""
        truths = _joined(self._truths, matching.TRUTHS)
        number = [len(np.unique(truths["image"][(truths["inside"] >> area & 1) > 0])) for area in range(len(AREAS))]
        return np.array([number[0]] * 3 + number[1:], np.int64)

    def evaluation(
        self,
        *,
        model: str = "",
        source: str = "",
        split: str = "",
        bad_images: Sequence[tuple[str, str]] = (),
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> DetectionEvaluation:
        """All that was measured, with 95 % intervals from drawing the images again (`resamples` times).

        Without any object AP is 0, with an interval from 0 to 1: nothing is known.
        """
        support, images = self.support()
        per_class: dict[str, list[Interval | None]] = {}
        metrics: dict[str, Interval] = {}
        for prefix, masks in self._kinds():
            measured, columns = self._measure(prefix, masks, images, seed, resamples)
            metrics |= measured
            per_class |= columns
        outcome = _Outcome(_joined(self._boxes, matching.ANSWERS), _joined(self._truths, matching.TRUTHS))
        confusion = outcome.confusion(_joined(self._pairs, _PAIRS), len(self.classes))
        return DetectionEvaluation(
            task="instance_segmentation" if self.masks else "detection",
            model=model,
            source=source,
            split=split,
            classes=self.classes,
            metrics=metrics,
            per_class=tuple(
                ObjectScores(
                    name,
                    int(support[label]),
                    int(confusion[:, label].sum()),
                    **{key: column[label] for key, column in per_class.items()},
                )
                for label, name in enumerate(self.classes)
            ),
            curves=self.ranking(areas=("all",)).curves(),
            confusion=confusion,
            reliability=outcome.reliability(),
            threshold=outcome.threshold,
            images=outcome.scenes(self._places(), self.indices()),
            bad_images=tuple(bad_images),
            seed=seed,
            resamples=resamples,
        )

    def _measure(
        self, prefix: str, masks: bool, images: NDArray[np.int64], seed: int, resamples: int
    ) -> tuple[dict[str, Interval], dict[str, list[Interval | None]]]:
        ranking = self.ranking(masks=masks)
        keys, values = _values(ranking.average_precision())
        drawn = [
            _values(ranking.average_precision(weights))[1]
            for weights in (draws(len(self), seed=seed, resamples=resamples) if len(self) else ())
        ]
        classes = len(self.classes)
        trials = np.concatenate([self._images_with_objects(), images, images])
        found = intervals(values, np.array(drawn).reshape(-1, len(values)), trials)
        metrics = {prefix + key: interval for key, interval in zip(keys, found, strict=False) if interval is not None}
        for key in ("ap", "ap50", "ap75"):
            metrics.setdefault(prefix + key, Interval(0.0, 0.0, 1.0))
        columns = {f"{prefix}ap": found[len(keys) : -classes], f"{prefix}ap50": found[-classes:]}
        return metrics, columns

    def scenes(self) -> SceneScores:
        """The scores of each image at the threshold that suits all of them best, without intervals of anything."""
        outcome = _Outcome(_joined(self._boxes, matching.ANSWERS), _joined(self._truths, matching.TRUTHS))
        return outcome.scenes(self._places(), self.indices())


def _masks_matched(detections: Detections, objects: Objects, image: int) -> Rows:
    answers, truths = matching.answer_crops(detections), matching.object_crops(objects)
    areas = np.array([crop.area for crop in answers], np.float64)
    overlaps = matching.mask_overlaps(answers, truths, objects.crowd)
    return matching.match(detections.labels, detections.scores, areas, objects, overlaps, image)


def _joined(parts: list[Rows], dtype: np.dtype[Any]) -> Rows:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _values(precision: Floats) -> tuple[tuple[str, ...], Floats]:
    """Names of the metrics, and in one row the metrics, AP of each class, AP50 of each class; NaN without objects."""
    whole = precision[0]
    metrics = [_mean(whole), _mean(whole[_FIFTY]), _mean(whole[_SEVENTY_FIVE]), *map(_mean, precision[1:])]
    keys = ("ap", "ap50", "ap75", *(f"ap_{area}" for area in list(AREAS)[1:]))
    return keys, np.concatenate([metrics, whole.mean(axis=0), whole[_FIFTY]])


def _mean(values: Floats) -> float:
    """Of the values that are numbers; NaN if none is."""
    there = ~np.isnan(values)
    return float(values[there].mean()) if there.any() else float("nan")


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
        among equals the surest answer.
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

    def scenes(self, places: NDArray[np.int64], indices: NDArray[np.int64]) -> SceneScores:
        """What was found in each image, in the order of `indices`; image i stands at `places[i]` there."""

        def count(rows: Rows) -> NDArray[np.int64]:
            return np.bincount(places[rows["image"]], minlength=len(indices))

        objects, found = count(self.truths[self.real]), count(self.truths[self.found])
        false = count(self.answers[self.above & ~self.right])
        f1 = np.divide(2.0 * found, objects + found + false, out=np.ones(len(indices)), where=objects + false > 0)
        return SceneScores(indices, f1, objects, found, false)


def compare_objects(
    a: ObjectMeter,
    b: ObjectMeter,
    *,
    names: tuple[str, str],
    source: str = "",
    split: str = "",
    seed: int = 0,
    resamples: int = COMPARISON_RESAMPLES,
    note: str = "",
) -> SceneComparison:
    """Whether one of two models finds objects better on the same images: AP of masks where both have them, else boxes.

    Both are measured on the same draws of images. An image counts for the model with the higher F1 of boxes on it.

    Raises:
        DataError: the meters saw other images or other objects, or know other classes.
    """
    check_pair(a, b)
    if a.support()[0].sum() != b.support()[0].sum():
        raise DataError("A and B were measured on images with different objects.", "Use the same labels for both.")
    masks = a.masks and b.masks
    rankings = [meter.ranking(masks=masks, areas=("all",)) for meter in (a, b)]
    values = [float(np.nan_to_num(_mean(ranking.average_precision()))) for ranking in rankings]
    drawn = [
        [_mean(ranking.average_precision(weights)) for ranking in rankings]
        for weights in draws(len(a), seed=seed, resamples=resamples)
    ]
    gain = np.diff(np.array(drawn).reshape(-1, 2), axis=1)[:, 0]
    f1_a, f1_b = a.scenes().f1, b.scenes().f1
    return SceneComparison(
        *names,
        source=source,
        split=split,
        images=len(a),
        metric="mask_ap" if masks else "ap",
        title="Mask AP" if masks else "Box AP",
        value_a=values[0],
        value_b=values[1],
        difference=difference_of(values[0], values[1], gain, len(a)),
        better_a=int((f1_a > f1_b).sum()),
        better_b=int((f1_b > f1_a).sum()),
        seed=seed,
        resamples=resamples,
        note=note,
    )
