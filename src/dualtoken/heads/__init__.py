"""Feature maps to raw outputs: torchvision's detectors and segmentation_models.pytorch's decoders.

A new head is a function in one of the files here and a line in its table; from outside `register_detector`, or a line
in `DECODERS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualtoken.heads.decoders import DECODERS
from dualtoken.registry import lazily

if TYPE_CHECKING:
    from dualtoken.heads.body import Body
    from dualtoken.heads.detection import DETECTORS, Detector, make_detector, register_detector
    from dualtoken.heads.segmentation import Segmenter, make_segmenter

_HOMES = {
    "Body": "body", "DETECTORS": "detection", "Detector": "detection", "make_detector": "detection",
    "register_detector": "detection", "Segmenter": "segmentation", "make_segmenter": "segmentation",
}  # fmt: skip

__all__ = [
    "DECODERS",
    "DETECTORS",
    "Body",
    "Detector",
    "Segmenter",
    "make_detector",
    "make_segmenter",
    "register_detector",
]

# Import torch when a network is made: the names of heads are known without it.
__getattr__ = lazily(__name__, _HOMES)
