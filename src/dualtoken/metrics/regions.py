"""How well the pixels of regions are told apart: a meter that images pass through, and the comparison of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.data import IGNORE
from dualtoken.metrics.bootstrap import RESAMPLES, draws, intervals
from dualtoken.metrics.classes import BINS, bin_of, bins
from dualtoken.metrics.pairs import SceneComparison, check_pair, difference_of
from dualtoken.outputs import Bin, Interval, Segmentation
from dualtoken.outputs.mask_evaluation import PixelScores, RegionScores, SegmentationEvaluation

BOUNDARY = 0.02  # of the diagonal: how near an edge pixels count for boundary IoU (Cheng et al. 2021, arXiv 2103.16562)
_KEYS = ("miou", "boundary_iou", "pixel_accuracy")

Floats = NDArray[np.float64]
Classes = NDArray[np.uint8]


class RegionMeter:
    """Measures the answers to images, one image at a time; of each only a few numbers a class are kept.

    Pixels whose truth is `IGNORE` count nowhere, and an image that has no others is left out altogether.

    Args:
        classes: K class names; the values of answers and masks are indices into them.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._indices: list[int] = []
        self._counts: list[NDArray[np.int32]] = []
        self._confusion = np.zeros((len(self.classes), len(self.classes)), np.int64)
        self._bins = np.zeros((3, BINS))  # pixels, sum of their confidence, right ones

    def __len__(self) -> int:
        """Number of images that count."""
        return len(self._indices)

    def add(self, segmentation: Segmentation, truth: Classes, index: int) -> None:
        """One image: the answer, the right class of each pixel or `IGNORE`, and its place in the samples of the split.

        Args:
            segmentation: the answer.
            truth: (height, width) uint8.
            index: of the image.

        Raises:
            ValueError: the answer has other classes or another size, or the truth has a class that is none.
        """
        if segmentation.classes != self.classes:
            raise ValueError(f"the answer has the classes {segmentation.classes}, the meter {self.classes}.")
        if segmentation.mask.shape != truth.shape:
            raise ValueError(f"the answer has the size {segmentation.mask.shape}, the truth {truth.shape}.")
        valid = truth != IGNORE
        right, answer = truth[valid], segmentation.mask[valid]
        if not len(right):
            return
        if right.max() >= len(self.classes):
            raise ValueError(f"the truth has the class {right.max()}, the highest is {len(self.classes) - 1}.")
        confusion = self._pairs(right, answer)
        self._confusion += confusion
        if segmentation.confidence is not None:
            self._add_confidence(segmentation.confidence[valid], right == answer)
        near = self._boundary(truth, segmentation.mask, valid)
        self._counts.append(np.stack([*_overlap(confusion), *near, confusion.sum(axis=1)]).astype(np.int32))
        self._indices.append(int(index))

    def _pairs(self, truth: Classes, answer: Classes) -> NDArray[np.int64]:
        """(K, K) pixels of each true class and answer."""
        classes = len(self.classes)
        cells = truth.astype(np.int32) * classes + answer
        return np.bincount(cells, minlength=classes**2).reshape(classes, classes)

    def _add_confidence(self, confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> None:
        place = bin_of(confidence)
        self._bins[0] += np.bincount(place, minlength=BINS)
        self._bins[1] += np.bincount(place, confidence, BINS)
        self._bins[2] += np.bincount(place[right], minlength=BINS)

    def _boundary(self, truth: Classes, answer: Classes, valid: NDArray[np.bool_]) -> list[NDArray[Any]]:
        """As `_overlap`, of the pixels near an edge: of the truth's own in one, of the answer's in the other."""
        width = boundary_width(truth.shape)
        of_truth, of_answer = (near_edges(mask, valid, width) for mask in (truth, answer))
        classes = len(self.classes)
        both = of_truth & of_answer & (truth == answer)
        shared, first, second = (
            np.bincount(mask[part], minlength=classes)
            for mask, part in ((truth, both), (truth, of_truth), (answer, of_answer))
        )
        return [shared, first + second - shared]

    def figures(self) -> dict[str, float]:
        """`miou` and `pixel_accuracy`, without intervals: quick. They are 0 where there are no pixels."""
        shared, union = _overlap(self._confusion)
        miou, total = _mean(_shares(shared, union)), self._confusion.sum()
        return {
            "miou": float(np.nan_to_num(miou)),
            "pixel_accuracy": float(shared.sum() / total) if total else 0.0,
        }

    def indices(self) -> NDArray[np.int64]:
        """(N,) the places in the split of the images that count, rising."""
        return np.sort(np.array(self._indices, np.int64))

    def counts(self) -> NDArray[np.int32]:
        """(N, 5, K) pixels of each image, in the order of `indices`.

        Right ones; those in truth or answer; the same two near edges; those in the truth.
        """
        order = np.argsort(np.array(self._indices, np.int64), kind="stable")
        counts = np.zeros((len(self), 5, len(self.classes)), np.int32)
        for place, number in enumerate(order.tolist()):
            counts[place] = self._counts[number]
        return counts

    def images(self) -> PixelScores:
        """The scores of each image."""
        counts = self.counts()
        there = counts[:, 1] > 0
        iou = _shares(counts[:, 0], counts[:, 1])
        miou = np.where(there, iou, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        return PixelScores(self.indices(), miou, counts[:, 0].sum(axis=1) / np.maximum(counts[:, 4].sum(axis=1), 1))

    def evaluation(
        self,
        *,
        model: str = "",
        source: str = "",
        split: str = "",
        bad_images: Sequence[tuple[str, str]] = (),
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> SegmentationEvaluation:
        """All that was measured, with 95 % intervals from drawing the images again (`resamples` times).

        Without any pixel all is 0, with intervals from 0 to 1: nothing is known.
        """
        counts = self.counts()
        found = self._intervals(counts, seed, resamples)
        iou, boundary = found[3 : 3 + len(self.classes)], found[3 + len(self.classes) :]
        support = counts[:, 4].sum(axis=0, dtype=np.int64)
        share = support / max(int(support.sum()), 1)
        return SegmentationEvaluation(
            task="semantic_segmentation",
            model=model,
            source=source,
            split=split,
            classes=self.classes,
            metrics={key: part or Interval(0.0, 0.0, 1.0) for key, part in zip(_KEYS, found, strict=False)},
            per_class=tuple(
                RegionScores(name, int(support[label]), float(share[label]), iou[label], boundary[label])
                for label, name in enumerate(self.classes)
            ),
            confusion=self._confusion.copy(),
            reliability=self._reliability(),
            images=self.images(),
            bad_images=tuple(bad_images),
            seed=seed,
            resamples=resamples,
        )

    def _intervals(self, counts: NDArray[np.int32], seed: int, resamples: int) -> list[Interval | None]:
        """Of the metrics, the IoU and the boundary IoU of each class."""
        wide = counts.astype(np.float64)
        drawn = [
            _values(np.tensordot(weights, wide, 1))
            for weights in (draws(len(self), seed=seed, resamples=resamples) if len(self) else ())
        ]
        value = _values(counts.sum(axis=0, dtype=np.float64))
        seen = (counts[:, 1] > 0).sum(axis=0)
        trials = np.concatenate([np.full(len(_KEYS), len(self)), seen, seen])
        return intervals(value, np.array(drawn).reshape(-1, len(value)), trials)

    def _reliability(self) -> tuple[Bin, ...]:
        return bins(*self._bins)


def boundary_width(shape: tuple[int, ...]) -> int:
    """How many pixels from an edge still belong to it: 2 % of the diagonal of (height, width), 1 at least."""
    return max(1, round(BOUNDARY * float(np.linalg.norm(shape))))


def near_edges(mask: Classes, valid: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """(height, width) bool: valid pixels with a pixel of another class at most `width` rows and columns away.

    The image's border is an edge, as in the published code; pixels that are not valid have no class and make none.

    Args:
        mask: (height, width) classes, at most 254 where valid.
        valid: (height, width), False where nothing counts.
        width: 1 or more.
    """
    classes = mask + np.uint8(1)  # 0 is free for what lies outside
    lowest = _over_window(np.where(valid, classes, np.uint8(255)), width, np.minimum)
    highest = _over_window(np.where(valid, classes, np.uint8(0)), width, np.maximum)
    return (lowest != highest) & valid


def _over_window(values: Classes, width: int, keep: np.ufunc) -> Classes:
    """The lowest or highest of the square of 2 * width + 1 pixels around each; outside the image all is 0."""
    values = np.pad(values, width)
    for axis in (0, 1):
        values = np.moveaxis(values, axis, 0)
        reach, length = 1, 2 * width + 1
        while reach < length:  # each value covers `reach` pixels from its own on
            step = min(reach, length - reach)
            values = keep(values[:-step], values[step:])
            reach += step
        values = np.moveaxis(values, 0, axis)
    return values


def _overlap(confusion: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Of each class the pixels in both truth and answer, and in either: (K,) each."""
    shared = np.diag(confusion)
    return [shared, confusion.sum(axis=0) + confusion.sum(axis=1) - shared]


def _values(counts: Floats) -> Floats:
    """Sums (5, K) to one row: the metrics, the IoU and the boundary IoU of each class; NaN for what does not occur."""
    iou, boundary = _shares(counts[0], counts[1]), _shares(counts[2], counts[3])
    accuracy = _shares(counts[0].sum(keepdims=True), counts[4].sum(keepdims=True))
    return np.concatenate([[_mean(iou), _mean(boundary)], accuracy, iou, boundary])


def _shares(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _mean(values: Floats) -> float:
    there = ~np.isnan(values)
    return float(values[there].mean()) if there.any() else float("nan")


def compare_regions(
    a: RegionMeter,
    b: RegionMeter,
    *,
    names: tuple[str, str],
    source: str = "",
    split: str = "",
    seed: int = 0,
    resamples: int = RESAMPLES,
    note: str = "",
) -> SceneComparison:
    """Whether one of two models has the higher mean IoU on the same images, measured on the same draws of them.

    An image counts for the model with the higher mean IoU on it.

    Raises:
        DataError: the meters saw other images, or know other classes.
    """
    check_pair(a, b)
    counts = [meter.counts()[:, :2].astype(np.float64) for meter in (a, b)]
    values = [float(np.nan_to_num(_miou(part.sum(axis=0)))) for part in counts]
    drawn = [
        [_miou(np.tensordot(weights, part, 1)) for part in counts]
        for weights in draws(len(a), seed=seed, resamples=resamples)
    ]
    gain = np.diff(np.array(drawn).reshape(-1, 2), axis=1)[:, 0]
    first, second = a.images().miou, b.images().miou
    return SceneComparison(
        *names,
        source=source,
        split=split,
        images=len(a),
        metric="miou",
        title="Mean IoU",
        value_a=values[0],
        value_b=values[1],
        difference=difference_of(values[0], values[1], gain, len(a)),
        better_a=int((first > second).sum()),
        better_b=int((second > first).sum()),
        seed=seed,
        resamples=resamples,
        note=note,
    )


def _miou(counts: Floats) -> float:
    return _mean(_shares(counts[0], counts[1]))
