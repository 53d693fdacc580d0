"""What predict returns for one image: plain results, checked on creation, in numpy only."""

from __future__ import annotations

from typing import Any

from dualtoken.errors import ImageError
from dualtoken.outputs.classification import Classification
from dualtoken.outputs.common import Bin, Interval, Metric
from dualtoken.outputs.detections import Detections
from dualtoken.outputs.labels import Labels
from dualtoken.outputs.segmentation import Segmentation

# What a stream of predictions yields: an image's answer, of whatever kind the model gives, or the name of one that
# could not be read and why.
Answer = Any | tuple[str, ImageError]

__all__ = ["Answer", "Bin", "Classification", "Detections", "Interval", "Labels", "Metric", "Segmentation"]
