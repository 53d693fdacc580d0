"""What predict and evaluate return: plain results, checked on creation, in numpy only."""

from __future__ import annotations

from dualtoken.errors import ImageError
from dualtoken.outputs.classification import METRICS, Classification, ClassScores, Confused, Evaluation, PerImage
from dualtoken.outputs.common import Bin, Interval, Metric
from dualtoken.outputs.detections import Detections
from dualtoken.outputs.mask_evaluation import SEGMENTATION_METRICS, RegionScores, SegmentationEvaluation
from dualtoken.outputs.object_evaluation import DETECTION_METRICS, DetectionEvaluation, ObjectScores
from dualtoken.outputs.segmentation import Segmentation

# What a stream of predictions yields: an image's answer, or the name of one that could not be read and why.
Answer = Classification | Detections | Segmentation | tuple[str, ImageError]

__all__ = [
    "DETECTION_METRICS",
    "METRICS",
    "SEGMENTATION_METRICS",
    "Answer",
    "Bin",
    "ClassScores",
    "Classification",
    "Confused",
    "DetectionEvaluation",
    "Detections",
    "Evaluation",
    "Interval",
    "Metric",
    "ObjectScores",
    "PerImage",
    "RegionScores",
    "Segmentation",
    "SegmentationEvaluation",
]
