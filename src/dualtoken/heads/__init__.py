"""Feature maps to raw outputs: torchvision's detectors and segmentation_models.pytorch's decoders.

A new head is a function in one of the files here and a line in its table.
"""

from __future__ import annotations

from dualtoken.heads.body import Body
from dualtoken.heads.detection import DETECTORS, Detector, make_detector
from dualtoken.heads.segmentation import DECODERS, Segmenter, make_segmenter

__all__ = ["DECODERS", "DETECTORS", "Body", "Detector", "Segmenter", "make_detector", "make_segmenter"]
