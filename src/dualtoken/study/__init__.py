"""Experiments that compare: many runs of one recipe that differ in one thing. Start reading at run.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dualtoken.study.plans import SCALES, STUDIES, Plan, make_plan

if TYPE_CHECKING:
    from dualtoken.study.run import StudyResult, study

__all__ = ["SCALES", "STUDIES", "Plan", "StudyResult", "make_plan", "study"]


def __getattr__(name: str) -> Any:
    """Import torch only when something is trained: a mistyped arm is answered at once."""
    if name in ("StudyResult", "study"):
        from dualtoken.study import run

        return getattr(run, name)
    raise AttributeError(f"module 'dualtoken.study' has no attribute {name!r}")
