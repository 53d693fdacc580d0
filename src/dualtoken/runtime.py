"""Exported models without torch: a file and images to answers, with numpy, pillow and an engine.

model = dualtoken.runtime.load("model.onnx")
model.predict("photo.jpg").label

A short name for what `engines`, `prediction` and `export` do; `load` is `dualtoken.load`.
"""

from __future__ import annotations

from dualtoken.engines import ENGINES
from dualtoken.export.bundle import write_bundle
from dualtoken.prediction.exported import ExportInfo, read_export
from dualtoken.prediction.models import load

__all__ = ["ENGINES", "ExportInfo", "load", "read_export", "write_bundle"]
