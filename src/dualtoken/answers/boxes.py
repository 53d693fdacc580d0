"""Boxes: where the objects are, and of which class; instances: with a mask each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dualtoken.answers.agreement import ObjectAgreement
from dualtoken.answers.kinds import Described, Kind, Size, register
from dualtoken.decode import DetectorSpec, Found, detect
from dualtoken.engines import Engine
from dualtoken.outputs import Detections
from dualtoken.postprocess import place_masks, require_finite
from dualtoken.preprocess import Preprocessing


@register
class Boxes(Kind):
    """Boxes of the network's input become boxes of the image."""

    name = "detection"

    def outputs(self, config: Described, engine: Engine, images: NDArray[np.float32]) -> list[Found]:
        """What `decode.detect` gives: boxes of the input, an entry an image."""
        return detect(_spec(config), engine, images)

    def read(self, config: Described, raw: Sequence[Found], sizes: Sequence[Size]) -> list[Detections]:
        return [
            _placed(config.classes, found, size, config.preprocessing) for found, size in zip(raw, sizes, strict=True)
        ]

    def agreement(self, config: Described, limit: float) -> ObjectAgreement:
        return ObjectAgreement(limit, _spec(config), config.threshold)


@register
class Instances(Boxes):
    """As boxes, with a mask for each object."""

    name = "instance_segmentation"


def _spec(config: Described) -> DetectorSpec:
    return DetectorSpec.of(config.head, len(config.classes), config.head_args)


def _placed(classes: tuple[str, ...], found: Found, size: Size, preprocessing: Preprocessing) -> Detections:
    require_finite(found["boxes"], found["scores"])
    height, width = size
    boxes = preprocessing.placement(size).to_image(found["boxes"])
    inside = boxes.clip(0, np.array([width, height, width, height], np.float32))
    good = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])  # not all in the border
    masks, corners = (
        place_masks(found["masks"][good], boxes[good], size) if "masks" in found else (None, None)
    )  # of the whole boxes: a mask lies where its box did, before the image cuts it
    scores, labels = found["scores"][good].clip(0, 1), found["labels"][good].astype(np.int64)
    return Detections(classes, size, inside[good], scores, labels, masks, corners)
