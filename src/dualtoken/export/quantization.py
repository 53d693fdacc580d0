"""Smaller and faster exports: INT8 where it pays, or only the weights in fewer bits.

quantize_export("model.onnx", "model.int8.onnx", "photos/")     measured before it is written, see guard.py
compress_weights("model.onnx", "model.fp16.onnx", bits=16)      fewer bytes, computed in float32 as before
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.data import ImageData, ImageFiles, find_split
from dualtoken.errors import ConfigError, ImageError, require
from dualtoken.evaluation import Evaluation, evaluate
from dualtoken.evaluation.sources import open_data
from dualtoken.export.formats import FORMATS, place_of
from dualtoken.export.guard import MAX_DROP, GuardReport, Quantizer, check_drop, quantize_with_guard
from dualtoken.export.marks import mark_onnx, mark_openvino
from dualtoken.export.onnx_int8 import OnnxQuantizer, finish_graph, halve_weights
from dualtoken.export.openvino_int8 import OpenVinoQuantizer
from dualtoken.export.quiet import quiet
from dualtoken.files import digest, refuse_existing, together
from dualtoken.images import DEFAULT_LIMITS
from dualtoken.prediction import Predictor, load
from dualtoken.prediction.exported import read_export

QUANTIZERS: dict[str, Any] = {".onnx": OnnxQuantizer, ".xml": OpenVinoQuantizer}
CALIBRATION_IMAGES = 128
_PRECISIONS = {16: "fp16", 8: "weights-int8", 4: "weights-int4"}
_BLOCK = 32  # weights that share a scale, where only weights have few bits


def quantize_export(
    source: str | Path,
    target: str | Path,
    data: str | Path | ImageData,
    *,
    max_drop: float = MAX_DROP,
    images: int = CALIBRATION_IMAGES,
    progress: bool = True,
    **options: Any,
) -> GuardReport:
    """Write an export's INT8 form, calibrated and measured on the user's own images.

    It is calibrated on training images and measured on the split that `evaluate` would take, by the task's main
    figure: top-1 accuracy, average precision, or mean IoU. Both the float32 file and the INT8 one run in the engine of
    the file. Further parts of a model (`model.boxes.onnx`) stay in float32.

    Args:
        source: the float32 `.onnx` or `.xml` that `export` wrote.
        target: of the same kind.
        data: labelled images, as `evaluate` takes them.
        max_drop: how much of the figure may be lost: 0.005 is half a point.
        images: how many calibrate.
        progress: show bars, on a terminal.
        **options: of `evaluate`, such as `split`, `labels`, `batch_size`, `on_bad_image`.

    Raises:
        ExportError: it would lose more, see `quantize_with_guard`. Nothing is written then.
        ConfigError: a file that INT8 is not made from here.
        OutputError: the target is there already, or cannot be written.
        DataError, ImageError, ModelError: as `evaluate`.
    """
    source, target = Path(source), Path(target)
    check_drop(max_drop)
    kind = _quantizer(source, target)
    info, own = read_export(source)[1], source.with_suffix(".bin").name
    beside = [source.with_name(name) for name in sorted({*info.parts.values(), *info.sha256} - {own})]
    _refuse_others(source, target, beside)
    predictor = load(source)
    found, _ = open_data(
        data, predictor, labels=options.get("labels", "auto"), on_bad_image=options.get("on_bad_image", "fail"),
        limits=options.get("limits", DEFAULT_LIMITS), progress=progress,
    )  # fmt: skip
    training = found.splits.get("train", find_split(found, options.get("split")))
    quantizer: Quantizer = kind(source, islice(_inputs(predictor, training), images))

    def measure(path: Path) -> float:
        return main_figure(evaluate(path, found, resamples=1, progress=progress, **options))

    _, report = quantize_with_guard(
        quantizer, measure, target, float_score=measure(source), max_drop=max_drop, beside=beside
    )
    return report


def _refuse_others(source: Path, target: Path, beside: Iterable[Path]) -> None:
    """Raises OutputError where something else has the name of a file to write."""
    for place in _with_weights(target):
        refuse_existing(place, "--output")
    for file in beside:
        place = target.with_name(file.name)
        if place.exists() and digest(place) != digest(file):
            refuse_existing(place, f"{file.name!r} belongs to {source.name!r} and goes beside --output, which")


def _with_weights(path: Path) -> list[Path]:
    """A file of OpenVINO's has its weights beside it."""
    return FORMATS["openvino" if path.suffix == ".xml" else "onnx"].files(path)


def main_figure(evaluation: Evaluation) -> float:
    """The figure that a task is judged by, in [0, 1]: top-1 accuracy, average precision (of masks), or mean IoU."""
    return evaluation.leading.value


def compress_weights(source: str | Path, target: str | Path, bits: int = 16) -> int:
    """Write an export with its weights in fewer bits; the network computes in float32 as before.

    16 bits halve the file and change answers by rounding alone, in any engine. 8 and 4 bits are for ONNX and are
    expanded as they are used: for size, not for speed. All parts of a model are written anew: `half.boxes.onnx`
    beside `half.onnx`.

    Args:
        source: the float32 `.onnx` or `.xml` that `export` wrote.
        target: of the same kind.
        bits: 16, 8 or 4.

    Returns:
        The size of what was written, in bytes.

    Raises:
        ConfigError: other bits, or a file that this is not made from.
        ModelError: there is no such export, or it is damaged.
        OutputError: the target is there already, or cannot be written.
        MissingExtraError: the format's package is not installed.
    """
    source, target = Path(source), Path(target)
    _quantizer(source, target)
    able = (16,) if source.suffix == ".xml" else (16, 8, 4)
    if bits not in able:
        kind = "OpenVINO" if source.suffix == ".xml" else "ONNX"
        raise ConfigError(f"bits is {bits}, expected {' or '.join(map(str, able))} for files of {kind}.")
    parts = read_export(source)[1].parts
    files = {part: target.with_name(place_of(target, part).name) for part in parts}
    for file in (file for place in (target, *files.values()) for file in _with_weights(place)):
        refuse_existing(file, "--output")
    write = _fewer_bits_openvino if source.suffix == ".xml" else _fewer_bits_onnx
    with together(target) as folder:
        places = {part: folder / file.name for part, file in files.items()}
        for part, name in parts.items():
            write(source.with_name(name), places[part], bits, {})
        write(source, folder / target.name, bits, places)
    return export_size(target)


def export_size(path: str | Path) -> int:
    """The bytes of an export with all files that belong to it.

    Raises:
        ModelError: there is no such export, or it is damaged.
    """
    path = Path(path)
    info = read_export(path)[1]
    return sum(path.with_name(name).stat().st_size for name in {path.name, *info.parts.values(), *info.sha256})


def _fewer_bits_onnx(source: Path, target: Path, bits: int, companions: Mapping[str, Path]) -> None:
    onnx = require("onnx", "onnx")
    model = onnx.load(str(source))
    if bits == 16:
        halve_weights(onnx, model, least_rank=1)
    else:
        model = _in_blocks(model, bits)
    finish_graph(onnx, model)
    mark_onnx(model, _PRECISIONS[bits], companions)
    onnx.save(model, str(target))


def _fewer_bits_openvino(source: Path, target: Path, bits: int, companions: Mapping[str, Path]) -> None:
    openvino = require("openvino", "openvino")
    openvino.save_model(openvino.Core().read_model(str(source)), str(target), compress_to_fp16=True)
    mark_openvino(target, _PRECISIONS[bits], companions)


def _quantizer(source: Path, target: Path) -> Any:
    if source.suffix not in QUANTIZERS or target.suffix != source.suffix:
        raise ConfigError(
            f"Smaller files are made of .onnx from .onnx and .xml from .xml, not of {target.name!r} from "
            f"{source.name!r}.",
            "Export the model to one of these first: dualtoken export MODEL --output model.onnx",
        )
    precision = read_export(source)[1].precision
    if precision != "fp32":
        raise ConfigError(f"{str(source)!r} is {precision} already.", "Give the float32 file that it was made of.")
    return QUANTIZERS[source.suffix]


def _inputs(predictor: Predictor, samples: ImageFiles) -> Iterator[NDArray[np.float32]]:
    """The network's input for images drawn evenly; those that cannot be read are passed over."""
    for place in np.random.default_rng(0).permutation(len(samples)).tolist():
        with suppress(ImageError):
            yield predictor.config.preprocessing(samples.open(place))[None]


def _in_blocks(model: Any, bits: int) -> Any:
    """The model with the weights of matrix products in 8 or 4 bits, a scale for each block of inputs."""
    home = "onnxruntime.quantization.matmul_nbits_quantizer"
    with quiet("", home):  # it tells of each node, and its import makes the root logger tell of everything
        made = require(home, "onnx").MatMulNBitsQuantizer(
            model, bits=bits, block_size=_BLOCK, is_symmetric=True, accuracy_level=1
        )
        made.process()
    return made.model.model
