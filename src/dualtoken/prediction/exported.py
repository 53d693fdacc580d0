"""Exported files: what they say about themselves, as one JSON text, and whether all that belongs to them is there.

ONNX and OpenVINO carry the text inside the file, under the key `dualtoken`; formats without a place for it have it in a
file beside them, `model.tflite.json` for `model.tflite`. Reading it needs no engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dualtoken.engines import engine_of, suffixes
from dualtoken.errors import ModelError
from dualtoken.files import digest
from dualtoken.model_folder import ModelConfig
from dualtoken.readers import judged, parse_json, read_text
from dualtoken.words import typed

FORMAT = 1  # of the text; raised when an older runtime could misread it


@dataclass(frozen=True)
class ExportInfo:
    """How a model was exported.

    Attributes:
        format: a key of `dualtoken.export.FORMATS`, such as `onnx`.
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

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for name in (*self.parts.values(), *self.sha256):
            if name in ("", ".", "..") or set(name) & set("/\\\0"):
                raise ValueError(f"{name!r} is not the name of a file beside the export")


@dataclass(frozen=True)
class Export:
    """Which file a `Predictor` runs, and in which engine."""

    path: Path
    info: ExportInfo
    engine: str


@dataclass(frozen=True)
class _Carried:
    """All of the text."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    format: int
    model: dict[str, Any]
    export: ExportInfo


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
    content = parse_json(text, source, error=ModelError)
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ModelError(
            f"{source!r} has format {version}, this version reads up to {FORMAT}.",
            "Type: pip install --upgrade dualtoken",
        )
    carried = judged(content, _Carried, source, error=ModelError)
    return ModelConfig.from_json(carried.model, source), carried.export


def is_export(path: str | Path) -> bool:
    """Whether `path` is, or is meant to be, an exported file and not a model folder."""
    path = Path(path)
    return path.is_file() or path.suffix in suffixes()


def sidecar(path: str | Path) -> Path:
    """The file beside an export that holds its text, for formats without a place for it."""
    path = Path(path)
    return path.with_name(f"{path.name}.json")


def certificate(path: str | Path) -> Path:
    """The file beside an export that says how near it is to its model."""
    path = Path(path)
    return path.with_name(f"{path.name}.parity.json")


def read_export(path: str | Path) -> tuple[ModelConfig, ExportInfo]:
    """What an export says about itself; needs no engine.

    Raises:
        ModelError: there is no such file, it is no export of ours, it is damaged, or a file that belongs to it is
            missing or another.
    """
    path = Path(path)
    _check_path(path)
    beside, read = sidecar(path), engine_of(path).read_text
    text = read(path) if read else read_text(beside, error=ModelError) if beside.is_file() else None
    if text is None:
        whole = path.with_name(Path(path.stem).stem + path.suffix)
        if whole != path and whole.is_file():
            raise ModelError(f"{str(path)!r} is one part of an exported model.", f"Give the whole: {whole}")
        raise ModelError(
            f"{str(path)!r} was not written by `dualtoken export`: classes and pre-processing are not in it.",
            f"Type: dualtoken export MODEL --output {typed(path.name)}",
        )
    config, info = from_json_text(text, str(path))
    _check_companions(path, info)
    return config, info


def _check_path(path: Path) -> None:
    if path.suffix in suffixes() and (elsewhere := engine_of(path).elsewhere):
        raise ModelError(f"{str(path)!r} cannot be run here.", elsewhere)
    if path.is_dir():
        raise ModelError(f"{str(path)!r} is a folder, not an exported file.", "A model folder: dualtoken.load(FOLDER).")
    if not path.exists():
        raise ModelError(
            f"There is no file {str(path)!r}.", "An exported model: dualtoken export MODEL --output model.onnx"
        )
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        raise ModelError(f"{str(path)!r} holds the weights of an export.", f"Give {path.with_suffix('.xml')}")
    if path.suffix == ".safetensors":
        raise ModelError(f"{str(path)!r} holds the weights of a model folder.", f"Give its folder: {path.parent}")
    engine_of(path)


def _check_companions(path: Path, info: ExportInfo) -> None:
    """All files that belong to an export lie beside it, as they were written."""
    for name in sorted({*info.parts.values(), *info.sha256}):
        beside = path.with_name(Path(name).name)  # never outside its folder, whatever the text says
        if not beside.exists():
            raise ModelError(
                f"{str(path)!r} needs {name!r} beside it, which is missing.",
                f"Copy all files of the export together, and keep their names: {', '.join([path.name, *info.sha256])}.",
            )
        if name in info.sha256 and digest(beside) != info.sha256[name]:
            raise ModelError(
                f"{str(beside)!r} is not the file that {path.name!r} was exported with.",
                "Copy all files of one export together, or export again.",
            )
