"""ExecuTorch's files (.pte), for phones and boards: lowered to XNNPACK, which runs on any CPU; and their engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import ModelError, require

if TYPE_CHECKING:
    from dualtoken.export.pieces import Piece

EXPORTER = "executorch, XNNPACK"
PACKAGES = ("torch", "executorch")
DYNAMIC_BATCH = False  # XNNPACK plans its memory for one shape; boxes of detectors come one at a time too


def write(piece: Piece, path: Path) -> None:
    """Write one network of a model, for one image at a time.

    Raises:
        MissingExtraError: executorch is not installed.
    """
    from dualtoken.export.pieces import silence

    with silence():
        require("executorch.exir", "executorch")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it reports every operator that it leaves to the CPU
    try:
        with silence():
            program = to_edge_transform_and_lower(piece.single().program(), partitioner=[XnnpackPartitioner()])
            buffer = program.to_executorch().buffer
    finally:
        logging.root.setLevel(level)
    path.write_bytes(buffer)


class ExecutorchEngine:
    """The parts of an export in ExecuTorch's runtime for Python.

    Args:
        files: part to its file.
        threads: not a choice of this runtime: it takes what it finds.

    Raises:
        MissingExtraError: executorch is not installed.
        ModelError: a file cannot be loaded.
    """

    def __init__(self, files: Mapping[str, Path], *, threads: int | None = None) -> None:
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
