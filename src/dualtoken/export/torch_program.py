"""torch.export's own files (.pt2): the graph and its weights, for torch without our code, and their engine here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualtoken.errors import ModelError

if TYPE_CHECKING:
    from dualtoken.export.pieces import Piece

EXPORTER = "torch.export.save"
PACKAGES = ("torch",)


def write(piece: Piece, path: Path) -> None:
    """Write one network of a model."""
    program = piece.program()
    program.example_inputs = None  # they would be the one pickle in the file
    torch.export.save(program, path)


class TorchEngine:
    """The parts of an export in torch, on the CPU.

    Args:
        files: part to its file.
        threads: that torch uses in this process from now on; None leaves them.

    Raises:
        ModelError: a file cannot be loaded.
    """

    def __init__(self, files: Mapping[str, Path], *, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._modules = {part: _load(path) for part, path in files.items()}

    def run(self, part: str, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Arrays in, in the order of the file's inputs, arrays out."""
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
        with torch.inference_mode():
            found = self._modules[part](*tensors)
        return [tensor.numpy() for tensor in (found if isinstance(found, tuple | list) else [found])]


def _load(path: Path) -> Any:
    import torchvision  # noqa: F401  (the graphs of detectors use its operators)

    try:
        return torch.export.load(path).module()
    except Exception as error:  # of many kinds, none of its own
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise ModelError(
            f"torch {torch.__version__} cannot load {str(path)!r}: {reason}.", "Export it again with this version."
        ) from error
