"""What predict and evaluate return: plain results, checked on creation, in numpy only."""

from __future__ import annotations

from dualtoken.errors import ImageError
from dualtoken.outputs.classification import METRICS, Classification, ClassScores, Confused, Evaluation, PerImage
from dualtoken.outputs.common import Bin, Interval, Metric

# What a stream of predictions yields: an image's answer, or the name of one that could not be read and why.
Answer = Classification | tuple[str, ImageError]

__all__ = [
    "METRICS",
    "Answer",
    "Bin",
    "ClassScores",
    "Classification",
    "Confused",
    "Evaluation",
    "Interval",
    "Metric",
    "PerImage",
]
