"""The formats that models are exported to. A NEW FORMAT GOES HERE: one file that registers itself.

Whatever writes a file is not trusted to have done it well: its engine opens the file, and the answers are compared.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dualtoken.engines import ENGINES, MAIN
from dualtoken.errors import ConfigError, missing_package, nearest
from dualtoken.registry import Registry
from dualtoken.words import typed

if TYPE_CHECKING:
    from dualtoken.export.pieces import Piece


@dataclass(frozen=True)
class Format:
    """One format; the engine that opens its files is registered under the same name.

    Attributes:
        title: what people call it.
        suffix: of its files.
        write: writes one network of a model to a path; MissingExtraError where a package is not installed.
        exporter: what makes the file, in words.
        packages: that make it, by the names that they are imported by; their versions go into the file.
        extra: of dualtoken, that brings them.
        also: further packages that must be there, to run the file.
        pieces: whether models of several networks can be written: their files lie beside each other.
        any_size: whether the size of images can be left open.
        any_batch: whether any number of images can be given at once; else one.
        weights: suffix of a second file with the weights; empty where they are in the first.
        describe: puts what the model is into a file: our text under `KEY`, and the keys of OpenVINO's Model API.
            None where the text lies in a file beside it.
    """

    title: str
    suffix: str
    write: Callable[[Piece, Path], None]
    exporter: str
    packages: tuple[str, ...]
    extra: str
    also: tuple[str, ...] = ()
    pieces: bool = True
    any_size: bool = False
    any_batch: bool = True
    weights: str = ""
    describe: Callable[[Path, str, Mapping[str, str]], None] | None = None

    def require(self) -> None:
        """Raises MissingExtraError where a package that it needs is not installed."""
        for package in (*self.packages, *self.also):
            if importlib.util.find_spec(package) is None:
                raise missing_package(package, self.extra, f"Exporting to {self.title}")

    def files(self, path: Path) -> list[Path]:
        """All files of one network written to `path`, that one first."""
        return [path, *([path.with_suffix(self.weights)] if self.weights else [])]


FORMATS: Registry[Format] = Registry("format", __name__)


def place_of(path: Path, part: str) -> Path:
    """The file of a part of the export `path`."""
    return path if part == MAIN else path.with_name(f"{path.stem}.{part}{path.suffix}")


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def others(name: str, *, several: bool = False) -> str:
    """A hint: formats that can be run here; only those that hold several networks if asked."""
    able = [
        other
        for other, form in FORMATS.items()
        if other != name and not ENGINES[other].elsewhere and (form.pieces or not several)
    ]
    return f"Other formats: {', '.join(able)}."


def find_format(name: str | None, output: Path) -> tuple[str, Path]:
    """The key in `FORMATS` that `name` or the suffix of `output` means, and the path of its main file.

    Raises:
        ConfigError: an unknown format, or a suffix that belongs to another one or is nearly one.
    """
    by_suffix = {form.suffix: key for key, form in FORMATS.items()}
    if name is None:
        name = by_suffix.get(output.suffix, "onnx")
    same = by_suffix.get(f".{name.lower().lstrip('.')}")
    form = FORMATS.find(name, f"Type: --format {same}" if same else "")
    if output.suffix == form.suffix:
        return name, output
    if output.suffix in by_suffix:
        raise ConfigError(
            f"{str(output)!r} ends in {output.suffix}, but files of {form.title} end in {form.suffix}.",
            f"Type: --output {typed(output.with_suffix(form.suffix))}, or --format {by_suffix[output.suffix]}",
        )
    if len(output.suffix) > 3 and (meant := nearest(output.suffix, by_suffix)):  # the .2 of v1.2 is none
        raise ConfigError(
            f"{str(output)!r} ends in {output.suffix}, which is no format. Did you mean {meant}?",
            f"Type: --output {typed(output.with_suffix(meant))}",
        )
    return name, output.with_name(output.name + form.suffix)
