"""ExecuTorch's files (.pte), for phones and boards, in its runtime for Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.engines import ENGINES, EngineKind
from dualtoken.errors import ModelError, require


class ExecutorchEngine:
    """The parts of an export in ExecuTorch's runtime for Python; `threads` are not a choice of it."""

    def __init__(self, files: Mapping[str, Path], *, threads: int | None = None) -> None:
        require("torch", "executorch")
        require("executorch.runtime", "executorch")
        from executorch.runtime import Runtime

        runtime = Runtime.get()
        self._methods: dict[str, Any] = {}
        for part, path in files.items():
            try:
                self._methods[part] = runtime.load_program(str(path)).load_method("forward")
            except RuntimeError as error:
                raise ModelError(f"ExecuTorch cannot load {str(path)!r}: {error}.", "Export it again.") from error

    def run(self, part: str, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Arrays in, in the order of the file's inputs, arrays out."""
        import torch

        found = self._methods[part].execute([torch.from_numpy(np.ascontiguousarray(array)) for array in inputs])
        return [tensor.clone().numpy() for tensor in found]  # the next run writes over its own


ENGINES["executorch"] = EngineKind((".pte",), "executorch", "executorch", ExecutorchEngine, also=("torch",))
