"""Pictures, tables and pages of what was measured and predicted. Nothing here computes a metric or runs a network."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dualtoken.report.sheets import contact_sheet, sheet_files
from dualtoken.report.tables import prediction_table, print_table, to_json_line

if TYPE_CHECKING:
    from dualtoken.report.mosaics import batch_mosaic

__all__ = ["batch_mosaic", "contact_sheet", "prediction_table", "print_table", "sheet_files", "to_json_line"]


def __getattr__(name: str) -> Any:
    """Import pictures of batches when they are used."""
    if name == "batch_mosaic":
        return importlib.import_module("dualtoken.report.mosaics").batch_mosaic
    raise AttributeError(f"module 'dualtoken.report' has no attribute {name!r}")
