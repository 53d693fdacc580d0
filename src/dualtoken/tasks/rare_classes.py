"""Losses for data in which some classes are rare: weights of classes, focal, asymmetric and logit-adjusted losses.

What each does to the logits of a class the calibration on `val` takes back as far as it can; ranking is what it is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

GAMMA = 2.0  # of the focal loss (Lin et al. 2017, arXiv 1708.02002)
ASYMMETRIC = (0.0, 4.0, 0.05)  # gammas of positives and negatives, margin (Ridnik et al. 2021, arXiv 2009.14119)

Floats = NDArray[np.float64]


class Seen(NamedTuple):
    """The training images: (K,) how many have each class, and how many there are."""

    counts: NDArray[np.int64]
    images: int


def effective(counts: NDArray[np.integer]) -> Floats:
    """(K,) effective numbers (1 - b^n) / (1 - b) (Cui et al. 2019, arXiv 1901.05555), b = 1 - 1 / mean of the counts.

    A class of the mean size counts for 0.63 of its images, and no class for more than that mean.
    """
    b = 1 - 1 / max(2.0, float(np.mean(counts)))
    return np.asarray((1 - b ** counts.astype(np.float64)) / (1 - b))


# How many images a class counts for, by the name of `class_weights`; the weight of a class is the inverse of it.
SIZES: dict[str, Callable[[NDArray[np.integer]], Floats]] = {
    "inverse": lambda counts: counts.astype(np.float64), "effective": effective,
}  # fmt: skip


def class_weights(name: str, seen: Seen) -> Floats | None:
    """(K,) weights of classes that exclude each other, of mean 1 over the training images; None for `none`."""
    if name not in SIZES:
        return None
    weights = 1 / SIZES[name](np.maximum(seen.counts, 1))
    return np.asarray(weights * seen.counts.sum() / (weights * seen.counts).sum())


def positive_weights(name: str, seen: Seen) -> Floats | None:
    """(K,) weights of the images that have a class beside those that have it not, which count 1; None for `none`."""
    if name not in SIZES:
        return None
    there = np.maximum(seen.counts, 1)
    without, having = (SIZES[name](part) for part in (np.maximum(seen.images - there, 1), there))
    return np.asarray(without / having)


def log_priors(seen: Seen, *, exclusive: bool) -> Floats:
    """(K,) what a logit-adjusted loss adds in training (Menon et al. 2021, arXiv 2007.07314): the logarithm of a
    class's share, or of its odds where an image may have several."""
    there = np.clip(seen.counts, 0.5, seen.images - 0.5) / max(seen.images, 1)
    return np.asarray(np.log(there) if exclusive else np.log(there / (1 - there)))


def focal_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the images of -sum t (1 - p)^gamma ln p of softmax probabilities p; (B, K) logits and shares t."""
    logs = logits.log_softmax(1)
    terms = targets * (1 - logs.exp()) ** GAMMA * logs
    return -(terms if weights is None else terms * weights).sum(1).mean()


def binary_loss(
    logits: Tensor, targets: Tensor, shape: tuple[float, float, float], weights: Tensor | None = None
) -> Tensor:
    """Mean over images and classes of -t w (1 - p)^a ln p - (1 - t) q^b ln(1 - q), with q = max(p - margin, 0).

    Args:
        logits: (B, K).
        targets: (B, K) t, from 0 to 1.
        shape: a, b and the margin; all 0 are the binary cross-entropy.
        weights: (K,) w.
    """
    positive, negative, margin = shape
    p = logits.sigmoid()
    shifted = (p - margin).clamp(min=0)
    found, not_found = F.logsigmoid(logits), (-shifted).log1p() if margin else F.logsigmoid(-logits)
    found, not_found = found * (1 - p) ** positive, not_found * shifted**negative
    return -(targets * found * (1 if weights is None else weights) + (1 - targets) * not_found).mean()
