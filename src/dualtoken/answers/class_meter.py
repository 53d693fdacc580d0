"""How well whole images are told apart. A metric for classes is added here: one entry of `METRICS`.

Each metric is counted by one function for all images and for any draw of them, from a few numbers an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.bootstrap import draws, interval_ends, widened
from dualtoken.answers.calibration import fit_temperature
from dualtoken.answers.kinds import CLASSIFIER
from dualtoken.answers.meter import Meter, Weights, measured
from dualtoken.outputs import Bin, Classification, Interval, Metric
from dualtoken.postprocess import softmax

BINS = 15  # equal in width, as in Guo et al. 2017 (arXiv 1706.04599)
_ROWS = 4096  # images at a time: float64 copies of all logits would not fit

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PerImage:
    """One number an image, N images in the order of the split.

    Attributes:
        index: (N,) int64, place in the samples of the split.
        label, predicted: (N,) int64, the right class and the predicted one.
        rank: (N,) int64, how many classes were rated above the right one.
        score: (N,) float32, probability of the predicted class.
        true_score: (N,) float32, probability of the right class.
        nll: (N,) float64, -ln of it.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    rank: NDArray[np.int64]
    score: NDArray[np.float32]
    true_score: NDArray[np.float32]
    nll: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether the prediction is right."""
        return self.label == self.predicted


@dataclass(frozen=True)
class ClassScores:
    """How well one class is told apart.

    Attributes:
        name: of the class.
        support: images of this class.
        predicted: images that were taken for this class.
        correct: images of this class that were taken for it.
        precision, recall, f1: with intervals; None where the class occurs neither in truth nor in predictions.
    """

    name: str
    support: int
    predicted: int
    correct: int
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None


def per_image(
    logits: NDArray[np.float32], labels: NDArray[np.int64], indices: NDArray[np.int64], temperature: float = 1.0
) -> PerImage:
    """Logits (N, K) and labels (N,) to what the metrics need of each image.

    A class counts as rated above the right one where its logit is larger, or equal and earlier: the same rule
    by which argmax gives the answer.
    """
    parts = [
        _per_image(logits[start : start + _ROWS], labels[start : start + _ROWS], temperature)
        for start in range(0, len(labels), _ROWS)
    ]
    rank, predicted, score, true_score, nll = (np.concatenate(part) for part in zip(*parts, strict=True))
    return PerImage(indices, labels, predicted, rank, score, true_score, nll)


def _per_image(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float) -> tuple[NDArray[Any], ...]:
    rows = np.arange(len(labels))
    right = logits[rows, labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > right) | ((logits == right) & earlier)).sum(axis=1)
    predicted = logits.argmax(axis=1)
    probabilities = softmax(logits, temperature)
    return (
        rank,
        predicted,
        probabilities[rows, predicted],
        probabilities[rows, labels],
        _nll(logits, labels, temperature),
    )


def _nll(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float) -> Floats:
    """-ln softmax(logits / temperature)[label], (N,): from the logits, since a small probability would round to 0."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]


class Drawn:
    """Images that count `weights` times each (N,), once if not given: what a metric is measured from.

    Attributes:
        images: N of them.
        classes: K.
        weights: (N,) float64.
        total: their sum.
        hits: (N,) float64, the weights of the right ones, else 0.
        support, predicted, correct: (K,) images of each class, taken for it, and both.
    """

    def __init__(self, images: PerImage, classes: int, weights: Weights | None = None) -> None:
        self.images, self.classes = images, classes
        self.weights = np.ones(len(images)) if weights is None else weights.astype(np.float64)
        self.total, self.hits = self.weights.sum(), self.weights * images.correct
        self.support = np.bincount(images.label, self.weights, classes)
        self.predicted = np.bincount(images.predicted, self.weights, classes)
        self.correct = np.bincount(images.label, self.hits, classes)

    @cached_property
    def precision(self) -> Floats:
        """(K,) share of the images taken for a class that are of it; NaN where there are none."""
        return _share(self.correct, self.predicted)

    @cached_property
    def recall(self) -> Floats:
        """(K,) share of a class's images that are taken for it; NaN where there are none."""
        return _share(self.correct, self.support)

    @cached_property
    def f1(self) -> Floats:
        """(K,) of both; NaN where a class occurs neither in truth nor in predictions."""
        return _share(2 * self.correct, self.support + self.predicted)


def _calibration_error(drawn: Drawn) -> float:
    images = drawn.images
    gaps = np.bincount(bin_of(images.score), drawn.weights * images.score - drawn.hits, BINS)
    return float(np.abs(gaps).sum() / drawn.total)


# What is measured of classes, by name; each entry has `of`, from a `Drawn` to a number. The order is that of reports.
METRICS: dict[str, Metric] = {
    "top1": Metric(
        "Top-1 accuracy", True, "share of images whose most probable class is right",
        lambda d: d.hits.sum() / d.total, exact=True, hub="accuracy",
    ),
    "top5": Metric(
        "Top-5 accuracy", True, "share of images with the right class among the five most probable",
        lambda d: d.weights[d.images.rank < 5].sum() / d.total if d.classes > 5 else np.nan,  # else always 1
        exact=True,
    ),
    "macro_f1": Metric(
        "Macro F1", True, "mean over the classes that occur of F1, each class counting the same",
        lambda d: float(np.nanmean(d.f1)), exact=True,
    ),
    "nll": Metric(
        "Log loss", False, "mean of -ln(probability of the right class); lower is better",
        lambda d: (d.weights * d.images.nll).sum() / d.total,
    ),
    "ece": Metric(
        "Calibration error", True, "how far stated probabilities are from the truth (ECE, 15 bins)", _calibration_error
    ),
}  # fmt: skip


class ClassMeter(Meter):
    """Collects logits and labels.

    Args:
        classes: K class names.
        temperature: the logits are divided by it.
    """

    task = CLASSIFIER

    def __init__(self, classes: Sequence[str], temperature: float = 1.0) -> None:
        super().__init__(classes)
        self.temperature = temperature
        self._logits: list[NDArray[np.float32]] = []
        self._labels: list[int] = []

    def add(self, answer: Classification, truth: int, index: int) -> None:
        """Of answers without logits those that give their probabilities are taken."""
        if answer.classes != self.classes:
            raise ValueError(f"the answer has the classes {answer.classes}, the meter {self.classes}.")
        tiny = np.finfo(np.float32).tiny
        known = answer.logits
        self._logits.append(np.log(np.maximum(answer.probabilities, tiny)) if known is None else known)
        self._labels.append(truth)
        self._indices.append(int(index))

    def logits(self) -> NDArray[np.float32]:
        """(N, K) in the order of `indices`."""
        return np.array(self._logits, np.float32).reshape(len(self), len(self.classes))[self.order()]

    def labels(self) -> NDArray[np.int64]:
        """(N,) the right classes, in the same order."""
        return np.array(self._labels, np.int64)[self.order()]

    def images(self) -> PerImage:
        """What the metrics need of each image, at the temperature of this moment."""
        return per_image(self.logits(), self.labels(), self.indices(), self.temperature)

    def figures(self) -> dict[str, float]:
        """`loss` in nats and `top1` as a share."""
        images = self.images()
        return {"loss": float(images.nll.mean()), "top1": float(images.correct.mean())}

    def fit(self) -> dict[str, Any]:
        """The temperature that makes probabilities honest."""
        self.temperature = fit_temperature(self.logits(), self.labels())
        return {"temperature": self.temperature}

    def counter(self) -> Callable[[Weights | None], Drawn]:
        images, classes = self.images(), len(self.classes)
        return lambda weights: Drawn(images, classes, weights)

    def image_scores(self) -> Floats:
        """(N,) 1 where the image is right, else 0."""
        return self.images().correct.astype(np.float64)

    def results(self, seed: int, resamples: int) -> dict[str, Any]:
        counted, images = self.counter(), self.images()
        point = counted(None)
        redrawn = [counted(weights) for weights in draws(len(images), seed=seed, resamples=resamples)]
        return {
            "metrics": measured(METRICS, point, redrawn, len(images)),
            "per_class": _per_class(self.classes, point, redrawn),
            "confusion": confusion_matrix(images, len(self.classes)),
            "reliability": reliability(images),
            "images": images,
            "settings": {"temperature": self.temperature},
        }


def _per_class(classes: Sequence[str], point: Drawn, redrawn: Sequence[Drawn]) -> tuple[ClassScores, ...]:
    counts = [getattr(point, name).astype(int).tolist() for name in ("support", "predicted", "correct")]
    trials = {"precision": point.predicted, "recall": point.support, "f1": point.support}
    columns: list[list[Interval | None]] = []
    for name, number in trials.items():
        value = np.nan_to_num(getattr(point, name))
        low, high = interval_ends(value, np.stack([getattr(draw, name) for draw in redrawn or [point]]))
        columns.append(
            [
                widened(Interval(float(value[i]), float(low[i]), float(high[i])), max(int(number[i]), 1))
                if point.support[i] + point.predicted[i]
                else None
                for i in range(len(classes))
            ]
        )
    return tuple(ClassScores(*row) for row in zip(classes, *counts, *columns, strict=True))


def confusion_matrix(images: PerImage, classes: int) -> NDArray[np.int64]:
    """(K, K) numbers of images: a row is a true class, a column an answer."""
    cells = np.bincount(images.label * classes + images.predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def bin_of(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """(n,) which of `BINS` bins of equal width; the last one includes 1."""
    return np.minimum((scores * np.float32(BINS)).astype(np.int64), BINS - 1)


def bins(number: NDArray[Any], confidence: NDArray[Any], right: NDArray[Any]) -> tuple[Bin, ...]:
    """The bins that hold something, from sums over each: (BINS,) how many, of their scores, and how many are right."""
    return tuple(
        Bin(i / BINS, (i + 1) / BINS, int(number[i]), float(confidence[i] / number[i]), float(right[i] / number[i]))
        for i in np.flatnonzero(number).tolist()
    )


def reliability(images: PerImage) -> tuple[Bin, ...]:
    """The bins of the score that hold images, lowest first."""
    place = bin_of(images.score)
    number = np.bincount(place, minlength=BINS)
    return bins(number, np.bincount(place, images.score, BINS), np.bincount(place, images.correct, BINS))


def _share(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, NaN where there is nothing to count."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
