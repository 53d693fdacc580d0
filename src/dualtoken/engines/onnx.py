"""ONNX files: their engine, onnxruntime, and the text that they carry, which is read without any package."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dualtoken.engines import ENGINES, KEY, EngineKind
from dualtoken.errors import ModelError, first_line, require

_METADATA = 14  # the field of ONNX's ModelProto with pairs of texts; in a pair 1 is the key, 2 the value
_VARINT, _BYTES = 0, 2  # protobuf's wire types
_FIXED = {1: 8, 5: 4}  # and those of so many bytes
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
_CPU = ["CPUExecutionProvider"]


class OnnxEngine:
    """The parts of an export in onnxruntime, on the CPU; the same inputs give the same bits each time.

    Without `threads` it takes one a core.
    """

    def __init__(self, files: Mapping[str, Path], *, threads: int | None = None) -> None:
        runtime = require("onnxruntime", "runtime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3  # errors, which come as exceptions too
        self._sessions = {part: _session(runtime, path, options) for part, path in files.items()}

    def run(self, part: str, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Arrays in, in the order of the file's inputs, arrays out; floating point comes out as float32."""
        session = self._sessions[part]
        named = {
            node.name: np.ascontiguousarray(array, _TYPES.get(node.type))
            for node, array in zip(session.get_inputs(), inputs, strict=True)
        }
        found = session.run(None, named)
        return [array.astype(np.float32) if array.dtype == np.float16 else array for array in found]


def read_text(path: Path) -> str | None:
    """What an ONNX file says under the key `dualtoken`; None where it says nothing.

    Raises:
        ModelError: it is not an ONNX file, or its end is missing.
    """
    try:
        with path.open("rb") as file:
            for number, value in _fields(file, path.stat().st_size, wanted=_METADATA):
                if number == _METADATA and (text := _value_of(value)) is not None:
                    return text
    except _CutOffError:
        raise ModelError(
            f"{str(path)!r} is not a whole ONNX file: its end is missing, or it is something else.",
            "Copy or export it again.",
        ) from None
    return None


def _session(runtime: Any, path: Path, options: Any) -> Any:
    try:
        return runtime.InferenceSession(str(path), options, providers=_CPU)
    except Exception as error:  # a class of its own for each reason, which all derive from nothing else
        raise ModelError(
            f"onnxruntime {runtime.__version__} cannot load {str(path)!r}: {first_line(error)}.",
            "Export it again, or type: pip install --upgrade onnxruntime",
        ) from error


# ---------------------------------------------------------------- protobuf, as much as that text needs


class _CutOffError(Exception):
    pass


def _value_of(pair: bytes) -> str | None:
    """The text of a pair whose key is ours."""
    parts = dict(_fields(io.BytesIO(pair), len(pair)))
    return parts.get(2, b"").decode("utf-8", "replace") if parts.get(1) == KEY.encode() else None


def _fields(file: BinaryIO, end: int, wanted: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Number and content of a message's fields that hold bytes; those that are not `wanted` are passed over."""
    while file.tell() < end:
        number, kind = divmod(_varint(file), 8)
        if kind == _VARINT:
            _varint(file)
            continue
        if kind != _BYTES and kind not in _FIXED:
            raise _CutOffError
        length = _varint(file) if kind == _BYTES else _FIXED[kind]
        if number == 0 or file.tell() + length > end:
            raise _CutOffError
        if kind == _BYTES and wanted in (None, number):
            yield number, file.read(length)
        else:
            file.seek(length, 1)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise _CutOffError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _CutOffError


ENGINES["onnx"] = EngineKind((".onnx",), "onnxruntime", "runtime", OnnxEngine, read_text, parallel=True)
