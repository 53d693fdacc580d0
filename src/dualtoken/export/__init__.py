"""Trained models for other engines, with proof that they answer the same.

dualtoken.export("runs/photos", "photos.onnx").parity.line()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualtoken.registry import lazily

if TYPE_CHECKING:
    from dualtoken.export.check import verify
    from dualtoken.export.formats import FORMATS, Format
    from dualtoken.export.formats.onnx import export_network
    from dualtoken.export.parity import Parity
    from dualtoken.export.run import ExportResult, export

_HOMES = {
    "FORMATS": "formats",
    "ExportResult": "run",
    "Format": "formats",
    "Parity": "parity",
    "export": "run",
    "export_network": "formats.onnx",
    "verify": "check",
}

__all__ = ["FORMATS", "ExportResult", "Format", "Parity", "export", "export_network", "verify"]

# Import what is used: listing formats, and writing a bundle, needs no torch.
__getattr__ = lazily(__name__, _HOMES)
