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
            entry.value = _marked(entry.value, precision, companions)


def mark_openvino(path: Path, precision: str, companions: Mapping[str, Path] | None = None) -> None:
    """Set the precision in the text of a `.xml`, and the name and digest of its own `.bin`; see `mark_onnx`."""
    tree = ElementTree.parse(path)
    entry = tree.getroot().find(f"./rt_info/{KEY}")
    if entry is None:
        return
    entry.set("value", _marked(entry.get("value", ""), precision, companions, path.with_suffix(".bin")))
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _marked(text: str, precision: str, companions: Mapping[str, Path] | None, weights: Path | None = None) -> str:
    content = json.loads(text)
    export = content["export"]
    export["precision"] = precision
    if companions is not None:
        export["parts"] = {part: file.name for part, file in companions.items()}
        files = [*companions.values()]
        files += [file.with_suffix(".bin") for file in files if weights is not None]
        export["sha256"] = {file.name: digest(file) for file in files}
    if weights is not None:  # the file's own, in the place of those that it had under another name
        stems = {Path(name).stem for name in export["parts"].values()}
        others = {name: sha256 for name, sha256 in export["sha256"].items() if Path(name).stem in stems}
        export["sha256"] = others | {weights.name: digest(weights)}
    return json.dumps(content, ensure_ascii=False, allow_nan=False)
