"""Pictures, tables and pages of what was measured and predicted. Nothing here computes a metric or runs a network."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dualtoken.report.sheet_files import sheet_files
from dualtoken.report.sheets import contact_sheet
from dualtoken.report.tables import prediction_table, print_table, to_json_line

if TYPE_CHECKING:
    from dualtoken.report.html import evaluation_report, training_report
    from dualtoken.report.mosaics import batch_mosaic
    from dualtoken.report.results import write_evaluation, write_scene_evaluation
    from dualtoken.report.scene_report import scene_evaluation_report, scene_training_report

_HOMES = {
    "batch_mosaic": "mosaics",
    "evaluation_report": "html",
    "scene_evaluation_report": "scene_report",
    "scene_training_report": "scene_report",
    "training_report": "html",
    "write_evaluation": "results",
    "write_scene_evaluation": "results",
}

__all__ = [
    "batch_mosaic",
    "contact_sheet",
    "evaluation_report",
    "prediction_table",
    "print_table",
    "scene_evaluation_report",
    "scene_training_report",
    "sheet_files",
    "to_json_line",
    "training_report",
    "write_evaluation",
    "write_scene_evaluation",
]


def __getattr__(name: str) -> Any:
    """Import plots and pages when they are used: they need matplotlib and jinja2, tables and pictures do not."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"dualtoken.report.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dualtoken.report' has no attribute {name!r}")
