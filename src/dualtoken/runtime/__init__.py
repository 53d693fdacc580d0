"""Exported models without torch: a file and images to answers, with numpy, pillow and an engine.

model = dualtoken.runtime.load("model.onnx")
model.predict("photo.jpg").label
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualtoken.runtime.bundle import write_bundle
    from dualtoken.runtime.loading import ENGINES, ExportedModel, load
    from dualtoken.runtime.metadata import ExportInfo

_HOMES = {
    "ENGINES": "loading",
    "ExportInfo": "metadata",
    "ExportedModel": "loading",
    "load": "loading",
    "write_bundle": "bundle",
}

__all__ = ["ENGINES", "ExportInfo", "ExportedModel", "load", "write_bundle"]


def __getattr__(name: str) -> Any:
    """Import what is used; an engine's package is imported by `load`, for the file at hand."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"dualtoken.runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dualtoken.runtime' has no attribute {name!r}")
