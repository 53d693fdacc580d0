"""Core ML's packages (.mlpackage): they can be written anywhere, and run in an app on Apple's machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dualtoken.engines import ENGINES, Engine, EngineKind
from dualtoken.errors import ModelError

_ELSEWHERE = "Core ML runs on Apple's machines, in an app: see docs/export.md."


def _open(files: Mapping[str, Path], *, threads: int | None = None) -> Engine:
    raise ModelError(f"{str(files['network'])!r} cannot be run here.", _ELSEWHERE)


ENGINES["coreml"] = EngineKind((".mlpackage",), "coremltools", "coreml", _open, elsewhere=_ELSEWHERE)
