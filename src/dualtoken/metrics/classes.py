"""What is counted from logits and labels: numpy only, and one function for a sample and for its resamples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.outputs import Bin, PerImage
from dualtoken.postprocess import softmax

BINS = 15  # equal in width, as in Guo et al. 2017 (arXiv 1706.04599)
_ROWS = 4096  # images at a time: float64 copies of all logits would not fit

Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class Scores:
    """All metrics of one weighted sample; NaN where a class has no images to count.

    Attributes:
        metrics: keys of `outputs.METRICS`.
        precision, recall, f1: (K,).
    """

    metrics: dict[str, float]
    precision: Floats
    recall: Floats
    f1: Floats


def scores(images: PerImage, classes: int, weights: NDArray[np.int64] | None = None) -> Scores:
    """Metrics of `images`, each counted `weights` times (N,), once if not given.

    Macro F1 is the mean over the classes that occur in truth or answers.
    """
    counts = np.ones(len(images)) if weights is None else weights.astype(np.float64)
    total, hits = counts.sum(), counts * images.correct
    support = np.bincount(images.label, counts, classes)
    predicted = np.bincount(images.predicted, counts, classes)
    correct = np.bincount(images.label, hits, classes)
    f1 = _share(2 * correct, support + predicted)
    gaps = np.bincount(bin_of(images.score), counts * images.score - hits, BINS)
    metrics = {
        "top1": hits.sum() / total,
        "top5": counts[images.rank < 5].sum() / total,
        "macro_f1": np.nanmean(f1),
        "nll": (counts * images.nll).sum() / total,
        "ece": np.abs(gaps).sum() / total,
    }
    if classes <= 5:
        del metrics["top5"]  # it is always 1
    return Scores(
        {name: float(value) for name, value in metrics.items()},
        precision=_share(correct, predicted),
        recall=_share(correct, support),
        f1=f1,
    )


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
