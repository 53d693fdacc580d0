"""From raw outputs to answers, in numpy: evaluation, prediction and every other engine share these bits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import ConfigError


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float32]:
    """Probabilities of logits (K,) or (N, K), along the last axis: softmax(logits / temperature).

    Computed in float64 and from the largest logit down, so that nothing overflows.

    Raises:
        ConfigError: the temperature is not a finite number above 0.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature is {temperature}, expected a finite number above 0.")
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
