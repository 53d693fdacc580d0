"""Regions: a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.agreement import PixelAgreement
from dualtoken.answers.kinds import Described, Kind, Size, register, require_shape
from dualtoken.engines import Engine
from dualtoken.outputs import Segmentation
from dualtoken.postprocess import regions, require_finite


@register
class Regions(Kind):
    """Logits (B, K, H, W) of the input become the classes of the image's pixels."""

    name = "semantic_segmentation"

    def outputs(self, config: Described, engine: Engine, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, K, H, W)."""
        (logits,) = engine.run("network", [images])
        require_shape(logits, (len(images), len(config.classes)), 4)
        require_finite(logits)
        return logits

    def read(self, config: Described, raw: NDArray[np.float32], sizes: Sequence[Size]) -> list[Segmentation]:
        require_finite(raw)
        return [
            Segmentation(config.classes, *regions(maps, config.preprocessing.placement(size), size, config.temperature))
            for maps, size in zip(raw, sizes, strict=True)
        ]

    def agreement(self, config: Described, limit: float) -> PixelAgreement:
        return PixelAgreement(limit)
