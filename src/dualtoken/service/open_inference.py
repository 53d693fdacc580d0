"""KServe's open inference protocol, version 2, over HTTP: existing clients, such as Triton's, ask here too.

Source: https://github.com/kserve/open-inference-protocol, and Triton's extension for binary data. A model has one
input, `images`: files (BYTES, N; in JSON as base64) or pixels (UINT8, N x height x width x channels). `predictions`
(BYTES, N) are the answers as JSON; which arrays there are besides is the kind's to say (`Kind.arrays`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI, Path, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

import dualtoken
from dualtoken.errors import DataError
from dualtoken.readers import decoded, judged, parse_json
from dualtoken.service.batches import Served

_TYPES = {"f": "FP32", "i": "INT64", "u": "UINT8", "O": "BYTES"}  # by numpy's kind
_BINARY = "inference-header-content-length"
_WHERE = "the request"
# Told in the OpenAPI document: an image of one red pixel.
_EXAMPLE = {"inputs": [{"name": "images", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [255, 0, 0]}]}


@dataclass(frozen=True)
class Tensor:
    """An input."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inference:
    """A request."""

    inputs: list[Tensor]
    outputs: list[Wanted] = field(default_factory=list)
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


def add_open_inference(app: FastAPI, served: Mapping[str, Served], find: Callable[[str | None], Served]) -> None:
    """The routes under `/v2`."""
    schema = TypeAdapter(Inference).json_schema(ref_template="#/components/schemas/{model}")
    _add_schemas(app, schema.pop("$defs"))
    content = {"application/json": {"schema": schema, "example": _EXAMPLE}}
    body = {"requestBody": {"required": True, "content": content}}
    one_of = Path(json_schema_extra={"enum": [*served]})  # told, not checked: `find` says more

    @app.get("/v2")
    async def server() -> JSONResponse:
        return JSONResponse(
            {"name": "dualtoken", "version": dualtoken.__version__, "extensions": ["binary_tensor_data"]}
        )

    @app.get("/v2/health/live")
    async def live() -> JSONResponse:
        return JSONResponse({"live": True})

    @app.get("/v2/health/ready")
    async def all_ready() -> JSONResponse:
        return JSONResponse({"ready": True})

    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str = one_of) -> JSONResponse:
        return JSONResponse({"name": find(name).name, "ready": True})

    @app.get("/v2/models/{name}")
    async def model(name: str = one_of) -> JSONResponse:
        one = find(name)
        export = one.predictor.export
        outputs = one.predictor.kind.arrays([one.example]) | {"predictions": np.zeros(0, object)}
        told = [{"name": key, "datatype": _TYPES[array.dtype.kind], "shape": [-1, *array.shape[1:]]}
                for key, array in outputs.items()]  # fmt: skip
        return JSONResponse({
            "name": one.name, "versions": ["1"], "platform": f"dualtoken_{export.engine if export else 'torch'}",
            "inputs": [{"name": "images", "datatype": "BYTES", "shape": [-1]}], "outputs": told,
        })  # fmt: skip

    @app.post("/v2/models/{name}/infer", openapi_extra=body)
    async def infer(request: Request, name: str = one_of) -> Response:
        one = find(name)
        most = one.settings.max_queue
        with one.places():
            asked, rest = _parse(await request.body(), request.headers.get(_BINARY))
            images = _images(asked, rest)
            if len(images) > most:
                raise HTTPException(400, f"The request has {len(images)} images, expected {most} at most.")
        with one.places(len(images)):
            work = [one.answer(image, f"image {at}") for at, image in enumerate(images)]
            found = await asyncio.gather(*work, return_exceptions=True)  # all have ended when their places are free
        answers = [_answer(outcome) for outcome in found]

        def told() -> Response:
            texts = [json.dumps(answer.to_dict(), ensure_ascii=False).encode() for answer in answers]
            arrays = {"predictions": np.array(texts, object)} | one.predictor.kind.arrays(answers)
            return _response(one.name, asked, arrays)

        return await one.in_thread(told)  # masks become PNG files: meanwhile others are answered


def _add_schemas(app: FastAPI, schemas: Mapping[str, Any]) -> None:
    """Parts of a body that FastAPI does not read by itself, so that what refers to them in OpenAPI finds them."""
    usual = app.openapi

    def openapi() -> dict[str, Any]:
        told = usual()
        told["components"].setdefault("schemas", {}).update(schemas)
        return told

    app.openapi = openapi  # type: ignore[method-assign]


# ---------------------------------------------------------------- what comes


def _parse(body: bytes, header: str | None) -> tuple[Inference, memoryview]:
    """The request, and the binary data behind it."""
    if header is not None and not (header.isdecimal() and int(header[:20]) <= len(body)):
        raise DataError(f"{_BINARY} is {header[:20]!r}, expected the length of the JSON before the binary data.")
    end = len(body) if header is None else int(header)
    content = parse_json(decoded(body[:end], _WHERE), _WHERE)
    return judged(content, Inference, _WHERE), memoryview(body)[end:]


def _images(asked: Inference, rest: memoryview) -> list[Any]:
    if len(asked.inputs) != 1 or asked.inputs[0].name != "images":
        raise DataError(f"The inputs are {[part.name for part in asked.inputs]}, expected one, 'images'.")
    (given,) = asked.inputs
    size = given.parameters.get("binary_data_size")
    if size is None and given.data is None:
        raise DataError("'images' has neither data nor binary_data_size.")
    if size is not None and size != len(rest):
        raise DataError(f"binary_data_size is {size}, but {len(rest):,} bytes follow the JSON.")
    if not given.shape or min(given.shape) < 1:
        raise DataError(f"'images' has the shape {given.shape}, expected one image or more.")
    if given.datatype == "BYTES":
        images = _from_base64(given.data or []) if size is None else _cut(rest)
        if given.shape != [len(images)]:
            raise DataError(f"'images' has the shape {given.shape}, but there are {len(images)}.")
        return images
    if given.datatype == "UINT8" and len(given.shape) == 4:
        return list(_pixels(given, rest))
    raise DataError(
        f"'images' is {given.datatype} of {len(given.shape)} axes,"
        " expected BYTES (N), or UINT8 (N, height, width, channels)."
    )


def _pixels(given: Tensor, rest: memoryview) -> NDArray[np.uint8]:
    """Numbers of JSON, flat or nested, or those of the binary data."""
    flat = np.frombuffer(rest, np.uint8) if given.data is None else _whole_numbers(given.data)
    if flat.size != math.prod(given.shape):
        raise DataError(f"'images' has {flat.size:,} numbers, its shape {given.shape} means others.")
    return flat.reshape(given.shape)


def _whole_numbers(data: list[Any]) -> NDArray[np.uint8]:
    try:
        numbers = np.array(data).ravel()
        if numbers.dtype.kind in "iu" and numbers.min() >= 0 and numbers.max() <= 255:  # numpy would cut a 0.9 to 0
            return numbers.astype(np.uint8)
    except ValueError:  # lists of different lengths
        pass
    raise DataError("'images' holds something other than whole numbers from 0 to 255.")


def _from_base64(texts: list[Any]) -> list[bytes]:
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, TypeError, ValueError):
        raise DataError("'images' holds something other than base64: so files are written in JSON.") from None


def _cut(rest: memoryview) -> list[bytes]:
    """Each is its length, four bytes, the lowest first, and then itself."""
    found, place = [], 0
    while place < len(rest):
        start = place + 4
        place = start + int.from_bytes(rest[place:start], "little")
        if place > len(rest):
            raise DataError("The binary data of 'images' end within an image.")
        found.append(bytes(rest[start:place]))
    return found


# ---------------------------------------------------------------- what goes


def _answer(outcome: tuple[Any, Any] | BaseException) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome[0]


def _response(name: str, asked: Inference, arrays: Mapping[str, NDArray[Any]]) -> Response:
    wanted = asked.outputs or [Wanted(key) for key in arrays]
    if len({one.name for one in wanted}) < len(wanted):  # a small request could ask for any number of answers
        raise DataError("An output is asked for twice.")
    if unknown := [one.name for one in wanted if one.name not in arrays]:
        raise DataError(f"There is no output {unknown[0]!r}: outputs are {', '.join(arrays)}.")
    told, rest = [], b""
    for one in wanted:
        array = arrays[one.name]
        entry: dict[str, Any] = {
            "name": one.name, "datatype": _TYPES[array.dtype.kind], "shape": list(array.shape)}  # fmt: skip
        if one.parameters.get("binary_data", asked.parameters.get("binary_data_output", False)):
            content = _joined(array) if array.dtype == object else array.tobytes()
            entry["parameters"] = {"binary_data_size": len(content)}
            rest += content
        else:
            entry["data"] = [text.decode() for text in array] if array.dtype == object else array.ravel().tolist()
        told.append(entry)
    said = {"model_name": name, "model_version": "1", "outputs": told} | ({"id": asked.id} if asked.id else {})
    head = json.dumps(said, ensure_ascii=False).encode()
    if not rest:
        return Response(head, media_type="application/json")
    return Response(head + rest, media_type="application/octet-stream", headers={_BINARY: str(len(head))})


def _joined(array: NDArray[Any]) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in array)
