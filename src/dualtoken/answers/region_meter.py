"""How well the pixels of regions are told apart. A metric for regions is added here: one entry of `METRICS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.bootstrap import draws, intervals
from dualtoken.answers.box_meter import mean
from dualtoken.answers.class_meter import BINS, bin_of, bins
from dualtoken.answers.meter import Meter, Weights, measured
from dualtoken.data import IGNORE
from dualtoken.outputs import Interval, Metric, Segmentation

BOUNDARY = 0.02  # of the diagonal: how near an edge pixels count for boundary IoU (Cheng et al. 2021, arXiv 2103.16562)

Floats = NDArray[np.float64]
Classes = NDArray[np.uint8]

# What is measured of regions, by name; each entry has `of`, from the sums (5, K) of `RegionMeter.counts` to a number.
METRICS: dict[str, Metric] = {
    "miou": Metric(
        "Mean IoU", True, "mean over the classes of the IoU of their pixels",
        lambda sums: mean(_shares(sums[0], sums[1])), exact=True, always=True, hub="mean_iou",
    ),
    "boundary_iou": Metric(
        "Boundary IoU", True, "the same, of the pixels near an edge only: within 2 % of the image's diagonal",
        lambda sums: mean(_shares(sums[2], sums[3])), exact=True, always=True,
    ),
    "pixel_accuracy": Metric(
        "Pixel accuracy", True, "share of pixels whose class is right",
        lambda sums: float(_shares(sums[0].sum(), sums[4].sum())), exact=True, always=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class RegionScores:
    """How well the pixels of one class are told apart.

    Attributes:
        name: of the class.
        support: its pixels.
        share: of all labelled pixels, in [0, 1].
        iou, boundary_iou: with intervals; None where the class occurs neither in truth nor in predictions.
    """

    name: str
    support: int
    share: float
    iou: Interval | None
    boundary_iou: Interval | None


@dataclass(frozen=True, eq=False)
class PixelScores:
    """One number an image, N images in the order of the split; images without a labelled pixel are not among them.

    Attributes:
        index: (N,) int64, place in the samples of the split.
        miou: (N,) float64, mean IoU over the classes in truth or prediction of this image.
        pixel_accuracy: (N,) float64, share of its labelled pixels whose class is right.
    """

    index: NDArray[np.int64]
    miou: NDArray[np.float64]
    pixel_accuracy: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.index)


class RegionMeter(Meter):
    """Measures the answers to images, one image at a time; of each only a few numbers a class are kept.

    Pixels whose truth is `IGNORE` count nowhere, and an image that has no others is left out altogether.

    Args:
        classes: K class names; the values of answers and masks are indices into them.
    """

    task = "semantic_segmentation"

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self._counts: list[NDArray[np.int32]] = []
        self._confusion = np.zeros((len(self.classes), len(self.classes)), np.int64)
        self._bins = np.zeros((3, BINS))  # pixels, sum of their confidence, right ones

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
        miou, total = mean(_shares(shared, union)), self._confusion.sum()
        return {
            "miou": float(np.nan_to_num(miou)),
            "pixel_accuracy": float(shared.sum() / total) if total else 0.0,
        }

    def counts(self) -> NDArray[np.int32]:
        """(N, 5, K) pixels of each image, in the order of `indices`.

        Right ones; those in truth or answer; the same two near edges; those in the truth.
        """
        counts = np.array(self._counts, np.int32).reshape(len(self), 5, len(self.classes))
        return counts[self.order()]

    def images(self) -> PixelScores:
        """The scores of each image."""
        counts = self.counts()
        there = counts[:, 1] > 0
        iou = _shares(counts[:, 0], counts[:, 1])
        miou = np.where(there, iou, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        return PixelScores(self.indices(), miou, counts[:, 0].sum(axis=1) / np.maximum(counts[:, 4].sum(axis=1), 1))

    def counter(self) -> Callable[[Weights | None], Floats]:
        """Sums (5, K) of `counts`."""
        counts = self.counts().astype(np.float64)
        return lambda weights: counts.sum(axis=0) if weights is None else np.tensordot(weights, counts, 1)

    def image_scores(self) -> Floats:
        """(N,) mean IoU of each image."""
        return self.images().miou

    def results(self, seed: int, resamples: int) -> dict[str, Any]:
        """Without any pixel all is 0, with intervals from 0 to 1: nothing is known."""
        counts, counted = self.counts(), self.counter()
        point, *redrawn = [counted(None), *map(counted, draws(len(self), seed=seed, resamples=resamples))]
        values, *drawn = [_shares(sums[[0, 2]], sums[[1, 3]]) for sums in (point, *redrawn)]  # (2, K) each
        seen = (counts[:, 1] > 0).sum(axis=0)
        iou, boundary = (
            intervals(values[row], np.array(drawn).reshape(-1, *values.shape)[:, row], seen) for row in (0, 1)
        )
        support = counts[:, 4].sum(axis=0, dtype=np.int64)
        share = support / max(int(support.sum()), 1)
        return {
            "metrics": measured(METRICS, point, redrawn, len(self)),
            "per_class": tuple(
                RegionScores(name, int(support[label]), float(share[label]), iou[label], boundary[label])
                for label, name in enumerate(self.classes)
            ),
            "confusion": self._confusion.copy(),
            "reliability": bins(*self._bins),
            "images": self.images(),
        }


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


def _shares(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
