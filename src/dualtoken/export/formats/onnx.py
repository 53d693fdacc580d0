"""ONNX files, by torch.onnx's exporter that starts from torch.export (`dynamo=True`)."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualtoken.engines import KEY
from dualtoken.errors import require
from dualtoken.export.formats import FORMATS, Format
from dualtoken.export.quiet import quiet
from dualtoken.files import atomic_path

if TYPE_CHECKING:
    from torch import nn

    from dualtoken.export.pieces import Piece

OPSET = 20


def export_network(network: nn.Module, path: str | Path, image_size: tuple[int, int], *, channels: int = 3) -> Path:
    """Write a bare network as one ONNX file, for any number of images; the network stays as it is.

    Nothing is merged and nothing is checked: `export` does both, for trained models.

    Args:
        network: in evaluation mode, images (B, channels, H, W) to one tensor or a tuple of them.
        path: of the file; parents are made as needed.
        image_size: (height, width) of the images, in pixels.
        channels: of the images.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        OutputError: the place cannot be written.
    """
    from dualtoken.export.pieces import pieces

    (piece,) = pieces(network, image_size, channels)
    with atomic_path(path) as temporary:
        write(piece, temporary)
    return Path(path)


def write(piece: Piece, path: Path) -> None:
    """Write one network of a model as one file with the weights in it."""
    import torch

    onnx, _ = require("onnx", "onnx"), require("onnxscript", "onnx")
    table: Any = {torch.ops.aten.scaled_dot_product_attention.default: _attention}
    program = piece.program()
    with quiet("torch.onnx", "onnxscript", "onnx_ir"):
        exported: Any = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, input_names=list(piece.inputs),
            output_names=list(piece.outputs), custom_translation_table=table, verbose=False,
        )  # fmt: skip
    model = exported.model_proto
    _name_layers(model)
    _forget_source(model)
    onnx.save(model, str(path))


def _attention(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention in ONNX's operators, with any number of axes before the last two; the exporter's own takes two."""
    if is_causal or enable_gqa:
        raise NotImplementedError("causal attention, and attention with fewer keys than queries")
    op = require("onnxscript", "onnx").opset20
    axes = len(query.shape)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    turned = op.Transpose(key, perm=[*range(axes - 2), axes - 1, axes - 2])
    weights = op.MatMul(op.Mul(query, op.CastLike(op.Constant(value_float=factor), query)), turned)
    if mask is not None and mask.dtype.name == "BOOL":
        weights = op.Where(mask, weights, op.CastLike(op.Constant(value_float=-math.inf), weights))
    elif mask is not None:
        weights = op.Add(weights, mask)
    return op.MatMul(op.Softmax(weights, axis=-1), value)


def _name_layers(model: Any) -> None:
    """Call products and convolutions by their modules, as reports of them do; a second use of one has its number."""
    uses: Counter[str] = Counter()
    for node in model.graph.node:
        path = _module_path(node) if node.op_type in ("MatMul", "Gemm", "Conv") else ""
        if path:
            uses[path] += 1
            node.name = path if uses[path] == 1 else f"{path}/{uses[path]}"


def _module_path(node: Any) -> str:
    """`stages.0.blocks.1.mlp.fc1`; "" where it is not known."""
    stem, _, kind = node.input[1].rpartition(".")
    if kind == "weight":  # a convolution with a norm merged into it is noted as the norm
        return str(stem)
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
    modules = ast.literal_eval(scopes)[:-1]  # the last is the operator
    return str(modules[-1]) if modules else ""


def _forget_source(model: Any) -> None:
    """The exporter notes for each node which line of which file it came from: paths of this machine, and megabytes."""
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        for entry in (*graph.node, *graph.value_info):
            del entry.metadata_props[:]
            entry.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]


def describe(path: Path, text: str, model_info: Mapping[str, str]) -> None:
    """Put what the model is into its file: our text, and Model API's keys, whose path is written with a space."""
    onnx = require("onnx", "onnx")
    model = onnx.load(str(path))
    entries = {f"model_info {key}": value for key, value in model_info.items()} | {KEY: text}
    onnx.helper.set_model_props(model, entries)
    model.producer_name = "dualtoken"
    onnx.save(model, str(path))


FORMATS["onnx"] = Format(
    "ONNX", ".onnx", write, "torch.onnx dynamo", ("torch", "onnx", "onnxscript", "onnxruntime"), "onnx", any_size=True,
    describe=describe,
)  # fmt: skip
