"""OpenVINO's files: the ONNX graph of a network, converted by OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from dualtoken.engines import KEY
from dualtoken.errors import require
from dualtoken.export.formats import FORMATS, Format, onnx

if TYPE_CHECKING:
    from dualtoken.export.pieces import Piece


def write(piece: Piece, path: Path) -> None:
    """Write one network of a model: `path`, a .xml, and a .bin with its weights in float32."""
    openvino = require("openvino", "openvino")
    graph = path.with_suffix(".onnx")
    try:
        onnx.write(piece, graph)
        model = openvino.convert_model(str(graph))
        openvino.save_model(model, str(path), compress_to_fp16=False)
        del model  # it may still read from the graph's file
    finally:
        graph.unlink(missing_ok=True)


def describe(path: Path, text: str, model_info: Mapping[str, str]) -> None:
    """Put what the model is into the .xml: our text, and Model API's keys. The .bin stays as it is."""
    tree = ElementTree.parse(path)
    root = tree.getroot()
    info = root.find("rt_info")
    if info is None:
        info = ElementTree.SubElement(root, "rt_info")
    ElementTree.SubElement(info, KEY, value=text)
    keys = ElementTree.SubElement(info, "model_info")
    for key, value in model_info.items():
        ElementTree.SubElement(keys, key, value=value)
    tree.write(path, encoding="utf-8", xml_declaration=True)


FORMATS["openvino"] = Format(
    "OpenVINO", ".xml", write, "torch.onnx dynamo, openvino.convert_model", ("torch", "onnx", "onnxscript", "openvino"),
    "openvino", any_size=True, weights=".bin", describe=describe,
)  # fmt: skip
