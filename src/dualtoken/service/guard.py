"""What stands in front of every route: who may ask, how much, for how long; and what is counted of it."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dualtoken.service.batches import Meters, Settings

FREE = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})  # for those who watch the service


class Guard:
    """ASGI middleware with the limits of `settings`.

    Args:
        app: what it guards.
        settings: its limits.
        meters: gets every answer's route, status and time.
        token: that every request must carry but those of `FREE`; None where all may ask.
    """

    def __init__(self, app: ASGIApp, settings: Settings, meters: Meters, token: str | None) -> None:
        self.app, self.settings, self.meters = app, settings, meters
        self.token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, read = time.perf_counter(), 0, False
        most, length = self.settings.max_bytes, 0

        async def counted_receive() -> Message:
            nonlocal length, read
            message = await receive()
            length += len(message.get("body", b""))
            if length > most:
                raise HTTPException(413, _too_long(most))
            read = not message.get("more_body", False)
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            async with asyncio.timeout(self.settings.timeout):
                app: Any = self._refusal(scope) or self.app
                await app(scope, counted_receive, counted_send)
        except TimeoutError:
            if not status:
                limit = f"{self.settings.timeout:g} seconds, the limit"
                late = _error(503, f"The answer took longer than {limit}.") if read else (
                    _error(408, f"The request took longer than {limit}."))  # fmt: skip
                await late(scope, receive, counted_send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.meters.requests.labels(route, status or 500).inc()
            self.meters.seconds.labels(route).observe(time.perf_counter() - begun)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        given = headers.get("authorization", "").encode("latin-1")
        if self.token and scope["path"] not in FREE and not hmac.compare_digest(given, self.token):
            return _error(401, "The token is missing or wrong: send `Authorization: Bearer TOKEN`.",
                          {"WWW-Authenticate": "Bearer"})  # fmt: skip
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self.settings.max_bytes:
            return _error(413, _too_long(self.settings.max_bytes), {"Connection": "close"})
        return None


def _too_long(most: int) -> str:
    return f"The request is larger than {most:,} bytes, the limit."


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)
