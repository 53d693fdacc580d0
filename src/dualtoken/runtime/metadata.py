"""What an exported model says about itself: the model's config, and how it was exported, as one JSON text.

ONNX and OpenVINO carry the text inside the file, under the key `dualtoken`; formats without a place for it have it in a
file beside them, `model.tflite.json` for `model.tflite`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dualtoken.errors import ModelError
from dualtoken.model_folder import ModelConfig

KEY = "dualtoken"
FORMAT = 1  # of the text; raised when an older runtime could misread it


@dataclass(frozen=True)
class ExportInfo:
    """How a model was exported.

    Attributes:
        format: a key of `dualtoken.runtime.ENGINES`, such as `onnx`.
        exporter: what made the file, such as `torch.onnx dynamo`.
        precision: `fp32`; `int8`, which computes in integers; `fp16`, `weights-int8` or `weights-int4`, which store the
            weights in so many bits and compute in float32.
        dynamic_batch: whether any number of images can be given at once; else one at a time.
        dynamic_size: whether images of any size can be given; else of `image_size` only.
        parts: for models of several networks the others' files by name: {"boxes": "model.boxes.onnx"}.
        sha256: digests of all files that belong to the export beside its main one, by name.
        versions: of the packages that made it.
        weights_sha256: of the model folder's `model.safetensors`.
    """

    format: str
    exporter: str
    precision: str = "fp32"
    dynamic_batch: bool = True
    dynamic_size: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    weights_sha256: str = ""


def to_json_text(config: ModelConfig, info: ExportInfo) -> str:
    """The text that goes into an export; NaN is refused, JSON has none."""
    content = {"format": FORMAT, "model": config.to_json(), "export": asdict(info)}
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def from_json_text(text: str, source: str = "the export") -> tuple[ModelConfig, ExportInfo]:
    """The inverse of `to_json_text`.

    Args:
        text: what the export carries.
        source: what messages call it.

    Raises:
        ModelError: it is not such a text, or a later version wrote it.
    """
    try:
        content: dict[str, Any] = json.loads(text)
        if content["format"] > FORMAT:
            raise ModelError(
                f"{source} has format {content['format']}, this version reads up to {FORMAT}.",
                "Type: pip install --upgrade dualtoken",
            )
        return ModelConfig.from_json(content["model"]), ExportInfo(**content["export"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"What {source} says about itself cannot be read: {error!r}.",
            "Export the model again: dualtoken export MODEL --output FILE",
        ) from error


def sidecar(path: str | Path) -> Path:
    """The file beside an export that holds its text, for formats without a place for it."""
    path = Path(path)
    return path.with_name(f"{path.name}.json")


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of a folder, that of its files' names and digests."""
    path = Path(path)
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        lines = "".join(f"{digest(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
