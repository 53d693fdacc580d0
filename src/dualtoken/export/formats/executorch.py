"""ExecuTorch's files (.pte), for phones and boards: lowered to XNNPACK, which runs on any CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dualtoken.errors import require
from dualtoken.export.formats import FORMATS, Format
from dualtoken.export.quiet import quiet

if TYPE_CHECKING:
    from dualtoken.export.pieces import Piece


def write(piece: Piece, path: Path) -> None:
    """Write one network of a model, for one image at a time."""
    with quiet(""):  # the root logger: it reports every operator that it leaves to the CPU
        require("executorch.exir", "executorch")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = to_edge_transform_and_lower(piece.single().program(), partitioner=[XnnpackPartitioner()])
        buffer = program.to_executorch().buffer
    path.write_bytes(buffer)


# One image at a time: XNNPACK plans its memory for one shape; boxes of detectors come one at a time too.
FORMATS["executorch"] = Format(
    "ExecuTorch", ".pte", write, "executorch, XNNPACK", ("torch", "executorch"), "executorch", pieces=False,
    any_batch=False,
)  # fmt: skip
