"""Pictures, tables and pages of what was measured and predicted. Nothing here computes a metric or runs a network."""

from __future__ import annotations

from dualtoken.report.html import evaluation_report, training_report
from dualtoken.report.mosaics import batch_mosaic
from dualtoken.report.results import write_evaluation, write_scene_evaluation
from dualtoken.report.scene_report import scene_evaluation_report, scene_training_report
from dualtoken.report.sheet_files import sheet_files
from dualtoken.report.sheets import contact_sheet
from dualtoken.report.tables import prediction_table, print_table, to_json_line

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
