"""Kinds of answers: how raw outputs are read, judged, compared and told. Nothing here needs torch."""

from __future__ import annotations

import importlib
import pkgutil

from dualtoken.answers.comparison import Comparison, compare_meters
from dualtoken.answers.evaluation import Evaluation
from dualtoken.answers.kinds import KINDS, Kind, kind_of, register
from dualtoken.answers.meter import Meter

for _module in pkgutil.iter_modules(__path__):  # each file of a kind puts it into KINDS
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["KINDS", "Comparison", "Evaluation", "Kind", "Meter", "compare_meters", "kind_of", "register"]
