"""Where a network looks: heat maps of any model, each with proofs of its worth, and the attention of ours.

The room's files, in the order of the work: `targets` (what is asked about), `levels` (where maps are read), `heat` (the
maps, by captum), `faithfulness` (what they are worth), `attention` (what the global tokens do), `figure`, `run`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualtoken.explanation.results import Explanation
    from dualtoken.explanation.run import explain, explain_each

_HOMES = {"Explanation": "results", "explain": "run", "explain_each": "run"}

__all__ = ["Explanation", "explain", "explain_each"]


def __getattr__(name: str) -> Any:
    """Import what is used: settings can be checked without torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"dualtoken.explanation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dualtoken.explanation' has no attribute {name!r}")
