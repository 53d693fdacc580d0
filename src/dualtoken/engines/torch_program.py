"""torch.export's own files (.pt2): the graph and its weights, for torch without our code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.engines import ENGINES, EngineKind
from dualtoken.errors import ModelError, first_line, require


class ProgramEngine:
    """The parts of an export in torch, on the CPU; `threads` are torch's in this process from now on."""

    def __init__(self, files: Mapping[str, Path], *, threads: int | None = None) -> None:
        self._torch: Any = require("torch", "train")
        require("torchvision", "train")  # the graphs of detectors use its operators
        if threads is not None:
            self._torch.set_num_threads(threads)
        self._modules = {part: self._load(path) for part, path in files.items()}

    def run(self, part: str, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Arrays in, in the order of the file's inputs, arrays out."""
        tensors = [self._torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
        with self._torch.inference_mode():
            found = self._modules[part](*tensors)
        return [tensor.numpy() for tensor in (found if isinstance(found, tuple | list) else [found])]

    def _load(self, path: Path) -> Any:
        try:
            return self._torch.export.load(path).module()
        except Exception as error:  # of many kinds, none of its own
            raise ModelError(
                f"torch {self._torch.__version__} cannot load {str(path)!r}: {first_line(error)}.",
                "Export it again with this version.",
            ) from error


ENGINES["torch"] = EngineKind(
    (".pt2",), "torch", "train", ProgramEngine,
    runs_code="torch.export.load unpickles parts of such a file and evaluates text in it", also=("torchvision",),
)  # fmt: skip
