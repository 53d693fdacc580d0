"""The routes of the service: predictions, what models there are, and whether all is well."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

import dualtoken
from dualtoken.errors import ConfigError, DataError, ImageError, shown_name, unknown_name
from dualtoken.prediction import Predictor
from dualtoken.service.batches import BusyError, Meters, Served, Settings
from dualtoken.service.guard import Guard
from dualtoken.service.open_inference import add_open_inference

_QUALITY = 92  # of JPEG pictures
_FILE = {"type": "string", "format": "binary"}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "An image: the bytes of its file, or a form with the file in it.",
        "content": {
            "application/octet-stream": {"schema": _FILE},
            "image/*": {"schema": _FILE},
            "multipart/form-data": {"schema": {"type": "object", "properties": {"file": _FILE}, "required": ["file"]}},
        },
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "image/jpeg": {"schema": _FILE}}},
    400: {"description": "No image, or one that cannot be read"},
    401: {"description": "The token is missing or wrong"},
    404: {"description": "No such model"},
    408: {"description": "The request came too slowly"},
    413: {"description": "The request is too large"},
    429: {"description": "Too many images are on their way: try again after `Retry-After` seconds"},
    503: {"description": "The answer took too long"},
}


def create_app(models: Mapping[str, Predictor], settings: Settings | None = None, token: str | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        models: by the names that clients call them by; the first answers where a request names none.
        settings: what it may cost.
        token: that requests must carry; None where all may ask.
    """
    settings, meters = settings or Settings(), Meters()
    served = {name: Served(name, model, settings, meters) for name, model in models.items()}

    def find(name: str | None) -> Served:
        if name is not None and name not in served:
            raise HTTPException(404, unknown_name("model", name, served))
        return served[name or next(iter(served))]

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for one in served.values():
                await stack.enter_async_context(one)
            yield

    app = FastAPI(
        title="DualToken", version=dualtoken.__version__, lifespan=life,
        docs_url=None, redoc_url=None,  # these pages load scripts from elsewhere
        dependencies=[Security(HTTPBearer(auto_error=False))] if token else [],
    )  # fmt: skip
    app.add_middleware(Guard, settings=settings, meters=meters, token=token)
    _answer_errors(app)

    @app.post("/v1/predict", openapi_extra=_BODY, responses=_ANSWERS)
    async def predict(
        request: Request,
        model: str | None = None,
        output: Literal["json", "picture"] = "json",
        threshold: Annotated[float | None, Query(ge=0, le=1)] = None,
        top: Annotated[int, Query(ge=1)] = 5,
    ) -> Response:
        """Predict for an image: as JSON, or as a JPEG with boxes, masks or the class drawn."""
        one, begun = find(model), time.perf_counter()
        predictor, drawn = one.predictor, output == "picture"
        if threshold is not None and "threshold" not in predictor.kind.options:
            raise HTTPException(400, f"threshold has no meaning for {predictor.kind.name.replace('_', ' ')}.")
        with one.places():
            name, content = await _image(request)
            answer, image = await one.answer(content, name or "the image", threshold=threshold, keep=drawn)
            if image is not None:
                return Response(
                    await one.in_thread(lambda: _picture(predictor, image, answer)), media_type="image/jpeg"
                )
        prediction = await one.in_thread(lambda: answer.to_dict(top) | {"path": name})  # many masks take seconds
        told = {"model": one.name, "task": predictor.kind.name, "prediction": prediction}
        return JSONResponse(told | {"milliseconds": round(1000 * (time.perf_counter() - begun), 3)})

    @app.get("/v1/models", responses={401: _ANSWERS[401]})
    async def list_models() -> JSONResponse:
        """The models, the first of which answers where none is named."""
        return JSONResponse({"models": [_told(one) for one in served.values()]})

    @app.get("/health")
    async def health() -> JSONResponse:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Models are loaded and have answered once."""
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=Response, responses={401: _ANSWERS[401]})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)

    add_open_inference(app, served, find)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Errors as JSON: the client's own in words; of ours nothing but that there was one, the rest is in the log."""

    @app.exception_handler(ImageError)
    @app.exception_handler(ConfigError)
    @app.exception_handler(DataError)
    async def mistaken(_: Request, error: ImageError | ConfigError | DataError) -> JSONResponse:
        return JSONResponse({"error": error.message}, 400)

    @app.exception_handler(BusyError)
    async def busy(*_: object) -> JSONResponse:
        return JSONResponse({"error": "Too many images are on their way: try again."}, 429, {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(f"{part['loc'][-1]}: {part['msg']}" for part in error.errors())
        return JSONResponse({"error": told}, 400)

    @app.exception_handler(Exception)
    async def failed(*_: object) -> JSONResponse:
        return JSONResponse({"error": "The service failed: its log says why."}, 500)


async def _image(request: Request) -> tuple[str | None, bytes]:
    """Name and bytes of the image that a request brings."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return None, await request.body()
    async with request.form(max_files=1, max_fields=8) as form:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if not files:
            raise HTTPException(400, "The form has no file: send the image as a file of the form.")
        return shown_name(files[0].filename or "") or None, await files[0].read()


def _picture(predictor: Predictor, image: Any, answer: Any) -> bytes:
    file = io.BytesIO()
    (predictor.kind.draw(image, answer) or image.convert("RGB")).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _told(one: Served) -> dict[str, Any]:
    config, export = one.predictor.config, one.predictor.export
    return {
        "name": one.name, "task": one.predictor.kind.name, "classes": list(config.classes),
        "architecture": config.architecture, "image_size": list(config.preprocessing.image_size),
        "engine": export.engine if export else "torch", "precision": export.info.precision if export else "fp32",
    }  # fmt: skip
