"""How good a model is: metrics with intervals, and the comparison of two models."""

from __future__ import annotations

from dualtoken.answers import Comparison, Evaluation
from dualtoken.evaluation.measuring import compare, evaluate, evaluation_of, measure

__all__ = ["Comparison", "Evaluation", "compare", "evaluate", "evaluation_of", "measure"]
