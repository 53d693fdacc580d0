"""OpenVINO's files, .xml with .bin: their engine, and the text that they carry, which is read without any package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualtoken.engines import ENGINES, KEY, MAIN, EngineKind
from dualtoken.errors import ModelError, require
from dualtoken.readers import parse_xml

_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}  # not bfloat16 where the CPU has it


class OpenvinoEngine:
    """The parts of an export in OpenVINO, on the CPU; it takes ONNX files too."""

    def __init__(self, files: Mapping[str, Path], *, threads: int | None = None) -> None:
        self._openvino = require("openvino", "runtime-openvino")
        self._core = self._openvino.Core()
        self._options = _EXACT | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        self._files = dict(files)
        self._compiled: dict[tuple[str, bool], Any] = {}
        self._ready(next(iter(files)), one=True)  # a file that cannot be loaded is found now

    def run(self, part: str, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Arrays in, in the order of the file's inputs, arrays out; floating point comes out as float32."""
        model = self._ready(part, one=len(inputs[0]) == 1)
        typed = [
            np.ascontiguousarray(array, port.get_element_type().to_dtype())
            for port, array in zip(model.inputs, inputs, strict=True)
        ]
        found = model(typed)
        arrays = [np.array(found[port]) for port in model.outputs]  # copied: the next run writes over its own
        return [array.astype(np.float32) if array.dtype == np.float16 else array for array in arrays]

    def _ready(self, part: str, *, one: bool) -> Any:
        """A part compiled for one image, or for any number; each when it is first needed.

        With an open number OpenVINO works out every shape again in each run, an eighth of the time of a small network.
        """
        one = one and part == MAIN  # the others' first input is a map, and boxes are never the same number
        if (part, one) not in self._compiled:
            try:
                model = self._core.read_model(str(self._files[part]))
                if one:
                    shapes = {port: [1, *list(port.partial_shape)[1:]] for port in model.inputs}
                    model.reshape({port: self._openvino.PartialShape(shape) for port, shape in shapes.items()})
                self._compiled[part, one] = self._core.compile_model(model, "CPU", dict(self._options))
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1].rstrip(".")
                version = self._openvino.__version__.split("-")[0]
                raise ModelError(
                    f"OpenVINO {version} cannot load {str(self._files[part])!r}: {reason}.",
                    "Export it again, or type: pip install --upgrade openvino",
                ) from error
        return self._compiled[part, one]


def read_text(path: Path) -> str | None:
    """What a .xml of OpenVINO's says under the key `dualtoken`; None where it says nothing.

    Raises:
        ModelError: it is not such a file, or its end is missing.
    """
    try:
        root = parse_xml(path.read_bytes(), str(path), error=ModelError)
    except ModelError as error:
        raise ModelError(
            f"{str(path)!r} is not a whole .xml file of OpenVINO's: {error.message}", "Copy or export it again."
        ) from None
    entry = root.find(f"./rt_info/{KEY}")
    return None if entry is None else entry.get("value")


ENGINES["openvino"] = EngineKind((".xml", ".onnx"), "openvino", "runtime-openvino", OpenvinoEngine, read_text)
