"""Probabilities and thresholds of labels: one slope for all classes, an offset and a threshold for each.

Losses for rare classes move the logits of a class up or down, and many classes are rare: Platt's method (1999) with one
slope for all, so that few examples decide about an offset alone, and with his targets, which keep it finite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.calibration import HIGHEST, LOWEST
from dualtoken.errors import DataError
from dualtoken.postprocess import sigmoid

_STEPS, _CLOSE = 60, 1e-7
_NO_THRESHOLD = 0.5  # of a class that no image has

Floats = NDArray[np.float64]


def label_probabilities(
    logits: NDArray[np.float32], temperature: float, offsets: NDArray[np.float64] | tuple[float, ...]
) -> NDArray[np.float32]:
    """sigmoid(logits / temperature + offsets) of logits (..., K); no offsets are 0."""
    return sigmoid(logits.astype(np.float64) / temperature + (np.asarray(offsets) if len(offsets) else 0.0))


def fit_labels(logits: NDArray[np.float32], truth: NDArray[np.bool_]) -> tuple[float, Floats]:
    """The temperature, from 0.05 to 20, and the offsets (K,) that make the log loss of the probabilities smallest.

    Newton's steps on the loss, which is convex in 1 / temperature and the offsets; each step is halved until the loss
    falls. Where a class has P images and N without it, the targets are (P + 1) / (P + 2) and 1 / (N + 2).

    Args:
        logits: (N, K), of images that the network was not trained on.
        truth: (N, K), which classes each image has.

    Raises:
        DataError: there are no images.
    """
    if len(truth) == 0:
        raise DataError("There are no images to fit the calibration on.")
    z, have = logits.astype(np.float64), truth.sum(axis=0)
    target = np.where(truth, (have + 1) / (have + 2), 1 / (len(truth) - have + 2))

    def loss(slope: float, offsets: Floats) -> float:
        score = slope * z + offsets
        return float((np.logaddexp(0, score) - target * score).sum())

    slope, offsets = 1.0, np.zeros(z.shape[1])
    now = loss(slope, offsets)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(slope * z + offsets).clip(-700, 700)))
        gap, bend = p - target, p * (1 - p) + 1e-12
        own, mixed = (
            bend.sum(axis=0),
            (bend * z).sum(axis=0),
        )  # second derivatives by an offset, and by it and the slope
        slopes = gap.sum(axis=0)
        rest = (bend * z * z).sum() - (mixed**2 / own).sum()
        by_slope = ((gap * z).sum() - (mixed * slopes / own).sum()) / max(rest, 1e-12)
        by_offset = (slopes - mixed * by_slope) / own
        share = 1.0
        while share > 1e-6:
            tried = float(np.clip(slope - share * by_slope, 1 / HIGHEST, 1 / LOWEST)), offsets - share * by_offset
            following = loss(*tried)
            if following < now:
                break
            share /= 2
        else:
            break
        (slope, offsets), before, now = tried, now, following
        if before - now < _CLOSE * now:
            break
    return 1 / slope, offsets


def fit_thresholds(probabilities: NDArray[np.float32], truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(K,) the threshold of each class with the best F1, halfway to the next lower probability, so that rounding in
    another engine decides nothing; 0.5 where no image has the class.

    Args:
        probabilities, truth: (N, K).
    """
    thresholds = np.full(truth.shape[1], _NO_THRESHOLD, np.float32)
    for label in np.flatnonzero(truth.any(axis=0)).tolist():
        order = np.argsort(-probabilities[:, label], kind="stable")
        score, right = probabilities[order, label].astype(np.float64), truth[order, label]
        f1 = 2 * np.cumsum(right) / (np.arange(1, len(right) + 1) + right.sum())
        f1[:-1][score[1:] == score[:-1]] = 0  # equal scores are above a threshold all or none
        best = int(f1.argmax())
        thresholds[label] = (score[best] + (score[best + 1] if best + 1 < len(score) else 0.0)) / 2
    return thresholds
