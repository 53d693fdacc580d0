"""Where a network looks: heat maps of any model, each with proofs of its worth, and the attention of ours.

The room's files, in the order of the work: `targets` (what is asked about), `levels` (where maps are read), `heat` (the
maps, by captum), `faithfulness` (what they are worth), `attention` (what the global tokens do), `figure`, `run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualtoken.registry import lazily

if TYPE_CHECKING:
    from dualtoken.explanation.results import Explanation
    from dualtoken.explanation.run import explain, explain_each

_HOMES = {"Explanation": "results", "explain": "run", "explain_each": "run"}

__all__ = ["Explanation", "explain", "explain_each"]

# Import what is used: settings can be checked without torch.
__getattr__ = lazily(__name__, _HOMES)
