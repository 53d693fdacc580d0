"""How good a model is: metrics with intervals, calibration, and the comparison of two models."""

from __future__ import annotations

from dualtoken.evaluation.comparison import Comparison, compare
from dualtoken.evaluation.run import evaluate, evaluation_of
from dualtoken.metrics.calibration import fit_temperature
from dualtoken.outputs import Evaluation

__all__ = ["Comparison", "Evaluation", "compare", "evaluate", "evaluation_of", "fit_temperature"]
