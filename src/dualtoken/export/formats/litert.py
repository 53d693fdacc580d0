"""LiteRT's files (.tflite), for phones and browsers, by litert-torch.

litert-torch asks for another torch than this package is tested with: it lives in an environment of its own.
"""

from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from dualtoken.errors import require
from dualtoken.export.formats import FORMATS, Format
from dualtoken.export.quiet import quiet

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from dualtoken.export.pieces import Piece


def write(piece: Piece, path: Path) -> None:
    """Write one network of a model, for one image at a time."""
    program = piece.single().program()
    convolve_single_positions(program.graph_module)
    with quiet(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it tells of every step
        litert = require("litert_torch", "litert")
        litert.convert(program.module(), piece.single().example, strict_export=False).export(str(path))


def convolve_single_positions(module: GraphModule) -> None:
    """Write linears over maps of one position (B, 1, 1, C) as convolutions, in place: litert-torch stumbles over them.

    Of their weights it makes a batch of products, whose axes it then miscounts ("invalid output rank").
    """
    import torch

    ops, graph = torch.ops.aten, module.graph
    for node in list(graph.nodes):
        if node.target is not ops.linear.default or node.meta["val"].shape[1:-1] != (1, 1):
            continue
        maps, weight, *bias = node.args
        with graph.inserting_before(node):
            channels_first = graph.call_function(ops.permute.default, (maps, [0, 3, 1, 2]))
            kernel = graph.call_function(ops.reshape.default, (weight, [*weight.meta["val"].shape, 1, 1]))
            convolved = graph.call_function(ops.conv2d.default, (channels_first, kernel, *bias))
            result = graph.call_function(ops.permute.default, (convolved, [0, 2, 3, 1]))
        result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    module.recompile()


FORMATS["litert"] = Format(
    "LiteRT", ".tflite", write, "litert-torch", ("torch", "litert_torch"), "litert", also=("ai_edge_litert",),
    pieces=False, any_batch=False,
)  # fmt: skip
