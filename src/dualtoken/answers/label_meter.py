"""How well labels of whole images are found. A metric for labels is added here: one entry of `METRICS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.bootstrap import draws, intervals
from dualtoken.answers.box_meter import mean
from dualtoken.answers.class_meter import BINS, bin_of, bins
from dualtoken.answers.label_calibration import fit_labels, fit_thresholds, label_probabilities
from dualtoken.answers.meter import Meter, Weights, measured
from dualtoken.outputs import Interval, Labels, Metric

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelScores:
    """How well one class is found.

    Attributes:
        name: of the class.
        support: images that have it.
        predicted: images in which it was found.
        correct: both.
        threshold: probability from which it counts as found.
        ap, precision, recall, f1: with intervals; None where there is nothing to measure.
        ece: how far its probabilities are from the truth.
    """

    name: str
    support: int
    predicted: int
    correct: int
    threshold: float
    ap: Interval | None
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None
    ece: float


@dataclass(frozen=True, eq=False)
class PerImage:
    """N images in the order of the split.

    Attributes:
        index: (N,) int64, place in the samples of the split.
        f1: (N,) float64, of the labels of each image; 1 where there are none and none were found.
        truth, found: (N, K) bool.
        probabilities: (N, K) float32.
    """

    index: NDArray[np.int64]
    f1: Floats
    truth: Truth
    found: Truth
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.index)


class Ranked:
    """Images ranked by the logit of each class, once, for the average precision of any weighting of them.

    Average precision is the mean, over the images that have a class, of the precision down to each: the area below
    the stepped curve, without interpolation. Images with equal logits come together.

    Args:
        logits: (N, K).
        truth: (N, K).
    """

    def __init__(self, logits: NDArray[np.float32], truth: Truth) -> None:
        self.order = np.argsort(-logits, axis=0, kind="stable")
        score = np.take_along_axis(logits, self.order, axis=0)
        self.truth = np.take_along_axis(truth, self.order, axis=0)
        last = np.ones(score.shape, bool)
        last[:-1] = score[1:] != score[:-1]
        places = np.where(last, np.arange(len(score))[:, None], len(score))
        self.end = np.minimum.accumulate(places[::-1], axis=0)[::-1]  # of the images with the same logit

    def average_precision(self, weights: Floats) -> Floats:
        """(K,) for images that count `weights` (N,) times each; NaN for classes that none of them has."""
        weight = weights[self.order]
        right = weight * self.truth
        above, found = (np.take_along_axis(part.cumsum(axis=0), self.end, axis=0) for part in (weight, right))
        return _share((right * _share(found, above, 0.0)).sum(axis=0), right.sum(axis=0))


class Drawn:
    """Images that count `weights` times each (N,): what a metric is measured from.

    Attributes:
        ap: (K,) average precision; NaN where no image has the class.
        support, predicted, correct: (K,) images that have each class, in which it was found, and both.
        ece: (K,) calibration error of each class.
        exact: share of the images whose labels are right to the last.
    """

    def __init__(self, images: PerImage, ranked: Ranked, weights: Weights | None) -> None:
        weight = np.ones(len(images)) if weights is None else weights.astype(np.float64)
        truth, found = images.truth, images.found
        self.ap = ranked.average_precision(weight)
        self.support, self.predicted, self.correct = weight @ truth, weight @ found, weight @ (truth & found)
        self.exact = float(weight @ (truth == found).all(axis=1) / weight.sum())
        cells = bin_of(images.probabilities) + BINS * np.arange(truth.shape[1])
        gaps = (weight[:, None] * (images.probabilities - truth)).ravel()
        error = np.bincount(cells.ravel(), gaps, BINS * truth.shape[1]).reshape(-1, BINS)
        self.ece = np.abs(error).sum(axis=1) / weight.sum()

    @cached_property
    def f1(self) -> Floats:
        """(K,) NaN where a class occurs neither in truth nor in answers."""
        return _share(2 * self.correct, self.support + self.predicted)


# What is measured of labels, by name; each entry has `of`, from a `Drawn` to a number. The order is that of reports.
METRICS: dict[str, Metric] = {
    "map": Metric(
        "Mean AP", True, "mean over the classes that occur of the area below precision against recall",
        lambda d: mean(d.ap), exact=True, always=True,
    ),
    "macro_f1": Metric(
        "Macro F1", True, "mean over the classes that occur of F1 at their thresholds, each class counting the same",
        lambda d: mean(d.f1), exact=True, always=True,
    ),
    "micro_f1": Metric(
        "Micro F1", True, "F1 of all labels of all classes together",
        lambda d: float(_share(2 * d.correct.sum(), d.support.sum() + d.predicted.sum())), exact=True, hub="f1",
    ),
    "exact_match": Metric(
        "Exact match", True, "share of images with all their labels found and no other", lambda d: d.exact, exact=True,
    ),
    "ece": Metric(
        "Calibration error", True, "mean over the classes of how far stated probabilities are from the truth"
        " (class-wise ECE, 15 bins)", lambda d: float(d.ece.mean()),
    ),
}  # fmt: skip


class LabelMeter(Meter):
    """Collects logits, probabilities and the labels that images have.

    Args:
        classes: K class names.
    """

    task = "multilabel"
    resamples = 200  # each ranks all images anew for every class

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self._answers: list[Labels] = []
        self._logits: list[NDArray[np.float32]] = []
        self._truths: list[Truth] = []

    def add(self, answer: Labels, truth: Truth, index: int) -> None:
        """Of answers without logits the probabilities rank and calibrate."""
        if answer.classes != self.classes:
            raise ValueError(f"the answer has the classes {answer.classes}, the meter {self.classes}.")
        self._answers.append(answer)
        self._logits.append(answer.probabilities if answer.logits is None else answer.logits)
        self._truths.append(truth)
        self._indices.append(int(index))

    def _arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32], Truth]:
        """Logits, probabilities and truth, (N, K) each, in the order of `indices`."""
        order, shape = self.order(), (len(self), len(self.classes))
        logits = np.array(self._logits, np.float32).reshape(shape)[order]
        probabilities = np.array([answer.probabilities for answer in self._answers], np.float32).reshape(shape)[order]
        return logits, probabilities, np.array(self._truths, bool).reshape(shape)[order]

    @property
    def thresholds(self) -> NDArray[np.float32]:
        """(K,) of the answers."""
        return self._answers[0].thresholds

    def images(self) -> PerImage:
        """What the metrics need of each image."""
        _, probabilities, truth = self._arrays()
        found = probabilities >= self.thresholds
        both, sizes = (truth & found).sum(axis=1), truth.sum(axis=1) + found.sum(axis=1)
        return PerImage(self.indices(), _share(2 * both, sizes, 1.0), truth, found, probabilities)

    def figures(self) -> dict[str, float]:
        """`loss`, the mean log loss of a label in nats, and `map` as a share."""
        logits, probabilities, truth = self._arrays()
        right = np.where(truth, probabilities, 1 - probabilities).astype(np.float64)
        ap = Ranked(logits, truth).average_precision(np.ones(len(self)))
        return {"loss": float(-np.log(right.clip(1e-12)).mean()), "map": float(np.nan_to_num(mean(ap)))}

    def fit(self) -> dict[str, Any]:
        """Temperature, offsets and thresholds."""
        logits, _, truth = self._arrays()
        temperature, offsets = fit_labels(logits, truth)
        thresholds = fit_thresholds(label_probabilities(logits, temperature, offsets), truth)
        self._answers = [
            Labels(self.classes, label_probabilities(own, temperature, offsets), thresholds) for own in self._logits
        ]
        return {
            "temperature": temperature,
            "offsets": tuple(offsets.tolist()),
            "thresholds": tuple(thresholds.tolist()),
        }

    def counter(self) -> Callable[[Weights | None], Drawn]:
        logits, _, truth = self._arrays()
        images, ranked = self.images(), Ranked(logits, truth)
        return lambda weights: Drawn(images, ranked, weights)

    def image_scores(self) -> Floats:
        """(N,) F1 of the labels of each image."""
        return self.images().f1

    def truths(self) -> int:
        """How many labels there are."""
        return int(sum(truth.sum() for truth in self._truths))

    def results(self, seed: int, resamples: int) -> dict[str, Any]:
        counted, images = self.counter(), self.images()
        point, *redrawn = [counted(None), *map(counted, draws(len(images), seed=seed, resamples=resamples))]
        return {
            "metrics": measured(METRICS, point, redrawn, len(images)),
            "per_class": self._per_class(point, redrawn),
            "reliability": _reliability(images),
            "images": images,
            "settings": {"labels_an_image": float(images.truth.sum() / len(images))},
        }

    def _per_class(self, point: Drawn, redrawn: Sequence[Drawn]) -> tuple[LabelScores, ...]:
        support, predicted, correct = (part.astype(int) for part in (point.support, point.predicted, point.correct))
        scores: dict[str, tuple[Callable[[Drawn], Floats], NDArray[np.int64]]] = {
            "ap": (lambda d: d.ap, support),
            "precision": (lambda d: _share(d.correct, d.predicted), predicted),
            "recall": (lambda d: _share(d.correct, d.support), support),
            "f1": (lambda d: d.f1, support),
        }
        columns = [
            intervals(of(point), np.array([of(draw) for draw in redrawn]), np.maximum(trials, 1))
            for of, trials in scores.values()
        ]
        numbers = (part.tolist() for part in (support, predicted, correct, self.thresholds))
        return tuple(
            LabelScores(*row) for row in zip(self.classes, *numbers, *columns, point.ece.tolist(), strict=True)
        )


def _reliability(images: PerImage) -> tuple[Any, ...]:
    """The bins of the probability, of all classes of all images."""
    place, chance = bin_of(images.probabilities).ravel(), images.probabilities.ravel()
    return bins(
        np.bincount(place, minlength=BINS), np.bincount(place, chance, BINS),
        np.bincount(place, images.truth.ravel(), BINS),
    )  # fmt: skip


def _share(part: Any, whole: Any, nothing: float = np.nan) -> Any:
    """part / whole, `nothing` where there is nothing to count."""
    return np.divide(part, whole, out=np.full(np.shape(whole), nothing), where=np.asarray(whole) > 0)
