"""From an exported file to a model that answers: which engine runs it, and whether it is whole."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dualtoken.errors import ConfigError, MissingExtraError, ModelError, unknown_name
from dualtoken.model_folder import ModelConfig
from dualtoken.prediction.predictor import Predictor
from dualtoken.runtime import onnx, openvino
from dualtoken.runtime.metadata import ExportInfo, digest, from_json_text, sidecar

MAIN = "network"  # the part that every model has


class EngineEntry(NamedTuple):
    """An engine, imported when it is needed.

    Attributes:
        suffixes: of the files that it takes.
        home: module and class; called with the file of each part and `threads`.
        package: that it stands on.
        extra: of dualtoken, that brings the package.
    """

    suffixes: tuple[str, ...]
    home: str
    package: str
    extra: str


# A new engine is a file and a line here. Of those that take a suffix the first that is installed runs it.
ENGINES = {
    "onnx": EngineEntry((".onnx",), "dualtoken.runtime.onnx:OnnxEngine", "onnxruntime", "runtime"),
    "openvino": EngineEntry(
        (".xml", ".onnx"), "dualtoken.runtime.openvino:OpenvinoEngine", "openvino", "runtime-openvino"
    ),
    "torch": EngineEntry((".pt2",), "dualtoken.export.torch_program:TorchEngine", "torch", "train"),
    "executorch": EngineEntry((".pte",), "dualtoken.export.executorch:ExecutorchEngine", "executorch", "executorch"),
    "litert": EngineEntry((".tflite",), "dualtoken.export.litert:LitertEngine", "ai_edge_litert", "litert"),
}
_READERS: dict[str, Callable[[Path], str | None]] = {".onnx": onnx.read_text, ".xml": openvino.read_text}
_ELSEWHERE = {".mlpackage": "Core ML runs on Apple's machines, in an app: see docs/export.md."}
_SUFFIXES = tuple(dict.fromkeys(suffix for entry in ENGINES.values() for suffix in entry.suffixes))
EXPORTED = (*_SUFFIXES, *_ELSEWHERE)  # suffixes of exported files, which no image has


class ExportedModel(Predictor):
    """An exported model that answers as the `Predictor` that it was exported from.

    Attributes:
        path: its main file.
        info: how it was exported.
        engine_name: a key of `ENGINES`.
    """

    def __init__(self, path: Path, config: ModelConfig, info: ExportInfo, engine_name: str, engine: Any) -> None:
        super().__init__(engine, config, name=str(path))
        self.path, self.info, self.engine_name = path, info, engine_name
        self.largest_batch = None if info.dynamic_batch else 1


def is_export(path: str | Path) -> bool:
    """Whether `path` is, or is meant to be, an exported file and not a model folder."""
    path = Path(path)
    return path.is_file() or path.suffix in EXPORTED


def load(path: str | Path, *, engine: str = "auto", threads: int | None = None) -> ExportedModel:
    """Load an exported model, ready to predict.

    Args:
        path: what `dualtoken export` wrote: `model.onnx`, `model.xml`, ...; files that belong to it lie beside it.
        engine: a key of `ENGINES`; `auto` takes the first that runs such files and is installed.
        threads: that one run uses; None for as many as the engine thinks best.

    Raises:
        ModelError: there is no such file, it is no export of ours, it is damaged, or a file that belongs to it is
            missing or another.
        ConfigError: an unknown engine, one that cannot run such files, or an impossible number of threads.
        MissingExtraError: the engine is not installed.
    """
    path = Path(path)
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}, expected 1 or more.")
    _check_path(path)
    name = _choose_engine(engine, path)
    config, info = read_export(path)
    files = {MAIN: path} | {part: path.with_name(file) for part, file in info.parts.items()}
    module, _, class_name = ENGINES[name].home.partition(":")
    made = getattr(importlib.import_module(module), class_name)(files, threads=threads)
    return ExportedModel(path, config, info, name, made)


def read_export(path: str | Path) -> tuple[ModelConfig, ExportInfo]:
    """What an export says about itself; needs no engine.

    Raises:
        ModelError: as `load`.
    """
    path = Path(path)
    _check_path(path)
    text = _READERS.get(path.suffix, _sidecar_text)(path)
    if text is None:
        whole = path.with_name(Path(path.stem).stem + path.suffix)
        if whole != path and whole.is_file():
            raise ModelError(f"{str(path)!r} is one part of an exported model.", f"Give the whole: {whole}")
        raise ModelError(
            f"{str(path)!r} was not written by `dualtoken export`: classes and pre-processing are not in it.",
            f"Type: dualtoken export MODEL --output {path.name}",
        )
    config, info = from_json_text(text, repr(str(path)))
    _check_companions(path, info)
    return config, info


def _check_path(path: Path) -> None:
    if path.suffix in _ELSEWHERE:
        raise ModelError(f"{str(path)!r} cannot be run here.", _ELSEWHERE[path.suffix])
    if path.is_dir():
        raise ModelError(f"{str(path)!r} is a folder, not an exported file.", "A model folder: dualtoken.load(FOLDER).")
    if not path.exists():
        raise ModelError(
            f"There is no file {str(path)!r}.", "An exported model: dualtoken export MODEL --output model.onnx"
        )
    if path.suffix not in _SUFFIXES:
        hint = f"Exported models end in {', '.join(_SUFFIXES)}."
        if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
            hint = f"Give the file beside it: {path.with_suffix('.xml')}"
        elif path.suffix == ".safetensors":
            hint = f"Give its folder: {path.parent}"
        raise ModelError(f"{str(path)!r} is not an exported model: its suffix is {path.suffix!r}.", hint)


def _choose_engine(engine: str, path: Path) -> str:
    if engine not in ("auto", *ENGINES):
        raise ConfigError(unknown_name("engine", engine, ENGINES), "Type: --engine auto")
    able = [name for name, entry in ENGINES.items() if path.suffix in entry.suffixes]
    if engine != "auto":
        if engine not in able:
            raise ConfigError(
                f"The engine {engine!r} does not run {path.suffix} files.", f"Engines that do: {', '.join(able)}."
            )
        able = [engine]
    for name in able:
        if importlib.util.find_spec(ENGINES[name].package) is not None:
            return name
    packages = " or ".join(repr(ENGINES[name].package) for name in able)
    raise MissingExtraError(
        f"{str(path)!r} needs the package {packages}, which is not installed.",
        f"Type: pip install 'dualtoken[{ENGINES[able[0]].extra}]'",
    )


def _sidecar_text(path: Path) -> str | None:
    """For formats without a place for it."""
    beside = sidecar(path)
    return beside.read_text(encoding="utf-8") if beside.is_file() else None


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
