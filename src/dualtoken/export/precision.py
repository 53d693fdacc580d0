"""What a file says about how its numbers are kept, and about the file of weights beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dualtoken.engines import KEY
from dualtoken.files import digest


def mark_onnx(model: Any, precision: str, companions: Mapping[str, Path] | None = None) -> None:
    """Set the precision in the text of an ONNX model in memory; one without our text is left as it is.

    Args:
        model: as onnx loads it.
        precision: see `ExportInfo`.
        companions: the files of its further parts, where they are others than before.
    """
    for entry in model.metadata_props:
        if entry.key == KEY:
            content = json.loads(entry.value)
            export = content["export"]
            export["precision"] = precision
            if companions is not None:
                export["parts"] = {part: path.name for part, path in companions.items()}
                export["sha256"] = {path.name: digest(path) for path in companions.values()}
            entry.value = json.dumps(content, ensure_ascii=False, allow_nan=False)


def mark_openvino(path: Path, precision: str, companions: Mapping[str, Path] | None = None) -> None:
    """Set the precision in the text of a `.xml`, and the name and digest of its own `.bin`; see `mark_onnx`."""
    tree = ElementTree.parse(path)
    entry = tree.getroot().find(f"./rt_info/{KEY}")
    if entry is None:
        return
    content = json.loads(entry.get("value", ""))
    export = content["export"]
    export["precision"] = precision
    weights = path.with_suffix(".bin")
    if companions is None:
        stems = {Path(name).stem for name in export["parts"].values()}
        others = {name: sha256 for name, sha256 in export["sha256"].items() if Path(name).stem in stems}
    else:
        export["parts"] = {part: file.name for part, file in companions.items()}
        files = [place for file in companions.values() for place in (file, file.with_suffix(".bin"))]
        others = {file.name: digest(file) for file in files}
    export["sha256"] = others | {weights.name: digest(weights)}
    entry.set("value", json.dumps(content, ensure_ascii=False, allow_nan=False))
    tree.write(path, encoding="utf-8", xml_declaration=True)
