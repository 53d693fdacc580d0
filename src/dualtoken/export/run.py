"""What `dualtoken export` does: a trained model becomes files of another engine, checked and then put in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from dualtoken.engines import ENGINES, MAIN
from dualtoken.errors import ConfigError, ExportError, UserError, cannot_write, first_line
from dualtoken.export import check
from dualtoken.export.formats import FORMATS, find_format, others, place_of, size_of
from dualtoken.export.model_info import model_info
from dualtoken.export.parity import Parity
from dualtoken.export.parity_pictures import pictures_for
from dualtoken.export.pieces import merged, pieces
from dualtoken.files import digest, refuse_existing, together, write_text
from dualtoken.hub import portable
from dualtoken.machine import machine_name
from dualtoken.model_folder import WEIGHTS
from dualtoken.prediction.exported import ExportInfo, certificate, sidecar, to_json_text
from dualtoken.prediction.models import load
from dualtoken.prediction.predictor import Predictor
from dualtoken.tasks import TASKS

_COMPANIONS = ("boxes", "masks")  # parts that a model may have beside its first


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the main file.
        files: all files that belong together, the main one first; the certificate is not among them.
        size_bytes: of `files`.
        parity: how near the export's answers are to the model's.
    """

    path: Path
    files: tuple[Path, ...]
    size_bytes: int
    parity: Parity

    def line(self) -> str:
        """One line for the screen."""
        beside = f" and {', '.join(file.name for file in self.files[1:])} beside it" if self.files[1:] else ""
        return f"Wrote {self.path}{beside} ({self.size_bytes / 1e6:.1f} MB)."


def export(
    model: str | Path | Predictor,
    output: str | Path,
    *,
    format: str | None = None,
    images: str | Path | Sequence[str | Path] | None = None,
    dynamic_size: bool = False,
    image_size: int | tuple[int, int] | None = None,
    limit: float | None = None,
    progress: bool = True,
) -> ExportResult:
    """Write a trained model for another engine, and prove that its predictions are the same.

    Classes, pre-processing, temperature and thresholds travel with it, so that `dualtoken.runtime.load(output)`
    needs nothing else. The model itself stays as it is. If answers differ, nothing is written.

    Args:
        model: a model folder, a model of the package, or hf-hub:USER/NAME. In Python also a loaded model.
        output: file to write; its suffix chooses the format. In a terminal it may be left out.
        format: what to write. Left out: as the suffix of the output says, else onnx.
        images: for the parity check: files, folders, patterns, zip archives. Left out: the model folder's samples, the
            data that it was trained on if that is still there, or invented images.
        dynamic_size: leave the size of the input open; predictions are checked at two other sizes too.
        image_size: height and width of the input in pixels, or one number for both. Left out: the model's.
        limit: how far raw outputs may differ, relative to the largest. Left out: 1e-4.
        progress: say on the screen what is being done.

    Raises:
        ExportError: this format cannot hold the model, or the export answers differently.
        MissingExtraError: a package of the format is not installed.
        ModelError: the model cannot be loaded.
        ConfigError: an unknown format or impossible setting.
        OutputError: something is there already, or the place cannot be written.
        ImageError, DataError: a picture cannot be read, or there is none.
    """
    name, path = find_format(format, Path(output))
    form = FORMATS[name]
    if dynamic_size and not form.any_size:
        able = ", ".join(key for key, other in FORMATS.items() if other.any_size)
        raise ConfigError(f"{form.title} takes images of one size only.", f"Formats with open sizes: {able}.")
    parts = [path, *(place_of(path, part) for part in _COMPANIONS)]
    for place in (*(file for part in parts for file in form.files(part)), sidecar(path), certificate(path)):
        refuse_existing(place, "--output")
    form.require()
    if images is not None:
        with pictures_for(images, None):
            pass  # a wrong path is said before the work
    reference = _resized(check.load_reference(model), image_size)
    with Console(stderr=True).status("") as status, together(path) as folder:
        say = status.update if progress else lambda _: None
        say(f"Writing {form.title} ...")
        files = _write(name, reference, folder / path.name, dynamic_size=dynamic_size)
        say("Parity check ...")
        parity = _certify(name, reference, files[0], path, images, limit)
        parity.write(certificate(files[0]))
        size = sum(size_of(file) for file in files)
    return ExportResult(path, tuple(path.with_name(file.name) for file in files), size, parity)


# ---------------------------------------------------------------- the model


def _resized(reference: Predictor, image_size: int | tuple[int, int] | None) -> Predictor:
    """The model for another size of its input."""
    if image_size is None:
        return reference
    config = reference.config
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    stride = TASKS[config.task].stride
    if min(size) < 1 or any(side % stride for side in size):
        multiple = f"multiples of {stride}" if stride > 1 else "1 or more"
        raise ConfigError(f"image_size is {size[0]} x {size[1]}, but both sides must be {multiple}.")
    preprocessing = replace(config.preprocessing, image_size=(size[0], size[1]))
    return Predictor(reference.model, replace(config, preprocessing=preprocessing), name=reference.name)


# ---------------------------------------------------------------- the files


def _write(name: str, reference: Predictor, path: Path, *, dynamic_size: bool) -> list[Path]:
    """All files of the model, the main one first."""
    form, config = FORMATS[name], reference.config
    try:
        size, channels = config.preprocessing.image_size, len(config.preprocessing.mean)
        stride = TASKS[config.task].stride
        model: Any = reference.model  # in torch, as `load_reference` gives it
        found = pieces(merged(model), size, channels, any_size=dynamic_size, multiple=stride)
        if len(found) > 1 and not form.pieces:
            raise ExportError(
                f"{form.title} holds one network, a model with {config.head} has {len(found)}.",
                others(name, several=True),
            )
        places = {piece.name: place_of(path, piece.name) for piece in found}
        for piece in found:
            form.write(piece, places[piece.name])
    except UserError:
        raise
    except Exception as error:  # exporters raise anything
        _raise_if_disk(error, path)
        fixed = "It may be held for images of one size, without --dynamic-size. " if dynamic_size else ""
        raise ExportError(
            f"{form.title} cannot hold this model: {_reason(error)}.", f"{fixed}{others(name)} --debug shows all of it."
        ) from error
    files = [file for place in places.values() for file in form.files(place)]
    folder = check.model_folder_of(reference)
    info = ExportInfo(
        format=name,
        exporter=form.exporter,
        dynamic_batch=form.any_batch,
        dynamic_size=dynamic_size,
        parts={part: place.name for part, place in places.items() if part != MAIN},
        sha256={file.name: digest(file) for file in files if file != path},
        versions={package: metadata.version(package.replace("_", "-")) for package in ("dualtoken", *form.packages)},
        weights_sha256=digest(folder / WEIGHTS) if folder else "",
    )
    text = to_json_text(portable(config), info)
    if form.describe:
        form.describe(path, text, model_info(config))
    else:
        write_text(sidecar(path), text)
        files.append(sidecar(path))
    return files


# ---------------------------------------------------------------- the proof


def _certify(name: str, reference: Predictor, file: Path, path: Path, images: Any, limit: float | None) -> Parity:
    """Raises ExportError where answers differ."""
    form = FORMATS[name]
    if ENGINES[name].elsewhere:
        return Parity(
            export=str(path), model=reference.name, task=reference.config.task, format=name, engine="",
            precision="fp32", checked=False, failure=f"{form.title} runs on macOS only; compare there before use.",
            machine=machine_name(),
        )  # fmt: skip
    try:
        exported = load(file, engine=name, trust=True)
        parity = check.compare(reference, exported, images=images, limit=limit)
    except UserError:
        raise
    except Exception as error:  # engines raise anything
        raise ExportError(
            f"The export was written, but {form.title} fails to run it: {_reason(error)}. It was removed.",
            others(name),
        ) from error
    if not parity.passed:
        raise ExportError(
            f"The export's predictions differ from the model's: {parity.failure}. Nothing was written.", others(name)
        )
    return replace(parity, export=str(path))


def _reason(error: BaseException) -> str:
    """The first line that says something; exporters wrap what went wrong into general words."""
    while error.__cause__ is not None:
        error = error.__cause__
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said[:300]}".rstrip(".:")


def _raise_if_disk(error: BaseException, path: Path) -> None:
    """A full disk is not the exporter's fault, however it is wrapped."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            raise cannot_write(path, cause) from error
        cause = cause.__cause__ or cause.__context__
