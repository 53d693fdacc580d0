"""The formats that models are exported to: a file here and a line in `FORMATS` each."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualtoken.errors import ConfigError, MissingExtraError, unknown_name


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: key in `FORMATS`.
        title: what people call it.
        suffix: of its files.
        home: module with `write(piece, path)`, `describe(path, text, model_info)`, `EXPORTER` and `PACKAGES`.
        needs: packages, by the names they are imported by.
        extra: of dualtoken, that brings them.
        pieces: whether models of several networks can be written: their files lie beside each other.
        any_size: whether the size of images can be left open.
        weights: suffix of a second file with the weights; empty where they are in the first.
        inside: whether what the model is goes into the file; else it lies beside it.
        runs: whether the file can be run, and so checked, on this kind of machine.
    """

    name: str
    title: str
    suffix: str
    home: str
    needs: tuple[str, ...]
    extra: str
    pieces: bool = True
    any_size: bool = False
    weights: str = ""
    inside: bool = False
    runs: bool = True

    def writer(self) -> Any:
        """Its module.

        Raises:
            MissingExtraError: a package that it needs is not installed.
        """
        for package in self.needs:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(
                    f"Exporting to {self.title} needs the package {package!r}, which is not installed.",
                    f"Type: pip install 'dualtoken[{self.extra}]'",
                )
        return importlib.import_module(self.home)

    def files(self, path: Path) -> list[Path]:
        """All files of one network written to `path`, that one first."""
        beside = [path.with_suffix(self.weights)] if self.weights else []
        return [path, *beside]


_HOME = "dualtoken.export"
FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("onnx", "ONNX", ".onnx", f"{_HOME}.onnx", ("onnx", "onnxscript", "onnxruntime"), "onnx",
               any_size=True, inside=True),
        Format("openvino", "OpenVINO", ".xml", f"{_HOME}.openvino", ("openvino", "onnx", "onnxscript"), "openvino",
               any_size=True, weights=".bin", inside=True),
        Format("torch", "torch.export", ".pt2", f"{_HOME}.torch_program", ("torch",), "train", any_size=True),
        Format("executorch", "ExecuTorch", ".pte", f"{_HOME}.executorch", ("executorch",), "executorch",
               pieces=False),
        Format("litert", "LiteRT", ".tflite", f"{_HOME}.litert", ("litert_torch", "ai_edge_litert"), "litert",
               pieces=False),
        Format("coreml", "Core ML", ".mlpackage", f"{_HOME}.coreml", ("coremltools",), "coreml",
               pieces=False, runs=False),
    )
}  # fmt: skip


def find_format(name: str | None, output: Path) -> tuple[Format, Path]:
    """The format that `name` or the suffix of `output` means, and the path of its main file.

    Raises:
        ConfigError: an unknown format, or a suffix that belongs to another one.
    """
    by_suffix = {form.suffix: form for form in FORMATS.values()}
    if name is None:
        form = by_suffix.get(output.suffix, FORMATS["onnx"])
    elif name in FORMATS:
        form = FORMATS[name]
    else:
        meant = by_suffix.get(f".{name.lower().lstrip('.')}")
        hint = f"Type: --format {meant.name}" if meant else ""
        raise ConfigError(unknown_name("format", name, FORMATS), hint)
    if output.suffix == form.suffix:
        return form, output
    if output.suffix in by_suffix:
        raise ConfigError(
            f"{str(output)!r} ends in {output.suffix}, but files of {form.title} end in {form.suffix}.",
            f"Type: --output {output.with_suffix(form.suffix)}, or --format {by_suffix[output.suffix].name}",
        )
    return form, output.with_name(output.name + form.suffix)
