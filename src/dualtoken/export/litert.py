"""LiteRT's files (.tflite), for phones and browsers, by litert-torch; and their engine here.

litert-torch asks for another torch than this package is tested with: it lives in an environment of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.errors import ModelError, require

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from dualtoken.export.pieces import Piece

EXPORTER = "litert-torch"
PACKAGES = ("torch", "litert_torch")
DYNAMIC_BATCH = False


def write(piece: Piece, path: Path) -> None:
    """Write one network of a model, for one image at a time.

    Raises:
        MissingExtraError: litert-torch is not installed.
    """
    from dualtoken.export.pieces import silence

    program = piece.single().program()
    convolve_single_positions(program.graph_module)
    with silence(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it tells of every step
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


class LitertEngine:
    """The parts of an export in LiteRT's interpreter.

    Args:
        files: part to its file.
        threads: that one run uses; None for the interpreter's own choice.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ModelError: a file cannot be loaded.
    """

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
