"""Trained models for other engines, with proof that they answer the same.

dualtoken.export("runs/photos", "photos.onnx").parity.line()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import what is used: listing formats, and writing a bundle, needs no torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"dualtoken.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dualtoken.export' has no attribute {name!r}")
