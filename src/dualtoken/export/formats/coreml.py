"""Core ML's packages (.mlpackage), for Apple's devices. They can be written anywhere, and run on macOS only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualtoken.errors import require
from dualtoken.export.formats import FORMATS, Format
from dualtoken.export.quiet import quiet

if TYPE_CHECKING:
    from torch.fx import Graph

    from dualtoken.export.pieces import Piece


def write(piece: Piece, path: Path) -> None:
    """Write one network of a model, for one image at a time, in float32."""
    with quiet("coremltools"):  # it warns of every torch newer than itself
        coremltools: Any = require("coremltools", "coreml")
        program = piece.single().program().run_decompositions({})
        _complete_pools(program.graph_module.graph)
        model = coremltools.convert(
            program,
            convert_to="mlprogram",
            inputs=[
                coremltools.TensorType(name=name, shape=tuple(example.shape))
                for name, example in zip(piece.inputs, piece.single().example, strict=True)
            ],
            outputs=[coremltools.TensorType(name=name) for name in piece.outputs],
            minimum_deployment_target=coremltools.target.iOS17,
            compute_precision=coremltools.precision.FLOAT32,
        )
        model.save(str(path))


def _complete_pools(graph: Graph) -> None:
    """coremltools wants the steps of a pool written out, where torch leaves them out for those of its window."""
    import torch

    for node in graph.nodes:
        if node.target is torch.ops.aten.max_pool2d.default and len(node.args) == 2:
            node.args = (*node.args, node.args[1])


FORMATS["coreml"] = Format(
    "Core ML", ".mlpackage", write, "coremltools", ("torch", "coremltools"), "coreml", pieces=False, any_batch=False
)
