"""torch.export's own files (.pt2): the graph and its weights, for torch without our code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dualtoken.export.formats import FORMATS, Format

if TYPE_CHECKING:
    from dualtoken.export.pieces import Piece


def write(piece: Piece, path: Path) -> None:
    """Write one network of a model."""
    import torch

    program = piece.program()
    program.example_inputs = None  # they would be the one pickle in the file
    torch.export.save(program, path)


FORMATS["torch"] = Format("torch.export", ".pt2", write, "torch.export.save", ("torch",), "train", any_size=True)
