"""One loop for every task, on Lightning Fabric. Start reading at run.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dualtoken.training.config import TrainConfig

if TYPE_CHECKING:
    from dualtoken.training.run import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    """Import torch only when something is trained: a mistyped setting is answered at once."""
    if name in __all__:
        from dualtoken.training import run

        return getattr(run, name)
    raise AttributeError(f"module 'dualtoken.training' has no attribute {name!r}")
