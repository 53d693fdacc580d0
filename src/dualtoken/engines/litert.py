"""LiteRT's files (.tflite), for phones and browsers, in its interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.engines import ENGINES, EngineKind
from dualtoken.errors import ModelError, require


class LitertEngine:
    """The parts of an export in LiteRT's interpreter."""

    def __init__(self, files: Mapping[str, Path], *, threads: int | None = None) -> None:
        interpreter = require("ai_edge_litert.interpreter", "litert")
        self._runners: dict[str, Any] = {}
        for part, path in files.items():
            try:
                loaded = interpreter.Interpreter(model_path=str(path), num_threads=threads)
                loaded.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise ModelError(f"LiteRT cannot load {str(path)!r}: {error}.", "Export it again.") from error
            self._runners[part] = loaded

    def run(self, part: str, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Arrays in, in the order of the file's inputs, arrays out."""
        runner = self._runners[part]
        for detail, array in zip(_in_order(runner.get_input_details()), inputs, strict=True):
            runner.set_tensor(detail["index"], np.ascontiguousarray(array, detail["dtype"]))
        runner.invoke()
        return [runner.get_tensor(detail["index"]) for detail in _in_order(runner.get_output_details())]


def _in_order(details: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By the number at the end of their names: the interpreter lists them in any order."""

    def number(detail: dict[str, Any]) -> int:
        digits = detail["name"].split(":")[0].rpartition("_")[2]
        return int(digits) if digits.isdigit() else 0

    return sorted(details, key=number)


ENGINES["litert"] = EngineKind((".tflite",), "ai_edge_litert", "litert", LitertEngine)
