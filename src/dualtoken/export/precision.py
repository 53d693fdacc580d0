"""What a file says about how its numbers are kept, and about the file of weights beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dualtoken.runtime.metadata import KEY, digest


def mark_onnx(model: Any, precision: str) -> None:
    """Set the precision in the text of an ONNX model in memory; one without our text is left as it is."""
    for entry in model.metadata_props:
        if entry.key == KEY:
            content = json.loads(entry.value)
            content["export"]["precision"] = precision
            entry.value = json.dumps(content, ensure_ascii=False, allow_nan=False)


def mark_openvino(path: Path, precision: str) -> None:
    """Set the precision in the text of a `.xml`, and the name and digest of its own `.bin`."""
    tree = ElementTree.parse(path)
    entry = tree.getroot().find(f"./rt_info/{KEY}")
    if entry is None:
        return
    content = json.loads(entry.get("value", ""))
    export = content["export"]
    export["precision"] = precision
    companions = {Path(name).stem for name in export["parts"].values()}
    weights = path.with_suffix(".bin")
    export["sha256"] = {
        name: sha256
        for name, sha256 in export["sha256"].items()
        if Path(name).suffix != ".bin" or Path(name).stem in companions
    } | {weights.name: digest(weights)}
    entry.set("value", json.dumps(content, ensure_ascii=False, allow_nan=False))
    tree.write(path, encoding="utf-8", xml_declaration=True)
