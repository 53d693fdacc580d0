"""Classes: one of them for the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.agreement import ClassAgreement
from dualtoken.answers.kinds import Described, Kind, Size, register, require_shape
from dualtoken.engines import Engine
from dualtoken.outputs import Classification
from dualtoken.postprocess import require_finite, softmax


@register
class Classes(Kind):
    """Logits (B, K) become probabilities that sum to 1."""

    name = "classification"

    def outputs(self, config: Described, engine: Engine, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, K), before the temperature."""
        (logits,) = engine.run("network", [images])
        require_shape(logits, (len(images), len(config.classes)), 2)
        require_finite(logits)
        return logits

    def read(self, config: Described, raw: NDArray[np.float32], sizes: Sequence[Size]) -> list[Classification]:
        require_finite(raw)
        return [Classification(config.classes, row) for row in softmax(raw, config.temperature)]

    def agreement(self, config: Described, limit: float) -> ClassAgreement:
        return ClassAgreement(limit)
