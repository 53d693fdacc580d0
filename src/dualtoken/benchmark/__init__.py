"""Measured figures as rows: one JSON object a line, with the command and machine that made it.

`run.py` is the story of `dualtoken benchmark`: models side by side. `growth.py` and `accuracy.py` are run as modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualtoken.benchmark.run import benchmark
    from dualtoken.benchmark.tables import print_rows

__all__ = ["benchmark", "print_rows"]


def __getattr__(name: str) -> Any:
    """Import when first used: a worker holds its engine and nothing else."""
    if name == "benchmark":
        from dualtoken.benchmark.run import benchmark

        return benchmark
    if name == "print_rows":
        from dualtoken.benchmark.tables import print_rows

        return print_rows
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
