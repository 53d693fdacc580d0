"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599): one number that makes probabilities honest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import DataError

LOWEST, HIGHEST = 0.05, 20.0
_STEPS, _CLOSE = 50, 1e-7
_ROWS = 256  # images at a time: few enough for the processor's cache


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature T that makes the mean log loss of softmax(logits / T) smallest, from 0.05 to 20.

    The loss is convex in 1 / T, so its slope has one zero; Newton's steps find it, kept inside a bracket that
    shrinks. The result is never worse than 1. It is 1 where every answer is right: then nothing tells how
    sure is too sure, and the loss would fall without end as T goes to 0.

    Args:
        logits: (N, K), of images that the network was not trained on.
        labels: (N,), index of the right class.

    Raises:
        DataError: there are no images.
    """
    if len(labels) == 0:
        raise DataError("There are no images to fit the temperature on.")
    if (logits.argmax(axis=1) == labels).all():
        return 1.0
    low, high = 1 / HIGHEST, 1 / LOWEST  # of 1 / T
    inverse = 1.0
    for _ in range(_STEPS):
        slope, bend = _slope_and_bend(logits, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / bend if bend > 0 else (low + high) / 2
        following = step if low < step < high else (low + high) / 2
        if abs(following - inverse) < _CLOSE * inverse:
            break
        inverse = following
    return float(1 / inverse)


def _slope_and_bend(logits: NDArray[np.float32], labels: NDArray[np.int64], inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean log loss by 1 / T.

    With p = softmax(logits / T) they are the means of E_p[z] - z_label and Var_p[z].
    """
    slope = bend = 0.0
    for start in range(0, len(labels), _ROWS):
        z = logits[start : start + _ROWS].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z * inverse)
        total = p.sum(axis=1)
        p *= z
        mean = p.sum(axis=1) / total
        p *= z
        slope += (mean - z[np.arange(len(z)), labels[start : start + _ROWS]]).sum()
        bend += (p.sum(axis=1) / total - mean**2).sum()
    return slope / len(labels), bend / len(labels)
