"""Kinds of answers: how raw outputs are read, judged, compared and told. Nothing here needs torch."""

from __future__ import annotations

from dualtoken.answers.comparison import Comparison, compare_meters
from dualtoken.answers.evaluation import Evaluation
from dualtoken.answers.kinds import CLASSIFIER, KINDS, Kind, kind_of, register
from dualtoken.answers.meter import Meter

__all__ = ["CLASSIFIER", "KINDS", "Comparison", "Evaluation", "Kind", "Meter", "compare_meters", "kind_of", "register"]
